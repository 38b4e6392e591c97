"""X-vectors of overlapping windows for diarization, in the layout of Kaldi's scripts or of VBx."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError, Skipped, check_skip_bad
from sdpn_k2.files import make_folder
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi.backend.pca import pca_transform
from sdpn_k2.kaldi.backend.plda import read_plda
from sdpn_k2.kaldi.datadir.data_dir import Segment, byte_order, spk2utt, write_map
from sdpn_k2.kaldi.datadir.subsegments import Windowing, check_no_overlap, times_in_name, uniform_windows
from sdpn_k2.kaldi.datadir.utterances import Part, read_parts, read_utterances, sample_range
from sdpn_k2.kaldi.formats.tables import TableWriter, read_object, write_object
from sdpn_k2.progress import Progress

log = logging.getLogger(__name__)

# Separator between the recording and the times in a window's name. VBx reads everything before the last "_" as the
# recording. Kaldi needs "-", which sorts the windows of rec1 before those of rec10.
SEPARATORS = {"kaldi": "-", "vbx": "_"}
BACKEND = ("mean.vec", "transform.mat", "plda")


class WindowSet(NamedTuple):
    """Counts of what :func:`extract_windows` wrote."""

    recordings: int
    segments: int
    windows: int
    skipped: int  # segments


class _Window(NamedTuple):
    name: str
    segment: Segment  # where it lies in the recording
    vector: np.ndarray


def extract_windows(
    extractor: Extractor,
    data_dir: Path,
    output: Path,
    windowing: Windowing,
    *,
    layout: str = "kaldi",
    backend: Optional[Path] = None,
    skip_bad: bool = False,
) -> WindowSet:
    """Write the x-vectors of all windows of a data directory, and the other files that diarization needs.

    The folder ``output`` receives ``xvector.ark`` and ``xvector.scp``; ``segments`` with the windows' times;
    ``utt2spk`` and ``spk2utt``, whose speakers are the recordings; ``mean.vec``, ``transform.mat`` and ``plda``.

    Args:
        extractor: the model.
        data_dir: Kaldi data directory. Its ``segments`` mark the speech; without it, all audio counts as speech.
        output: folder to write, made if missing.
        windowing: length and shift of the windows.
        layout: ``kaldi`` or ``vbx``, the way windows are named.
        backend: folder of a trained back end to copy. Without it, mean and whitening are estimated on these windows,
            as in Kaldi's script, and ``plda`` is not written.
        skip_bad: accept that more than 5 % of the segments are skipped, as long as one is not.

    Raises:
        InputError: segments that are missing, reversed or overlap; more than 5 % of them skipped; a back end of other
            dimensions; an old ``plda`` in ``output`` when ``backend`` is not given; recordings whose windows do not
            sort as Kaldi requires.
    """
    table = data_dir / ("segments" if (data_dir / "segments").is_file() else "wav.scp")
    parts = {part.utterance: part for part in read_parts(data_dir)}
    if not parts:
        raise InputError(f"{table}: empty; nothing to extract")
    check_no_overlap(list(parts.values()), str(table))
    if backend is not None:
        _check_backend(backend, extractor.dim)
    elif (output / "plda").exists():
        raise InputError(
            f"{output / 'plda'}: already exists, and would not fit the mean and whitening of these windows; "
            "move it away, or use --backend"
        )
    make_folder(output)

    windows: List[_Window] = []
    skipped: List[Skipped] = []
    progress = Progress(len(parts), f"extracting windows of {data_dir.name}, segments")
    for item in _embed_segments(extractor, data_dir, parts, windowing, SEPARATORS[layout]):
        if isinstance(item, Skipped):
            skipped.append(item)
        else:
            windows += item
        progress.update()
    progress.close()
    for key, reason in skipped:
        log.warning("skipped segment %s: %s", key, reason)
    check_skip_bad(skipped, len(parts), skip_bad, where=table, what="segments")

    windows.sort(key=lambda window: byte_order(window.name))
    recording_of = {window.name: window.segment.recording for window in windows}
    if layout == "kaldi":
        _check_order(recording_of)
    with TableWriter(f"ark,scp:{output}/xvector.ark,{output}/xvector.scp", "vector") as writer:
        for window in windows:
            writer.write(window.name, window.vector)
    write_map(output / "segments", {window.name: _times(window.segment) for window in windows})
    write_map(output / "utt2spk", recording_of)
    write_map(output / "spk2utt", spk2utt(recording_of))
    if backend is None:
        _estimate_backend(output, np.stack([window.vector for window in windows]))
    elif backend.resolve() != output.resolve():
        for name in BACKEND:
            shutil.copyfile(backend / name, output / name)
    return WindowSet(len(set(recording_of.values())), len(parts) - len(skipped), len(windows), len(skipped))


def _embed_segments(
    extractor: Extractor, data_dir: Path, parts: Dict[str, Part], windowing: Windowing, separator: str
) -> Iterator[Union[List[_Window], Skipped]]:
    """Yield the windows of each segment."""
    for item in read_utterances(data_dir, extractor.sample_rate):
        if isinstance(item, Skipped):
            yield item
            continue
        utterance, samples = item
        try:
            pieces = _cut(parts[utterance], samples, extractor.sample_rate, windowing, separator)
        except InputError as error:
            yield Skipped(utterance, str(error))
            continue
        usable, problem = [], "no windows"
        for name, segment, piece in pieces:
            try:
                usable.append((name, segment, extractor.compute_features(piece)))
            except InputError as error:
                problem = str(error)
        if not usable:
            yield Skipped(utterance, problem)
            continue
        vectors = extractor.embed_fbank([features for _, _, features in usable])
        yield [_Window(name, segment, vector) for (name, segment, _), vector in zip(usable, vectors)]


def _cut(
    part: Part, samples: np.ndarray, rate: int, windowing: Windowing, separator: str
) -> List[Tuple[str, Segment, np.ndarray]]:
    """Return the name, the times in the recording and the samples of each window of a segment."""
    pieces = []
    duration = len(samples) / rate
    for start, end in uniform_windows(duration, windowing):
        segment = Segment(part.recording, part.start + start, part.start + end)
        name = f"{part.recording}{separator}{times_in_name(segment.start, segment.end)}"
        window = Part(name, part.utterance, start, end if end < duration else -1)
        first, last = sample_range(window, rate, len(samples))
        pieces.append((name, segment, samples[first:last]))
    return pieces


def _times(segment: Segment) -> Tuple[str, str, str]:
    return segment.recording, f"{segment.start:.3f}", f"{segment.end:.3f}"


def _check_order(recording_of: Dict[str, str]) -> None:
    """Check that the recordings of sorted windows are sorted too, as Kaldi requires."""
    previous = ""
    for recording in recording_of.values():
        if byte_order(recording) < byte_order(previous):
            raise InputError(
                f"recordings '{recording}' and '{previous}': Kaldi requires their windows to sort in the same order; "
                "rename one, or use --layout vbx"
            )
        previous = recording


def _check_backend(folder: Path, dim: int) -> None:
    """Check that a back end is complete and fits embeddings of ``dim`` dimensions."""
    for name in BACKEND:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; a back end consists of {', '.join(BACKEND)}")
    mean = len(read_object(str(folder / "mean.vec"), "vector"))
    rows, columns = read_object(str(folder / "transform.mat"), "matrix").shape
    for name, size, fits in (("mean.vec", mean, mean == dim), ("transform.mat", columns, columns in (dim, dim + 1))):
        if not fits:
            raise InputError(f"{folder / name}: expects {size} dimensions, but the model's embeddings have {dim}")
    plda = read_plda(str(folder / "plda")).dim
    if plda != rows:
        raise InputError(f"{folder / 'plda'}: expects {plda} dimensions, but transform.mat projects to {rows}")


def _estimate_backend(output: Path, vectors: np.ndarray) -> None:
    """Write mean and whitening of the windows."""
    vectors = vectors.astype(np.float64)
    mean = vectors.mean(axis=0)
    covariance = (vectors - mean).T @ (vectors - mean) / len(vectors)
    write_object(str(output / "mean.vec"), mean, "vector")
    write_object(str(output / "transform.mat"), pca_transform(mean, covariance, normalize_variance=True)[0], "matrix")
