"""lhotse cuts: one per utterance with its stored fbank, and the manifest that training reads.

Manifests are lhotse's own ``.jsonl`` or ``.jsonl.gz``; ``lhotse cut …`` works on them.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Tuple, Union

import numpy as np
from lhotse import CutSet, Features, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item
from lhotse.utils import fastcopy

from sdpn_k2.config import Config, FeaturesConfig
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.formats.tables import read_table

# What manifests hold: the class of an item, and its name.
ITEMS = {
    CutSet: (Cut, "cut"),
    RecordingSet: (Recording, "recording"),
    SupervisionSet: (SupervisionSegment, "supervision"),
}


def feature_cuts(data: Path, name: str, features: FeaturesConfig) -> Iterator[MonoCut]:
    """One cut per utterance of ``DATA/<name>``, with recording, supervision and the fbank of ``feats.scp``.

    Utterances without features (too short, or skipped when features were made) have no cut.

    Raises:
        InputError: a manifest or table of an earlier stage is missing or broken; features of another dimension than
            ``features`` says.
    """
    directory = data / name
    recordings = load_manifest(data / "manifests" / f"recordings_{name}.jsonl.gz", RecordingSet).to_eager()
    num_frames = read_map(directory / "utt2num_frames")
    feats_scp = str((directory / "feats.scp").resolve())
    dimension = _feature_dimension(feats_scp)
    if features.kind == "fbank" and dimension != features.num_mel_bins:
        raise InputError(
            f"{directory / 'feats.scp'}: features of {dimension} dimensions, but features.num_mel_bins = "
            f"{features.num_mel_bins}: take the config that they were made for, or make them again"
        )
    frame_shift = features.frame_shift_ms / 1000
    for supervision in load_manifest(data / "manifests" / f"supervisions_{name}.jsonl.gz", SupervisionSet):
        if supervision.id not in num_frames:
            continue
        frames = int(num_frames[supervision.id])
        # Kaldi's frames end with the last whole window, some 20 ms before the audio does. lhotse wants cuts to last as
        # long as their frames, so the cut ends there too, as in lhotse's own import of Kaldi directories.
        duration = round(frames * frame_shift, 6)
        stored = Features(
            type="kaldi-fbank",
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
            recording=recordings[supervision.recording_id],
            supervisions=[fastcopy(supervision, start=0.0, duration=duration)],
            features=stored,
        )


def _feature_dimension(feats_scp: str) -> int:
    """Columns of the first matrix. Raises InputError."""
    with read_table(f"scp:{feats_scp}", "matrix") as table:
        for _, matrix in table:
            return matrix.shape[1]
    raise InputError(f"{feats_scp}: no features in it")


@dataclass
class CutSelection:
    """What :func:`select_cuts` kept and dropped. Durations are in seconds."""

    utterances: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    dropped_short: int = 0
    wrapped: int = 0
    global_crops: int = 0
    local_crops: int = 0

    def lines(self) -> str:
        """The summary for people."""
        return (
            f"{self.utterances} utterances, {self.seconds / 3600:.2f} hours; {self.dropped_short} dropped as too short; "
            f"{self.wrapped} shorter than a global crop, to be wrapped; "
            f"{self.global_crops} global and {self.local_crops} local crops an epoch"
        )


def select_cuts(cuts: Iterable[MonoCut], config: Config, summary: CutSelection) -> Iterator[MonoCut]:
    """The cuts to train on: long enough, and without any speaker label. Counts go into ``summary``.

    Crops themselves are drawn anew in every epoch (:class:`sdpn_k2.data.multi_crop.MultiCropDataset`).

    Raises:
        InputError: at the end, when a crop is longer than the longest utterance (by more than the window of its last
            frame, before which cuts with features end): every single one would be wrapped.
    """
    crops = config.crops
    for cut in cuts:
        if cut.duration < crops.min_seconds:
            summary.dropped_short += 1
            continue
        summary.utterances += 1
        summary.seconds += cut.duration
        summary.longest = max(summary.longest, cut.duration)
        summary.wrapped += cut.duration < crops.global_seconds
        summary.global_crops += crops.num_global
        summary.local_crops += crops.num_local
        yield cut.drop_supervisions()
    if summary.utterances:
        check_crop_lengths(config, summary.longest)


def check_crop_lengths(config: Config, longest: float) -> None:
    """Raises InputError when a crop is longer than the longest utterance, in seconds, of all that are trained on."""
    window = config.features.frame_length_ms / 1000
    for name, seconds in (("global", config.crops.global_seconds), ("local", config.crops.local_seconds)):
        if seconds > longest + window:
            raise InputError(
                f"crops.{name}_seconds = {seconds:g} is longer than the longest utterance, "
                f"{longest:.2f} s: take shorter crops"
            )


def load_manifest(path: Path, kind: type = CutSet):
    """A lazily opened lhotse manifest of ``kind``: CutSet, RecordingSet or SupervisionSet.

    Raises:
        InputError: no such file; as the manifest is read, a file that is cut short, or a line that is no such item.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such manifest; run the stage that writes it first")
    return kind(_Items(path, kind))


