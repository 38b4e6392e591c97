"""Build lhotse cuts from a Kaldi data directory and its stored features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Tuple

import numpy as np
from lhotse import Features, MonoCut, Recording, RecordingSet, SupervisionSet
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from sdpn_k2.config import FeaturesConfig
from sdpn_k2.data.manifest_files import load_manifest, parse_item, read_lines
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import read_numbers
from sdpn_k2.kaldi.formats.tables import read_table

KALDI_FBANK = "kaldi-fbank"  # type of the features that cuts get here


def load_kaldi_fbank(cut: Cut, config: FeaturesConfig) -> Optional[np.ndarray]:
    """Return the fbank ``(frames, bins)`` of a cut that ``feature_cuts`` made, if it fits ``config``; None for others.

    Raises:
        InputError: features that cannot be read.
    """
    if not isinstance(cut, MonoCut) or cut.features is None or cut.features.type != KALDI_FBANK:
        return None
    if config.kind != "fbank" or cut.num_features != config.num_mel_bins or cut.sampling_rate != config.sample_rate:
        return None
    try:
        return np.asarray(cut.load_features(), np.float32)
    except Exception as error:  # lhotse's storage backends raise many kinds
        raise InputError(f"cannot read its features: {' '.join(str(error).split())[:200]}") from error


def feature_cuts(data: Path, name: str, features: FeaturesConfig) -> Iterator[MonoCut]:
    """Yield one cut per utterance of ``DATA/<name>``, with its recording, supervision and fbank from ``feats.scp``.

    Utterances without features (too short, or skipped during extraction) get no cut.

    Raises:
        InputError: a manifest or table of an earlier stage is missing or broken; the dimension of the features is not
            the one in ``features``.
    """
    directory = data / name
    find_recording = _recording_finder(data / "manifests" / f"recordings_{name}.jsonl.gz")
    num_frames = read_numbers(directory / "utt2num_frames")
    feats_scp = str((directory / "feats.scp").resolve())
    dimension = _feature_dimension(feats_scp)
    if features.kind == "fbank" and dimension != features.num_mel_bins:
        raise InputError(
            f"{directory / 'feats.scp'}: features of {dimension} dimensions, but features.num_mel_bins = "
            f"{features.num_mel_bins}: use the config they were computed with, or compute them again"
        )
    frame_shift = features.frame_shift_ms / 1000
    for supervision in load_manifest(data / "manifests" / f"supervisions_{name}.jsonl.gz", SupervisionSet):
        recording = find_recording(supervision.recording_id)
        if supervision.id not in num_frames:
            continue
        frames = int(num_frames[supervision.id])
        # Kaldi's last whole window ends up to 20 ms before the audio. lhotse requires cuts as long as their frames, so
        # the cut ends there too, as in lhotse's own import of Kaldi directories.
        duration = round(frames * frame_shift, 6)
        stored = Features(
            type=KALDI_FBANK,
            num_frames=frames,
            num_features=dimension,
            frame_shift=frame_shift,
            sampling_rate=features.sample_rate,
            start=supervision.start,
            duration=duration,
            storage_type="kaldiio",
            storage_path=feats_scp,
            storage_key=supervision.id,
            recording_id=supervision.recording_id,
            channels=supervision.channel,
        )
        yield MonoCut(
            id=supervision.id,
            start=supervision.start,
            duration=duration,
            channel=supervision.channel if isinstance(supervision.channel, int) else supervision.channel[0],
            recording=recording,
            supervisions=[fastcopy(supervision, start=0.0, duration=duration)],
            features=stored,
        )


def _recording_finder(path: Path) -> Callable[[str], Recording]:
    """Return a function that finds the recordings of a manifest by id, most quickly in the order of the manifest.

    It holds one recording. When first asked out of order, it reads all lines into memory.
    """
    in_order = iter(load_manifest(path, RecordingSet))
    current = next(in_order, None)
    others: Dict[str, Tuple[int, bytes]] = {}

    def find(name: str) -> Recording:
        nonlocal current
        if current is not None and not others and current.id != name:
            current = next(in_order, None)
        if current is None or current.id != name:
            if not others:
                lines = enumerate(read_lines(path), start=1)
                others.update((json.loads(line)["id"], (number, line)) for number, line in lines)
            if name not in others:
                raise InputError(f"{path}: recording '{name}', to which a supervision refers, is missing")
            number, line = others[name]
            current = parse_item(line, path, number, RecordingSet)
        return current

    return find


def _feature_dimension(feats_scp: str) -> int:
    """Return the number of columns of the first matrix. Raises InputError."""
    with read_table(f"scp:{feats_scp}", "matrix") as table:
        for _, matrix in table:
            return matrix.shape[1]
    raise InputError(f"{feats_scp}: the table has no features")
