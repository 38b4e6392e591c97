"""Features of utterances: those that a data directory or cuts store, or those that a front end computes from audio."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Collection, Dict, Iterable, Iterator, Optional, Set, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.config import FeaturesConfig
from sdpn_k2.data.fbank_config import check_sample_rate
from sdpn_k2.errors import InputError, Skipped
from sdpn_k2.inference.long_recordings import SILENT, LongFeatures, long_entry
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.datadir.utterances import read_parts, read_utterances
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.sound import check_not_silent
from sdpn_k2.kaldi.formats.tables import RandomReader, read_table
from sdpn_k2.kaldi.formats.words import is_key
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.signal.front_end import FrontEnd
from sdpn_k2.signal.silence import is_silent, signal_frames, silent_runs

if TYPE_CHECKING:
    from lhotse.cut import Cut

# An utterance and its features (frames, bins), not normalised; LongFeatures only where they are asked for.
Features = Union[Tuple[str, Tensor], Skipped]


def is_data_dir(data: Path) -> bool:
    """Return whether ``data`` is a folder without shards of lhotse, and thus a Kaldi data directory."""
    return data.is_dir() and next(data.glob("cuts.*.jsonl.gz"), None) is None


def read_cut_features(path: Path, config: FeaturesConfig, front_end: FrontEnd) -> Tuple[int, Iterator[Features]]:
    """Return the number of cuts in a manifest or a Shar folder, and an iterator over their features.

    For models on Kaldi's fbank, features that ``sdpn-k2 cuts`` attached are read. All others are computed from audio
    by ``front_end``, on its device; padded, appended and mixed cuts are mixed first.

    Raises:
        InputError: no such file; a duplicate id, or one with white space, which cannot be a key of Kaldi's; while
            iterating: a broken manifest.
    """
    from sdpn_k2.data.cut_sets import CutSetReader  # here, since lhotse takes a second to import

    cuts = CutSetReader(path)
    ids: Set[str] = set()
    for cut in cuts:
        if cut.id in ids or not is_key(cut.id):
            raise InputError(f"{path}: cut '{cut.id}': {'duplicate id' if cut.id in ids else 'white space in the id'}")
        ids.add(cut.id)
    return len(ids), _of_cuts(cuts, config, front_end)


def read_features(
    data_dir: Path,
    config: FeaturesConfig,
    front_end: FrontEnd,
    only: Optional[Collection[str]] = None,
    every_frame: bool = False,
    long_as_chunks: bool = False,
) -> Tuple[int, Iterator[Features]]:
    """Return the number of utterances in a data directory, and an iterator over their features.

    For models on Kaldi's fbank, ``feats.scp`` is read if it exists (CPU tensors). Otherwise ``front_end`` computes the
    features on its device from ``wav.scp`` and ``segments``: of every frame, or without digital silence. With
    ``long_as_chunks``, those of long recordings are :class:`LongFeatures`. Of stored features, ``only`` those
    utterances are read, if it is given; ids without features are passed over.

    Raises:
        InputError: neither table exists; features that steps/make_fbank.sh computed at another sample rate; while
            iterating: features of another dimension, broken tables.
    """
    stored = data_dir / "feats.scp"
    if config.kind == "fbank" and stored.is_file():
        check_sample_rate(data_dir, config)
        entries = read_table(f"scp:{stored}", "matrix") if only is None else _chosen(stored, only)
        return len(read_map(stored)), _stored(stored, entries, config)
    if not (data_dir / "wav.scp").is_file():
        tables = "feats.scp or wav.scp" if config.kind == "fbank" else f"wav.scp (the model computes {config.kind})"
        raise InputError(f"{data_dir}: needs {tables}")
    return len(read_parts(data_dir)), _computed(data_dir, config, front_end, every_frame, long_as_chunks)


def compute_features(
    front_end: FrontEnd, waveform: np.ndarray, config: FeaturesConfig, every_frame: bool = False
) -> Tensor:
    """Return the features of one waveform ``(samples,)`` in ±1, on the front end's device.

    Args:
        front_end: computes them.
        waveform: the waveform.
        config: decides whether digital silence is cut out.
        every_frame: never cut anything, since something else counts the frames.

    Raises:
        InputError: fewer than 5 frames; equal samples throughout; digital silence, if the configuration drops it.
    """
    if front_end.num_frames(len(waveform)) < EcapaTdnn.MIN_FRAMES:
        raise InputError(f"{len(waveform)} samples are fewer than {EcapaTdnn.MIN_FRAMES} frames")
    check_not_silent(waveform)
    device = next(front_end.buffers()).device
    samples = torch.as_tensor(np.ascontiguousarray(waveform), dtype=torch.float32, device=device)
    if config.silence == "drop" and not every_frame:
        samples = samples[~silent_runs(samples[None], front_end.shift)[0]]
        if not len(samples):
            raise InputError(SILENT)
        if front_end.num_frames(len(samples)) < EcapaTdnn.MIN_FRAMES:
            raise InputError(f"{len(samples)} samples besides silence are fewer than {EcapaTdnn.MIN_FRAMES} frames")
    return front_end(samples[None])[0]


def embeddable_frames(features: Tensor, config: FeaturesConfig) -> Tensor:
    """Return the frames of an utterance ``(frames, bins)`` that are embedded: all, or those with a signal.

    Raises:
        InputError: fewer than 5 such frames; silence; NaN or infinite values.
    """
    if len(features) < EcapaTdnn.MIN_FRAMES:
        raise InputError(f"{len(features)} frames; at least {EcapaTdnn.MIN_FRAMES} are needed")
    if not torch.isfinite(features).all():
        raise InputError("NaN or infinite features")
    if (features == features[:1]).all():
        raise InputError("silent: every frame has the same features")
    if config.silence == "keep":
        return features
    signal = signal_frames(features)
    if int(signal.sum()) < EcapaTdnn.MIN_FRAMES:
        raise InputError(
            f"{int(signal.sum())} frames without digital silence; at least {EcapaTdnn.MIN_FRAMES} are needed"
        )
    return features if bool(signal.all()) else features[signal]


def _of_cuts(cuts: Iterable[Cut], config: FeaturesConfig, front_end: FrontEnd) -> Iterator[Features]:
    from sdpn_k2.data.cut_sets import load_cut_audio
    from sdpn_k2.data.feature_cuts import load_kaldi_fbank

    for cut in cuts:
        try:
            stored = load_kaldi_fbank(cut, config)
            if stored is not None:
                yield _unless_silent(cut.id, stored, config)
                continue
            samples = load_cut_audio(cut)
            check_not_silent(samples)  # resampling makes edges
            samples = resample(samples, cut.sampling_rate, config.sample_rate)
            yield cut.id, compute_features(front_end, samples, config)
        except InputError as error:
            yield Skipped(cut.id, str(error))


def _chosen(scp: Path, only: Collection[str]) -> Iterator[Tuple[str, np.ndarray]]:
    with RandomReader(f"scp:{scp}", "matrix") as table:
        for key in only:
            if key in table:
                yield key, table[key]


def _stored(scp: Path, entries: Iterable[Tuple[str, np.ndarray]], config: FeaturesConfig) -> Iterator[Features]:
    for key, fbank in entries:
        if fbank.shape[1] != config.num_mel_bins:
            raise InputError(
                f"{scp}: features of '{key}' have {fbank.shape[1]} dimensions; the model needs {config.num_mel_bins}"
            )
        yield _unless_silent(key, fbank, config)


def _unless_silent(key: str, fbank: np.ndarray, config: FeaturesConfig) -> Features:
    features = torch.from_numpy(fbank)
    if config.silence == "drop" and len(features) and bool(is_silent(features)):
        return Skipped(key, SILENT)
    return key, features


def _computed(
    data_dir: Path, config: FeaturesConfig, front_end: FrontEnd, every_frame: bool, long_as_chunks: bool
) -> Iterator[Any]:
    long: Dict[str, Tuple[str, int]] = {}
    if long_as_chunks and not (data_dir / "segments").is_file():
        entries = read_map(data_dir / "wav.scp").items()
        found = {key: long_entry(entry, config.sample_rate) for key, entry in entries}
        long = {key: each for key, each in found.items() if each is not None}
    others = read_utterances(data_dir, config.sample_rate, skip=long)
    for part in read_parts(data_dir):
        if part.utterance in long:
            path, channel = long[part.utterance]
            try:
                yield part.utterance, LongFeatures(front_end, path, config, channel)
            except InputError as error:
                yield Skipped(part.utterance, str(error))
            continue
        item = next(others)
        if isinstance(item, Skipped):
            yield item
            continue
        key, samples = item
        try:
            yield key, compute_features(front_end, samples, config, every_frame)
        except InputError as error:
            yield Skipped(key, str(error))
