"""Data directories made from others: combine, copy, subsegment.

The results are those of Kaldi's scripts in utils/. Notes for the user are returned, not printed.
"""

import contextlib
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.datadir import data_dir
from sdpn_k2.kaldi.datadir.data_dir import RECORDING_TABLES, SPEAKER_TABLES, PathLike
from sdpn_k2.kaldi.datadir.data_dir_ops import (
    ALL_TABLES,
    Table,
    Tables,
    key_kind,
    read_frame_shift,
    read_tables,
    restrict,
    write_tables,
)


def combine(destination: PathLike, sources: Sequence[PathLike], extra_tables: Sequence[str] = ()) -> List[str]:
    """Write one data directory with the utterances of all ``sources`` (utils/combine_data.sh).

    A table that one source lacks is left out, with two exceptions. If only some sources have segments, the recordings
    of the others become segments of full length. If only some have utt2uniq, the other utterances map to themselves.
    Statistics of a speaker (cmvn.scp, spk2warp) that differ between sources are those of the first source.

    Args:
        destination: the data directory to write.
        sources: the data directories to combine.
        extra_tables: file names of further tables to combine. All their lines are kept, also those of equal keys.

    Returns:
        One note for each table that was left out or has speakers with several values.

    Raises:
        InputError: an id has different values in two sources, or frame shifts differ.
    """
    all_tables = [_completed(read_tables(source), sources) for source in sources]
    shifts = {shift: source for source in sources for shift in [read_frame_shift(source)] if shift}
    if len(shifts) > 1:
        described = ", ".join(f"{shift} s in {source}" for shift, source in shifts.items())
        raise InputError(f"cannot combine features with different frame shifts: {described}")
    notes: List[str] = []
    combined = []
    for name in ALL_TABLES:
        lacking = [source for tables, source in zip(all_tables, sources) if name not in tables]
        if not lacking:
            combined.append(name)
        elif len(lacking) < len(sources):
            notes.append(f"not combining {name} as it does not exist everywhere ({lacking[0]} lacks it)")
    tables = Tables(combined, lambda name: _merge(name, all_tables, sources, notes))
    write_tables(destination, tables, next(iter(shifts.values()), None), lambda name: _joined(name, sources))
    for name in extra_tables:
        if name not in ALL_TABLES:
            _combine_lines(name, sources, Path(destination), notes)
    return notes


def _completed(tables: Tables, sources: Sequence[PathLike]) -> Tables:
    """Return the tables of one source with segments and utt2uniq, if any source has them."""
    made: Dict[str, Table] = {}
    if "segments" not in tables and any((Path(source) / "segments").is_file() for source in sources):
        ends = tables.get("utt2dur", {})
        made["segments"] = {name: f"{name} 0 {ends.get(name, '-1')}" for name in tables.get("wav.scp", {})}
    if "utt2uniq" not in tables and any((Path(source) / "utt2uniq").is_file() for source in sources):
        made["utt2uniq"] = {name: name for name in tables["utt2spk"]}
    return tables.replaced(made)


def _joined(name: str, sources: Sequence[PathLike]) -> Optional[bytes]:
    """Return the lines of a table of all sources, sorted, if they are tidy and each key occurs once; else None.

    This takes a third of the time of :func:`_merge` on large corpora.
    """
    paths = [Path(source) / name for source in sources]
    contents = [data_dir.read_content(path) for path in paths if path.is_file()]
    if len(contents) < len(paths) or not all(content.endswith(b"\n") for content in contents):
        return None
    content = b"".join(contents)
    tidy = data_dir.parse_tidy(content)
    if tidy is None:
        return None
    keys = list(tidy)
    if data_dir.first_unsorted(keys):
        lines = content.splitlines(keepends=True)
        content = b"".join([lines[index] for index in sorted(range(len(keys)), key=keys.__getitem__)])
    return content


def _merge(name: str, all_tables: Sequence[Tables], sources: Sequence[PathLike], notes: List[str]) -> Table:
    merged = dict(all_tables[0][name])
    differing = 0
    for tables, source in zip(all_tables[1:], sources[1:]):
        table = tables[name]
        for key in merged.keys() & table.keys():
            if table[key] == merged[key]:
                continue
            if name not in ("cmvn.scp", "spk2warp"):
                raise InputError(
                    f"{Path(source) / name}: '{key}' has the value '{table[key]}' here and '{merged[key]}' in another "
                    "source"
                )
            differing += 1
        merged = {**table, **merged}
    if differing:
        notes.append(f"{name}: {differing} speakers are in several sources; kept what the first of them says")
    return merged


def _combine_lines(name: str, sources: Sequence[PathLike], destination: Path, notes: List[str]) -> None:
    """Write all lines of a file, sorted; add a note if a source lacks it."""
    paths = [Path(source) / name for source in sources]
    having = [path for path in paths if path.is_file()]
    if len(having) < len(paths):
        where = "everywhere" if having else "anywhere"
        notes.append(f"not combining {name} as it does not exist {where}")
        with contextlib.suppress(FileNotFoundError):
            (destination / name).unlink()  # of an earlier call
        return
    lines = sorted(line for path in paths for line in data_dir.read_content(path).split(b"\n") if line)
    with atomic_output(destination / name) as stream:
        stream.write(b"".join(line + b"\n" for line in lines))