class _Items:
    """The items of a ``.jsonl`` or ``.jsonl.gz``, which is read anew by each iteration."""

    def __init__(self, path: Path, kind: type):
        self.path, self.kind = path, kind

    def __iter__(self) -> Iterator:
        number = 0
        try:
            with open(self.path, "rb") as stream:
                packed = stream.read(2) == b"\x1f\x8b"
            with gzip.open(self.path) if packed else open(self.path, "rb") as stream:
                for number, line in enumerate(stream, start=1):
                    yield _parse(line, self.path, number, self.kind)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{self.path}: cannot read the manifest beyond line {number}: {error}") from error


def _parse(line: bytes, path: Path, number: int, kind: type) -> Any:
    """The item in line ``number`` of a manifest of ``kind``. Raises InputError."""
    wanted, name = ITEMS[kind]
    try:
        item = deserialize_item(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: line {number} is not a lhotse {name}: {error}") from error
    if not isinstance(item, wanted):
        raise InputError(f"{path}: line {number} is not a lhotse {name}, but a {type(item).__name__}")
    return item


def write_manifest(items: Iterable, path: Path, allow_empty: bool = False) -> int:
    """Write lhotse items as ``.jsonl.gz``, atomically; returns how many.

    Raises:
        InputError: there is none (unless ``allow_empty``), or the file cannot be written.
    """
    count = 0
    with atomic_output(path) as stream:
        # No time and no name in the gzip header: the same items give the same bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0, compresslevel=5) as packed:
            for item in items:
                packed.write(json.dumps(item.to_dict(), ensure_ascii=False).encode("utf-8") + b"\n")
                count += 1
        if not count and not allow_empty:
            raise InputError(f"{path}: nothing to write: not one usable item")
    return count


class CutTable:
    """Random access to a cut manifest of any size: one byte buffer, each cut parsed when it is asked for.

    A million cuts take 1 GB or so, once: loader processes share it after fork, since no Python object is touched.
    """

    def __init__(self, path: Union[str, Path]):
        """Read ``path`` (``.jsonl`` or ``.jsonl.gz``).

        Raises:
            InputError: missing, empty or broken file.
        """
        self.path = Path(path)
        try:
            data = self.path.read_bytes()
            if data[:2] == b"\x1f\x8b":
                data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{self.path}: cannot read the cut manifest: {error}") from error
        if not data.strip():
            raise InputError(f"{self.path}: no cuts in it")
        self._buffer = np.frombuffer(data if data.endswith(b"\n") else data + b"\n", np.uint8)
        self._ends = np.flatnonzero(self._buffer == ord("\n"))

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """The cuts' indices in random order."""
        return rng.permutation(len(self))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> MonoCut:
        return _parse(self._line(index), self.path, index + 1, CutSet)

    def spans(self) -> Iterator[Tuple[str, float, float]]:
        """Id, start and duration (seconds) of each cut. Raises InputError."""
        for index in range(len(self)):
            try:
                item = json.loads(self._line(index))
                yield item["id"], item["start"], item["duration"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{self.path}: line {index + 1} is not a lhotse cut: {error}") from error

    def _line(self, index: int) -> bytes:
        start = self._ends[index - 1] + 1 if index else 0
        return self._buffer[start : self._ends[index]].tobytes()
