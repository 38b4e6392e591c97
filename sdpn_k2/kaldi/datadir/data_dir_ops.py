"""Operations on whole data directories: write, subset, split, combine, copy and subsegment.

Most functions read a directory, change its tables in memory, and write a directory with sorted tables. They handle
frame_shift and the tables that :mod:`sdpn_k2.kaldi.datadir.data_dir` lists, and leave other files behind. The results
are those of Kaldi's scripts in utils/. Notes for the user are returned, not printed.
"""

from pathlib import Path
from typing import Callable, Collection, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output, make_folder
from sdpn_k2.kaldi.datadir import data_dir, lists
from sdpn_k2.kaldi.datadir.data_dir import RECORDING_TABLES, SPEAKER_TABLES, UTTERANCE_TABLES, PathLike
from sdpn_k2.kaldi.datadir.validation import validate
from sdpn_k2.kaldi.formats import words

Tables = Dict[str, Dict[str, str]]  # file name → key → the rest of the line

ALL_TABLES = ("utt2spk", "segments", "wav.scp") + UTTERANCE_TABLES + SPEAKER_TABLES + RECORDING_TABLES


def read_tables(directory: PathLike) -> Tables:
    """Read every known table of a data directory.

    Raises:
        InputError: utt2spk is missing, or a table cannot be read.
    """
    directory = Path(directory)
    if not (directory / "utt2spk").is_file():
        raise InputError(f"{directory / 'utt2spk'}: no such file (is this a data directory?)")
    return {name: data_dir.read_map(directory / name) for name in ALL_TABLES if (directory / name).is_file()}


def write_tables(directory: PathLike, tables: Tables, frame_shift_from: Optional[PathLike] = None) -> None:
    """Write exactly ``tables`` and spk2utt into ``directory``, and copy frame_shift from ``frame_shift_from``.

    Known tables that are not in ``tables`` are removed.

    Raises:
        InputError: there are no utterances, or the directory cannot be written.
    """
    directory = Path(directory)
    if not tables["utt2spk"]:
        raise InputError(f"{directory}: not written, because no utterances would be left")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in ALL_TABLES:
            if name in tables:
                data_dir.write_map(directory / name, tables[name])
            elif (directory / name).exists():
                (directory / name).unlink()
        utt2spk = sorted(tables["utt2spk"].items(), key=lambda item: data_dir.byte_order(item[0]))
        data_dir.write_map(directory / "spk2utt", data_dir.spk2utt(dict(utt2spk)))
        if frame_shift_from and (Path(frame_shift_from) / "frame_shift").is_file():
            _copy_file(Path(frame_shift_from) / "frame_shift", directory / "frame_shift")
    except OSError as error:
        raise InputError(f"{error.filename}: cannot write: {error.strerror}") from error


def write_data_dir(
    directory: PathLike,
    wav: Mapping[str, str],
    utt2spk: Mapping[str, str],
    tables: Optional[Mapping[str, Mapping[str, object]]] = None,
) -> None:
    """Write wav.scp, utt2spk and spk2utt into ``directory``, which is created if missing.

    Args:
        directory: the data directory.
        wav: recording → wav.scp entry.
        utt2spk: utterance → speaker.
        tables: further tables by file name.

    Raises:
        InputError: as :func:`data_dir.write_map`, or :func:`validate` finds an error in the result.
    """
    directory = Path(directory)
    make_folder(directory)
    data_dir.write_map(directory / "wav.scp", wav)
    data_dir.write_map(directory / "utt2spk", utt2spk)
    data_dir.write_map(
        directory / "spk2utt",
        data_dir.spk2utt({name: utt2spk[name] for name in sorted(utt2spk, key=data_dir.byte_order)}),
    )
    for name, table in (tables or {}).items():
        data_dir.write_map(directory / name, table)
    validate(directory, feats=False, text=False)


