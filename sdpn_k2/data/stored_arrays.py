"""Convert features and x-vectors between lhotse's storage and Kaldi's archives."""

from __future__ import annotations

import functools
import logging
import re
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Mapping, NamedTuple, Set, Tuple, Union

import numpy as np
from lhotse import NumpyFilesWriter
from lhotse.array import Array
from lhotse.cut import Cut, MixedCut, PaddingCut
from lhotse.utils import fastcopy

from sdpn_k2.data.manifest_files import manifest_writer
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output, make_folder
from sdpn_k2.kaldi.datadir.data_dir import byte_order, read_map, spk2utt, write_map
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter

log = logging.getLogger(__name__)

FIELD = "xvector"  # as in sdpn_k2.scoring.vector_files
TOLERANCE = 0.05  # seconds that a cut may be shorter than its supervision: stored features end before the audio
Vectors = Union[RandomReader, Mapping[str, np.ndarray]]


class Attached(NamedTuple):
    """Numbers of cuts with and without an x-vector."""

    found: int
    missing: int


def export_features(cuts: Iterable[Cut], directory: Path) -> int:
    """Write the stored features of cuts as ``feats.{ark,scp}``, float32, under the cuts' ids; return their number.

    Also write ``utt2num_frames`` and ``frame_shift``, and ``utt2spk`` and ``spk2utt`` if every cut has one speaker. A
    cut that covers part of its stored features gets only these frames.

    Raises:
        InputError: a cut without features or with unreadable ones, a duplicate id, different frame shifts, no cuts.
    """
    make_folder(directory)
    frames: Dict[str, int] = {}
    speakers: Dict[str, str] = {}
    shifts = set()
    with TableWriter(f"ark,scp:{directory}/feats.ark,{directory}/feats.scp", "matrix") as writer:
        for cut in cuts:
            if not cut.has_features:
                raise InputError(f"cut '{cut.id}' has no stored features")
            if cut.id in frames:
                raise InputError(f"duplicate cut '{cut.id}'")
            matrix = _load(cut, "features", cut.load_features)
            writer.write(cut.id, matrix)
            frames[cut.id] = len(matrix)
            shifts.add(cut.frame_shift)
            names = {supervision.speaker for supervision in cut.supervisions}
            if len(names) == 1 and None not in names:
                speakers[cut.id] = names.pop()
        if not frames:
            raise InputError(f"{directory}: there are no cuts to export")
        if len(shifts) > 1:
            raise InputError(f"{directory}: cuts have different frame shifts: {', '.join(map(str, sorted(shifts)))} s")
    write_map(directory / "feats.scp", read_map(directory / "feats.scp"))  # sorted, unlike the cuts
    write_map(directory / "utt2num_frames", frames)
    with atomic_output(directory / "frame_shift", "w") as stream:
        stream.write(f"{shifts.pop()}\n")
    if len(speakers) == len(frames):
        write_map(directory / "utt2spk", speakers)
        write_map(directory / "spk2utt", spk2utt({name: speakers[name] for name in sorted(speakers)}))
    return len(frames)


def attach_xvectors(
    cuts: Iterable[Cut], vectors: Vectors, output: Path, *, own: bool = False, source: str = "x-vectors"
) -> Attached:
    """Write the cuts with their x-vector as ``cut.xvector``, a lhotse array in NumPy files.

    The arrays go into a folder beside ``output``: ``NAME.xvectors`` for ``NAME.jsonl.gz``. X-vectors are looked up by
    the cut's id or, if it has a single supervision, by the supervision's id. A cut that covers only a part of that
    supervision, such as a window, does not get the x-vector of the whole.

    Args:
        cuts: cuts of any kind.
        vectors: x-vectors by name.
        output: manifest to write, ``.jsonl`` or ``.jsonl.gz``.
        own: whether the x-vectors were computed on these very cuts, so that the ids of the cuts are enough.
        source: where the x-vectors come from, for messages.

    Raises:
        InputError: x-vectors are unreadable or match none of the cuts, or a duplicate cut.
    """
    stored: Set[str] = set()
    missing = parts = 0
    storage = output.with_name(re.sub(r"\.jsonl(\.gz)?$", "", output.name) + ".xvectors").resolve()
    with manifest_writer(output) as write, NumpyFilesWriter(storage) as writer:
        for cut in cuts:
            names = [cut.id] if own else _names(cut)
            parts += not names
            name = next((name for name in names if name in vectors), None)
            if name is None:
                missing += 1
                write(cut)
                continue
            if cut.id in stored:
                raise InputError(f"duplicate cut '{cut.id}'")
            stored.add(cut.id)
            # Cut ids become file names, but may contain slashes.
            key = cut.id.replace("%", "%25").replace("/", "%2F")
            write(_with_xvector(cut, writer.store_array(key, vectors[name])))
        if not stored:
            hint = "the cuts are parts of their utterances: embed them with sdpn-k2 extract" if parts else "compare ids"
            raise InputError(f"{source}: no x-vector matches any of the {missing} cuts: {hint}")
    if parts:
        log.warning(
            "%d cuts are parts of their utterances and got no x-vector: embed such windows with sdpn-k2 extract", parts
        )
    return Attached(len(stored), missing)


def _names(cut: Cut) -> List[str]:
    """Return the names under which the x-vector of all of ``cut`` may be stored."""
    if len(cut.supervisions) != 1:
        return [cut.id]
    supervision = cut.supervisions[0]
    if supervision.start < -TOLERANCE or supervision.end > cut.duration + TOLERANCE:
        return [cut.id] if cut.id != supervision.id else []
    return [cut.id, supervision.id]


def _with_xvector(cut: Cut, stored: Array) -> Cut:
    """Return a copy of ``cut`` with the custom field; a mixed cut keeps it in its first track with audio."""
    if not isinstance(cut, MixedCut):
        return fastcopy(cut, custom={**(cut.custom or {}), FIELD: stored})
    tracks = list(cut.tracks)
    first = next((at for at, track in enumerate(tracks) if not isinstance(track.cut, PaddingCut)), None)
    if first is None:
        raise InputError(f"cut '{cut.id}' is padding only")
    tracks[first] = fastcopy(tracks[first], cut=_with_xvector(tracks[first].cut, stored))
    return fastcopy(cut, tracks=tracks)


def collect_xvectors(cuts: Iterable[Cut]) -> Tuple[Dict[str, np.ndarray], int]:
    """Return every ``cut.xvector`` by the cut's id, sorted, and the number of cuts without one.

    Raises:
        InputError: no cut has an x-vector, one cannot be read, or a duplicate cut.
    """
    vectors: Dict[str, np.ndarray] = {}
    missing = 0
    for cut in cuts:
        if not (cut.custom or {}).get(FIELD):
            missing += 1
            continue
        if cut.id in vectors:
            raise InputError(f"duplicate cut '{cut.id}'")
        vectors[cut.id] = _load(cut, "x-vector", functools.partial(cut.load_custom, FIELD))
    if not vectors:
        raise InputError(f"none of the {missing} cuts has an x-vector (cut.{FIELD}): attach them first")
    return {name: vectors[name] for name in sorted(vectors, key=byte_order)}, missing


def _load(cut: Cut, what: str, load: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return np.asarray(load(), np.float32)
    except Exception as error:  # lhotse's storage backends raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cut '{cut.id}': cannot read its {what}: {reason}") from error