def copy(
    source: PathLike,
    destination: PathLike,
    utterance_affixes: Tuple[str, str] = ("", ""),
    speaker_affixes: Tuple[str, str] = ("", ""),
) -> None:
    """Copy a data directory and add (prefix, suffix) to its utterance and speaker ids (utils/copy_data_dir.sh).

    With segments, recordings keep their names. If utterances are renamed, utt2uniq maps them to their old names.

    Raises:
        InputError: source and destination are the same directory.
    """

    def affix(affixes: Tuple[str, str]) -> Callable[[str], str]:
        return lambda name: f"{affixes[0]}{name}{affixes[1]}"

    if Path(source).resolve() == Path(destination).resolve():
        raise InputError(f"{source}: cannot copy a directory onto itself")
    rename = {"utterances": affix(utterance_affixes), "speakers": affix(speaker_affixes)}
    tables = read_tables(source)
    rename["recordings"] = affix(("", "")) if "segments" in tables else rename["utterances"]
    if any(utterance_affixes) and "utt2uniq" not in tables:
        tables = tables.replaced({"utt2uniq": {name: name for name in tables["utt2spk"]}})

    def make(name: str) -> Table:
        new_key, table = rename[key_kind(name)], tables[name]
        if name == "utt2spk":
            return {new_key(key): rename["speakers"](speaker) for key, speaker in table.items()}
        return {new_key(key): value for key, value in table.items()}

    write_tables(destination, Tables(tables, make), source)


# subsegment


def subsegment(
    source: PathLike,
    subsegments: PathLike,
    destination: PathLike,
    text: Optional[PathLike] = None,
    end_padding: float = 0.0,
) -> int:
    """Write a data directory whose utterances are parts of those of ``source`` (utils/data/subsegment_data_dir.sh).

    Features and VAD decisions become row ranges of the old ones. If ``source`` has utt2num_frames, it limits the
    ranges. The result then has a new utt2num_frames and keeps the old one as utt2max_frames.

    Args:
        source: the data directory with the old utterances.
        subsegments: file of lines "new-utterance old-utterance start end", in seconds from the old utterance's start.
        destination: the data directory to write.
        text: transcripts of the new utterances; without them, the result has no text.
        end_padding: seconds to add to the ends in segments; the ranges of features stay the same.

    Returns:
        The number of utterances.

    Raises:
        InputError: an utterance is unknown, a part ends before it begins, or it has no frames.
    """
    tables = read_tables(source)
    parts = data_dir.read_segments(subsegments)
    old_segments = tables.get("segments")
    cut: Dict[str, Table] = {name: {} for name in ("utt2spk", "segments", "utt2num_frames", "utt2max_frames")}
    cut.update((name, {}) for name in ("feats.scp", "vad.scp", "utt2uniq") if name in tables)
    shift = float(read_frame_shift(source) or 0.01)
    cut_tables = {name: tables.get(name, {}) for name in ("utt2num_frames", "utt2uniq", "feats.scp", "vad.scp")}
    frames = cut_tables["utt2num_frames"]
    for number, (new, (old, start, end)) in enumerate(parts.items(), start=1):
        where = f"{subsegments}:{number}"
        if old not in tables["utt2spk"]:
            raise InputError(
                f"{where}: '{new}' refers to utterance '{old}', which is not in {Path(source) / 'utt2spk'}"
            )
        if end == -1:
            raise InputError(f"{where}: '{new}' needs an end in seconds, not -1")
        cut["utt2spk"][new] = tables["utt2spk"][old]
        recording, offset = old, 0.0
        if old_segments is not None:
            recording, offset = data_dir.parse_segment(old, old_segments[old], str(Path(source) / "segments"))[:2]
        cut["segments"][new] = f"{recording} {offset + start:.3f} {offset + end + end_padding:.3f}"
        if old in cut_tables["utt2uniq"]:
            cut["utt2uniq"][new] = cut_tables["utt2uniq"][old]
        first, last = int(start / shift + 0.5), int(end / shift - 0.5)
        if old in frames:
            last = min(last, int(float(frames[old])) - 1)
            cut["utt2max_frames"][new], cut["utt2num_frames"][new] = frames[old], str(last - first + 1)
        for name in ("feats.scp", "vad.scp"):
            if old in cut_tables[name]:
                entry = cut_tables[name][old]
                if last < first:
                    raise InputError(f"{where}: {entry} has no frame from {start} to {end} s")
                cut[name][new] = _row_range(entry, first, last, where)
    for name in ("utt2num_frames", "utt2max_frames"):
        if "feats.scp" not in cut or len(cut[name]) < len(parts):
            del cut[name]
    for name in ("wav.scp",) + SPEAKER_TABLES + RECORDING_TABLES:
        if name in tables:
            cut[name] = tables[name]
    if text is not None:
        cut["text"] = data_dir.read_map(text)
    write_tables(destination, restrict(cut, parts), source)
    return len(parts)


def _row_range(entry: str, first: int, last: int, where: str) -> str:
    """Return the script entry for rows ``first`` to ``last`` of ``entry``, which may have a row range itself."""
    if not entry.endswith("]"):
        return f"{entry}[{first}:{last}]"
    path, _, old = entry[:-1].rpartition("[")
    rows, comma, columns = old.partition(",")
    old_first, _, old_last = rows.partition(":")
    if old_first:
        first, last = int(old_first) + first, min(int(old_first) + last, int(old_last))
    if last < first:
        raise InputError(f"{where}: {entry} has no frame from {first} on")
    return f"{path}[{first}:{last}{comma}{columns}]"