def restrict(tables: Tables, utterances: Iterable[str]) -> Tables:
    """Keep the given utterances, their speakers and their recordings. Unknown ids are ignored."""
    utt2spk, segments = tables["utt2spk"], tables.get("segments")
    kept = {utterance: utt2spk[utterance] for utterance in utterances if utterance in utt2spk}
    recordings: Collection[str] = kept
    if segments is not None:
        recordings = {words.split(segments[utterance])[0] for utterance in kept if utterance in segments}
    speakers = set(kept.values())
    result = {}
    for name, table in tables.items():
        wanted: Iterable[str] = kept
        if name in SPEAKER_TABLES:
            wanted = speakers
        elif name == "wav.scp" or name in RECORDING_TABLES:
            wanted = recordings
        result[name] = {key: table[key] for key in wanted if key in table}
    return result


# subset, split


def subset(source: PathLike, destination: PathLike, utterances: Iterable[str]) -> int:
    """Write a data directory with some utterances of ``source`` (utils/subset_data_dir.sh); return their number."""
    tables = restrict(read_tables(source), utterances)
    write_tables(destination, tables, source)
    return len(tables["utt2spk"])


def split(directory: PathLike, parts: int, per_utterance: bool = False) -> Path:
    """Write directory/split8/1 … 8, or split8utt/1 … 8 with ``per_utterance`` (utils/split_data.sh).

    Each speaker is in one part only, unless ``per_utterance``. Existing parts are kept if they are not older than the
    directory.

    Returns:
        The folder of the parts.

    Raises:
        InputError: there are more parts than speakers (or utterances).
    """
    directory = Path(directory)
    folder = directory / f"split{parts}{'utt' if per_utterance else ''}"
    if _is_up_to_date(directory, folder, parts):
        return folder
    tables = read_tables(directory)
    utterances, speakers = list(tables["utt2spk"]), list(tables["utt2spk"].values())
    source = f"{directory / 'utt2spk'}"
    if not 1 <= parts <= len(utterances):
        raise InputError(f"cannot split the {len(utterances)} utterances of {directory} into {parts} parts")
    if per_utterance:
        groups = [list(part) for part in lists.split(utterances, parts)]
    elif parts > len(set(speakers)):
        raise InputError(
            f"{source} has {len(set(speakers))} speakers, too few for {parts} parts: use fewer jobs, or --per-utt"
        )
    else:
        groups = lists.split_by_speaker(utterances, speakers, parts, source)
    for number, group in enumerate(groups, start=1):
        write_tables(folder / str(number), restrict(tables, group), directory)
    return folder


def _is_up_to_date(directory: Path, folder: Path, parts: int) -> bool:
    """Return whether the last part, which is written last, has all tables of the directory and none is older."""
    for name in ALL_TABLES:
        source, part = directory / name, folder / str(parts) / name
        if source.is_file() != part.is_file():
            return False
        if source.is_file() and part.stat().st_mtime_ns < source.stat().st_mtime_ns:
            return False
    return (folder / str(parts) / "spk2utt").is_file()


# combine, copy


