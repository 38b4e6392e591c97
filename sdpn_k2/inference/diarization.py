"""Windowed x-vectors with their times, as Kaldi's diarization scripts and VBx read them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError, Skipped
from sdpn_k2.files import make_folder
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi.backend.pca import pca_transform
from sdpn_k2.kaldi.backend.plda import read_plda
from sdpn_k2.kaldi.datadir.data_dir import Segment, byte_order, spk2utt, write_map
from sdpn_k2.kaldi.datadir.subsegments import Windowing, check_no_overlap, uniform_windows
from sdpn_k2.kaldi.datadir.utterances import Part, read_parts, read_utterances, sample_range
from sdpn_k2.kaldi.formats.tables import TableWriter, read_object, write_object
from sdpn_k2.progress import Progress

log = logging.getLogger(__name__)

MAX_FAILED_SHARE = 0.05
# What separates a window's recording from its times. VBx finds the recording before the last "_"; in Kaldi's sorting
# "-" alone keeps rec1's windows before rec10's.
SEPARATORS = {"kaldi": "-", "vbx": "_"}
BACKEND = ("mean.vec", "transform.mat", "plda")


class WindowSet(NamedTuple):
    """What :func:`extract_windows` made."""

    recordings: int
    segments: int
    windows: int
    failed: int  # segments


def extract_windows(
    extractor: Extractor,
    data_dir: Path,
    output: Path,
    windowing: Windowing,
    layout: str = "kaldi",
    backend: Optional[Path] = None,
) -> WindowSet:
    """Write the x-vectors of all windows into ``output``, with what diarization needs beside them.

    ``xvector.ark`` and ``.scp``; ``segments``, the windows' times; ``utt2spk`` and ``spk2utt``, in which the speakers
    are the recordings; ``mean.vec``, ``transform.mat`` and ``plda``.

    Args:
        data_dir: Kaldi data directory; its ``segments`` say where there is speech, else all is.
        layout: ``kaldi`` or ``vbx``, how windows are named.
        backend: folder with the three files of a trained back end. Without it mean and whitening are those of these
            windows, as in Kaldi's script, and there is no ``plda``.

    Raises:
        InputError: no segments, reversed or overlapping ones, a back end of other dimensions, a ``plda`` in ``output`` without
            ``backend``, more than 5 % of the segments failed, recordings whose names upset Kaldi's sorting.
    """
    windowing.check()
    table = data_dir / ("segments" if (data_dir / "segments").is_file() else "wav.scp")
    parts = {part.utterance: part for part in read_parts(data_dir)}
    if not parts:
        raise InputError(f"{table}: nothing to extract: it is empty")
    check_no_overlap(list(parts.values()), str(table))
    if backend is not None:
        _check_backend(backend, extractor.dim)
    elif (output / "plda").exists():
        raise InputError(
            f"{output / 'plda'}: is there already, and would not go with the mean and whitening of these "
            "windows: move it away, or give --backend"
        )
    make_folder(output)

    windows: Dict[str, Segment] = {}
    vectors: Dict[str, np.ndarray] = {}
    failed: List[str] = []
    progress = Progress(len(parts), f"extracting windows of {data_dir.name}, segments")
    for item in read_utterances(data_dir, extractor.sample_rate):
        if isinstance(item, Skipped):
            failed.append(f"{item.key}: {item.reason}")
            progress.update()
            continue
        utterance, samples = item
        try:
            pieces = _cut(parts[utterance], samples, extractor.sample_rate, windowing, SEPARATORS[layout])
            embedded = extractor.embed_fbank([extractor.compute_features(piece) for _, _, piece in pieces])
        except InputError as error:
            failed.append(f"{utterance}: {error}")
        else:
            windows.update((name, segment) for name, segment, _ in pieces)
            vectors.update(zip((name for name, _, _ in pieces), embedded))
        progress.update()
    progress.close()
    for message in failed:
        log.warning("skipped segment %s", message)
    if not windows or len(failed) > MAX_FAILED_SHARE * len(parts):
        raise InputError(f"{table}: {len(failed)} of {len(parts)} segments failed; the first: {failed[0]}")

    names = sorted(windows, key=byte_order)
    recording_of = {name: windows[name].recording for name in names}
    if layout == "kaldi":
        _check_order(recording_of)
    with TableWriter(f"ark,scp:{output}/xvector.ark,{output}/xvector.scp", "vector") as writer:
        for name in names:
            writer.write(name, vectors[name])
    write_map(output / "segments", {name: _times(windows[name]) for name in names})
    write_map(output / "utt2spk", recording_of)
    write_map(output / "spk2utt", spk2utt(recording_of))
    _write_backend(output, backend, np.stack([vectors[name] for name in names]))
    return WindowSet(len(set(recording_of.values())), len(parts) - len(failed), len(names), len(failed))


def _cut(
    part: Part, samples: np.ndarray, rate: int, windowing: Windowing, separator: str
) -> List[Tuple[str, Segment, np.ndarray]]:
    """Name, times in the recording and samples of each window of a segment."""
    pieces = []
    duration = len(samples) / rate
    for start, end in uniform_windows(duration, windowing):
        segment = Segment(part.recording, part.start + start, part.start + end)
        times = "-".join(f"{round(100 * time):08d}" for time in segment[1:])
        name = f"{part.recording}{separator}{times}"
        window = Part(name, part.utterance, start, end if end < duration else -1)
        first, last = sample_range(window, rate, len(samples))
        pieces.append((name, segment, samples[first:last]))
    return pieces


def _times(segment: Segment) -> Tuple[str, str, str]:
    return segment.recording, f"{segment.start:.3f}", f"{segment.end:.3f}"


def _check_order(recording_of: Dict[str, str]) -> None:
    """Kaldi wants the windows in order to be in order of recording, too."""
    previous = ""
    for recording in recording_of.values():
        if byte_order(recording) < byte_order(previous):
            raise InputError(
                f"recordings '{recording}' and '{previous}': their windows do not sort as they do, and "
                "Kaldi insists on that; rename one, or take --layout vbx"
            )
        previous = recording


def _check_backend(folder: Path, dim: int) -> None:
    for name in BACKEND:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; a back end has {', '.join(BACKEND)}")
    mean = len(read_object(str(folder / "mean.vec"), "vector"))
    rows, columns = read_object(str(folder / "transform.mat"), "matrix").shape
    for name, size, fits in (("mean.vec", mean, mean == dim), ("transform.mat", columns, columns in (dim, dim + 1))):
        if not fits:
            raise InputError(f"{folder / name}: for vectors of {size} dimensions, but these have {dim}")
    plda = read_plda(str(folder / "plda")).dim
    if plda != rows:
        raise InputError(f"{folder / 'plda'}: for vectors of {plda} dimensions, but transform.mat makes them {rows}")


def _write_backend(output: Path, backend: Optional[Path], vectors: np.ndarray) -> None:
    if backend is not None:
        for name in BACKEND:
            if (backend / name).resolve() != (output / name).resolve():
                shutil.copyfile(backend / name, output / name)
        return
    vectors = vectors.astype(np.float64)
    mean = vectors.mean(axis=0)
    covariance = (vectors - mean).T @ (vectors - mean) / len(vectors)
    write_object(str(output / "mean.vec"), mean, "vector")
    write_object(str(output / "transform.mat"), pca_transform(mean, covariance, normalize_variance=True)[0], "matrix")
