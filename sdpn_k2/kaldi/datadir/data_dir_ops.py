"""Operations on whole data directories: write, subset and split.

The functions read a directory, change its tables, and write a directory with sorted tables. They handle frame_shift
and the tables that :mod:`sdpn_k2.kaldi.datadir.data_dir` lists, and leave other files behind. The results are those of
Kaldi's scripts in utils/. Notes for the user are returned, not printed.
"""

import contextlib
import itertools
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output, make_folder
from sdpn_k2.kaldi.datadir import data_dir, lists
from sdpn_k2.kaldi.datadir.data_dir import RECORDING_TABLES, SPEAKER_TABLES, UTTERANCE_TABLES, PathLike
from sdpn_k2.kaldi.datadir.validation import validate
from sdpn_k2.kaldi.formats import words

Table = Dict[str, str]  # key → the rest of the line

ALL_TABLES = ("utt2spk", "segments", "wav.scp") + UTTERANCE_TABLES + SPEAKER_TABLES + RECORDING_TABLES


class Tables(Mapping[str, Table]):
    """File name → table, where a table is made when it is asked for, and not kept.

    All tables of a large corpus need several gigabytes as Python strings. utt2spk and segments are kept, since the
    other tables depend on them.
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], Table]) -> None:
        self._names = tuple(names)
        self._make = make
        self._kept: Dict[str, Table] = {}

    def __getitem__(self, name: str) -> Table:
        if name in self._kept:
            return self._kept[name]
        if name not in self._names:
            raise KeyError(name)
        table = self._make(name)
        if name in ("utt2spk", "segments"):
            self._kept[name] = table
        return table

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def replaced(self, others: Mapping[str, Table]) -> "Tables":
        """Return these tables with ``others`` added, or in place of those of the same names."""
        names = dict.fromkeys((*self._names, *others))
        return Tables(names, lambda name: others[name] if name in others else self[name])


def read_tables(directory: PathLike) -> Tables:
    """Return every known table of a data directory.

    Raises:
        InputError: utt2spk is missing; or, when a table is asked for, it cannot be read.
    """
    directory = Path(directory)
    if not (directory / "utt2spk").is_file():
        raise InputError(f"{directory / 'utt2spk'}: no such file (is this a data directory?)")
    names = [name for name in ALL_TABLES if (directory / name).is_file()]
    return Tables(names, lambda name: data_dir.read_map(directory / name))


def key_kind(name: str) -> str:
    """Return what the keys of a table are: "utterances", "speakers" or "recordings"."""
    if name in SPEAKER_TABLES:
        return "speakers"
    return "recordings" if name == "wav.scp" or name in RECORDING_TABLES else "utterances"


def write_tables(
    directory: PathLike,
    tables: Mapping[str, Table],
    frame_shift_from: Optional[PathLike] = None,
    content_of: Callable[[str], Optional[bytes]] = lambda name: None,
) -> None:
    """Write exactly ``tables`` and spk2utt into ``directory``, and copy frame_shift from ``frame_shift_from``.

    Known tables that are not in ``tables`` are removed. After an error the directory is as it was before.
    ``content_of`` may return the file for a name of ``tables``, to save making it.

    Raises:
        InputError: there are no utterances, or the directory cannot be written.
    """
    directory = Path(directory)
    if not tables["utt2spk"]:
        raise InputError(f"{directory}: not written, because no utterances would be left")
    is_new = not directory.exists()
    make_folder(directory)
    try:
        with contextlib.ExitStack() as stack:  # all files change, or none
            for name in ALL_TABLES:
                if name in tables:
                    path, content = directory / name, content_of(name)
                    content = data_dir.format_map(path, tables[name]) if content is None else content
                    stack.enter_context(atomic_output(path)).write(content)
            path = directory / "spk2utt"
            stack.enter_context(atomic_output(path)).write(data_dir.format_map(path, _spk2utt(tables["utt2spk"])))
        for name in ALL_TABLES:
            if name not in tables and (directory / name).exists():
                (directory / name).unlink()
        if frame_shift_from and (Path(frame_shift_from) / "frame_shift").is_file():
            _copy_file(Path(frame_shift_from) / "frame_shift", directory / "frame_shift")
    except OSError as error:
        raise InputError(f"{error.filename}: cannot write: {error.strerror}") from error
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                directory.rmdir()  # it is empty after an error only


def _spk2utt(utt2spk: Mapping[str, str]) -> Dict[str, List[str]]:
    """Return speaker → utterances, each in C-locale order."""
    return data_dir.spk2utt({utterance: utt2spk[utterance] for utterance in data_dir.sorted_keys(utt2spk)})


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
    data_dir.write_map(directory / "spk2utt", _spk2utt(utt2spk))
    for name, table in (tables or {}).items():
        data_dir.write_map(directory / name, table)
    validate(directory, feats=False, text=False)


def restrict(tables: Mapping[str, Table], utterances: Iterable[str]) -> Tables:
    """Keep the given utterances, their speakers and their recordings. Unknown ids are ignored."""
    utt2spk, segments = tables["utt2spk"], tables.get("segments")
    kept = {utterance: utt2spk[utterance] for utterance in utterances if utterance in utt2spk}
    wanted: Dict[str, Iterable[str]] = {"utterances": kept, "speakers": set(kept.values()), "recordings": kept}
    if segments is not None:
        wanted["recordings"] = {words.split(segments[utterance], 1)[0] for utterance in kept if utterance in segments}

    def make(name: str) -> Table:
        table = tables[name]
        return {key: table[key] for key in wanted[key_kind(name)] if key in table}

    return Tables(tables, make)


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
    _write_parts(folder, groups, tables, directory)
    return folder


def _write_parts(folder: Path, groups: Sequence[Sequence[str]], tables: Tables, directory: Path) -> None:
    """Write the data directories folder/1, 2 … with the utterances of one group each.

    This goes through the tables, not through the parts, since a table of a large corpus takes seconds to read.
    """
    parts = [folder / str(number) for number in range(1, len(groups) + 1)]
    for part in parts:
        make_folder(part)
        with contextlib.suppress(FileNotFoundError):
            (part / "spk2utt").unlink()  # it is written last, so a part that has it is complete
        for name in ALL_TABLES:
            if name not in tables and (part / name).exists():
                (part / name).unlink()
        if (directory / "frame_shift").is_file():
            _copy_file(directory / "frame_shift", part / "frame_shift")
    part_of = {utterance: number for number, group in enumerate(groups) for utterance in group}
    utt2spk, segments = tables["utt2spk"], tables.get("segments")

    def parts_of(ids: Callable[[str], str]) -> Dict[str, List[int]]:
        numbers: Dict[str, Dict[int, None]] = {}
        for utterance, number in part_of.items():
            numbers.setdefault(ids(utterance), {})[number] = None
        return {key: list(several) for key, several in numbers.items()}

    ends = list(itertools.accumulate(map(len, groups)))
    in_order = [utterance for group in groups for utterance in group]
    shared = {"speakers": parts_of(utt2spk.__getitem__)}
    if segments is not None:
        recording = {utterance: words.split(value, 1)[0] for utterance, value in segments.items()}
        shared["recordings"] = parts_of(lambda utterance: recording.get(utterance, ""))
    for name in tables:
        content = data_dir.read_content(directory / name)
        tidy = data_dir.parse_tidy(content) or {}
        if list(tidy) == in_order and data_dir.in_byte_order(in_order):  # each part is a stretch of the file
            lines = content.splitlines(keepends=True)
            for part, start, end in zip(parts, [0, *ends], ends):
                with atomic_output(part / name) as stream:
                    stream.write(b"".join(lines[start:end]))
            continue
        split_table: List[List[Tuple[str, str]]] = [[] for _ in parts]
        numbers_of = shared.get(key_kind(name))
        if numbers_of is None:
            for item in tables[name].items():
                if item[0] in part_of:
                    split_table[part_of[item[0]]].append(item)
        else:
            for item in tables[name].items():
                for number in numbers_of.get(item[0], ()):
                    split_table[number].append(item)
        for part, items in zip(parts, split_table):
            data_dir.write_map(part / name, items)
    for part, group in zip(parts, groups):
        data_dir.write_map(part / "spk2utt", _spk2utt({utterance: utt2spk[utterance] for utterance in group}))


def _is_up_to_date(directory: Path, folder: Path, parts: int) -> bool:
    """Return whether the last part, which is written last, has all tables of the directory and none is older."""
    for name in ALL_TABLES:
        source, part = directory / name, folder / str(parts) / name
        if source.is_file() != part.is_file():
            return False
        if source.is_file() and part.stat().st_mtime_ns < source.stat().st_mtime_ns:
            return False
    return (folder / str(parts) / "spk2utt").is_file()


def read_frame_shift(directory: PathLike) -> Optional[str]:
    """Return the content of the file frame_shift, if there is one."""
    path = Path(directory) / "frame_shift"
    return path.read_text().strip() if path.is_file() else None


def _copy_file(source: Path, destination: Path) -> None:
    if source.resolve() != destination.resolve():
        with atomic_output(destination) as stream:
            stream.write(source.read_bytes())