def combine(destination: PathLike, sources: Sequence[PathLike], extra_tables: Sequence[str] = ()) -> List[str]:
    """Write one data directory with the utterances of all ``sources`` (utils/combine_data.sh).

    A table that one source lacks is left out, with two exceptions. If only some sources have segments, the recordings
    of the others become segments of full length. If only some have utt2uniq, the other utterances map to themselves.

    Args:
        destination: the data directory to write.
        sources: the data directories to combine.
        extra_tables: file names of further tables to combine, which each source must have.

    Returns:
        One note for each table that was left out.

    Raises:
        InputError: an id has different values in two sources, or frame shifts differ.
    """
    all_tables = [read_tables(source) for source in sources]
    if any("segments" in tables for tables in all_tables):
        for tables in all_tables:
            if "segments" not in tables:
                ends = tables.get("utt2dur", {})
                tables["segments"] = {
                    recording: f"{recording} 0 {ends.get(recording, '-1')}" for recording in tables.get("wav.scp", {})
                }
    if any("utt2uniq" in tables for tables in all_tables):
        for tables in all_tables:
            tables.setdefault("utt2uniq", {name: name for name in tables["utt2spk"]})
    notes = []
    combined: Tables = {}
    for name in ALL_TABLES:
        having = [tables for tables in all_tables if name in tables]
        if len(having) == len(all_tables):
            combined[name] = _merge(name, all_tables, sources)
        elif having:
            lacking = next(source for tables, source in zip(all_tables, sources) if name not in tables)
            notes.append(f"not combining {name}: it is not in {lacking}")
    extra = [name for name in extra_tables if name not in ALL_TABLES]
    for tables, source in zip(all_tables, sources):
        tables.update((name, data_dir.read_map(Path(source) / name)) for name in extra)
    shifts = {shift: source for source in sources for shift in [_frame_shift(source)] if shift}
    if len(shifts) > 1:
        described = ", ".join(f"{shift} s in {source}" for shift, source in shifts.items())
        raise InputError(f"cannot combine features with different frame shifts: {described}")
    write_tables(destination, combined, next(iter(shifts.values()), None))
    for name in extra:
        data_dir.write_map(Path(destination) / name, _merge(name, all_tables, sources))
    return notes


def _merge(name: str, all_tables: Sequence[Tables], sources: Sequence[PathLike]) -> Dict[str, str]:
    merged: Dict[str, str] = {}
    for tables, source in zip(all_tables, sources):
        for key, value in tables[name].items():
            if merged.setdefault(key, value) != value:
                raise InputError(
                    f"{Path(source) / name}: '{key}' has the value '{value}' here and '{merged[key]}' in another source"
                )
    return merged


def _frame_shift(directory: PathLike) -> Optional[str]:
    path = Path(directory) / "frame_shift"
    return path.read_text().strip() if path.is_file() else None


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
    utterance, speaker, same = affix(utterance_affixes), affix(speaker_affixes), affix(("", ""))
    tables = read_tables(source)
    recording = same if "segments" in tables else utterance
    if any(utterance_affixes) and "utt2uniq" not in tables:
        tables["utt2uniq"] = {name: name for name in tables["utt2spk"]}
    tables["utt2spk"] = {name: speaker(owner) for name, owner in tables["utt2spk"].items()}
    renamed = {}
    for name, table in tables.items():
        rename = utterance
        if name in SPEAKER_TABLES:
            rename = speaker
        elif name == "wav.scp" or name in RECORDING_TABLES:
            rename = recording
        renamed[name] = {rename(key): value for key, value in table.items()}
    write_tables(destination, renamed, source)


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
    cut: Tables = {name: {} for name in ("utt2spk", "segments", "utt2num_frames", "utt2max_frames")}
    cut.update((name, {}) for name in ("feats.scp", "vad.scp", "utt2uniq") if name in tables)
    shift = float(_frame_shift(source) or 0.01)
    frames = tables.get("utt2num_frames", {})
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
        if old in tables.get("utt2uniq", {}):
            cut["utt2uniq"][new] = tables["utt2uniq"][old]
        first, last = int(start / shift + 0.5), int(end / shift - 0.5)
        if old in frames:
            last = min(last, int(frames[old]) - 1)
            cut["utt2max_frames"][new], cut["utt2num_frames"][new] = frames[old], str(last - first + 1)
        for name in ("feats.scp", "vad.scp"):
            if old in tables.get(name, {}):
                if last < first:
                    raise InputError(f"{where}: {tables[name][old]} has no frame from {start} to {end} s")
                cut[name][new] = _row_range(tables[name][old], first, last, where)
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


def _copy_file(source: Path, destination: Path) -> None:
    if source.resolve() != destination.resolve():
        with atomic_output(destination) as stream:
            stream.write(source.read_bytes())
