"""Repair Kaldi data directories, as Kaldi's utils/fix_data_dir.sh does.

The tables are read one at a time, since all tables of a large corpus need several gigabytes as Python strings.
"""

import contextlib
import itertools
import shutil
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Set, Tuple

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.datadir.data_dir import (
    PathLike,
    byte_order,
    first_unsorted,
    format_map,
    parse_line,
    parse_tidy,
    read_content,
    sorted_keys,
    spk2utt,
)
from sdpn_k2.kaldi.datadir.data_dir_ops import ALL_TABLES, key_kind
from sdpn_k2.kaldi.datadir.validation import faults
from sdpn_k2.kaldi.formats import words

# An utterance is dropped if it, its speaker or its recording is missing from one of these tables.
NEEDED_TABLES = (
    "segments",
    "wav.scp",
    "text",
    "feats.scp",
    "vad.scp",
    "utt2lang",
    "utt2dur",
    "utt2num_frames",
    "cmvn.scp",
    "spk2gender",
)


class _Table(NamedTuple):
    """The valid lines of a table, the keys of the others, and whether the file holds nothing else, sorted."""

    lines: Dict[str, str]
    bad: Set[str]
    tidy: bool


def fix(directory: PathLike, utterance_extra: Sequence[str] = (), speaker_extra: Sequence[str] = ()) -> List[str]:
    """Repair a data directory in place: sort its tables, and drop utterances that are not in all of them.

    Blank lines, Windows line ends and repeated keys are removed; the first line of a key counts. An utterance is
    dropped if a line about it, its speaker or its recording is not valid (:func:`validation.faults`), or is missing
    from one of NEEDED_TABLES. Any other table that lacks an id is removed, except utt2uniq, which is completed. The old
    files are kept in ``directory``/.backup.

    Args:
        directory: the data directory.
        utterance_extra: file names of further tables from which lines of dropped utterances are removed.
        speaker_extra: file names of further tables from which lines of dropped speakers are removed.

    Returns:
        Notes for the user; the last one counts the utterances.

    Raises:
        InputError: no utterance would be left, or a file cannot be written.
    """
    directory = Path(directory)
    if not (directory / "utt2spk").is_file():
        raise InputError(f"{directory / 'utt2spk'}: no such file (is this a data directory?)")
    notes: List[str] = []
    source = _Source(directory, notes)
    speakers_before = source.read("utt2spk")
    total = len(speakers_before.lines) + len(speakers_before.bad)
    speaker_of, unchanged = _complete_utterances(source)
    if not speaker_of:
        names = ", ".join(sorted(source.present))
        raise InputError(f"{directory}: no utterance is valid in all of {names}; nothing was changed")
    if len(speaker_of) < total or not speakers_before.tidy:
        unchanged = set()

    ids: Dict[str, List[str]] = {
        "utterances": sorted_keys(speaker_of),
        "speakers": sorted_keys(set(speaker_of.values())),
        "recordings": sorted_keys(set(map(source.recording_of, speaker_of))),
    }
    extra = dict.fromkeys(utterance_extra, "utterances")
    extra.update((name, "speakers") for name in speaker_extra)
    extra = {name: kind for name, kind in extra.items() if name not in ALL_TABLES and (directory / name).is_file()}
    backup = directory / ".backup"
    backup.mkdir(exist_ok=True)
    for name in [*source.present, *extra, "spk2utt"]:
        if (directory / name).is_file():
            shutil.copy2(directory / name, backup / name)

    removed = []
    with contextlib.ExitStack() as stack:  # all files change, or none

        def replace(name: str, content: bytes) -> None:
            path = directory / name
            if not path.is_file() or read_content(path) != content:
                stack.enter_context(atomic_output(path)).write(content)

        for name in source.present:
            wanted = ids[key_kind(name)]
            if name in unchanged:
                continue
            content, number = source.rewritten(name, wanted)
            if number < len(wanted):
                notes.append(f"removed {name}: it lacks {len(wanted) - number} ids; create it again")
                removed.append(directory / name)
            else:
                replace(name, content)
        by_speaker = spk2utt({utterance: speaker_of[utterance] for utterance in ids["utterances"]})
        replace("spk2utt", format_map(directory / "spk2utt", by_speaker))
        for name, kind in extra.items():
            replace(name, _lines_of(read_content(directory / name), set(ids[kind])))
    for path in removed:
        path.unlink()
    kept = f"kept {len(speaker_of)} utterances out of {total}; old files are in {backup}"
    notes.append(kept if len(speaker_of) < total else f"kept all {total} utterances")
    return notes


class _Source:
    """The tables of the directory as they are. utt2spk and segments stay in memory."""

    def __init__(self, directory: Path, notes: List[str]) -> None:
        self.present = [name for name in ALL_TABLES if (directory / name).is_file()]
        self._directory = directory
        self._notes = notes
        self._tidy: Set[str] = set()  # of the tables that were read
        self._kept: Dict[str, _Table] = {}
        for name in ("utt2spk", "segments"):
            if name in self.present:
                self._kept[name] = _read(directory / name, notes)
        segments = self._kept.get("segments")
        self._recordings = segments and {key: words.split(value, 1)[0] for key, value in segments.lines.items()}

    def read(self, name: str) -> _Table:
        """Return a table, and note what is not valid in it."""
        table = self._kept.get(name) or _read(self._directory / name, self._notes)
        if table.tidy:
            self._tidy.add(name)
        return table

    def rewritten(self, name: str, wanted: Sequence[str]) -> Tuple[bytes, int]:
        """Return a table with the ids ``wanted``, which are sorted, and how many of them it has."""
        path = self._directory / name
        content = read_content(path)
        tidy = parse_tidy(content) if name in self._tidy and name != "utt2uniq" else None
        if tidy is not None:
            chosen = list(itertools.compress(content.splitlines(keepends=True), map(set(wanted).__contains__, tidy)))
            return b"".join(chosen), len(chosen)
        lines = (self._kept.get(name) or _read(path, [])).lines
        if name == "utt2uniq":
            lines = {**{key: key for key in wanted}, **lines}
        table = {key: lines[key] for key in wanted if key in lines}
        return format_map(path, table), len(table)

    def recording_of(self, utterance: str) -> str:
        """Return the recording of an utterance; without segments, they are the same."""
        return utterance if self._recordings is None else self._recordings.get(utterance, "")


def _complete_utterances(source: _Source) -> Tuple[Dict[str, str], Set[str]]:
    """Return utterance → speaker of those that no table excludes, and the tables that list exactly those of utt2spk."""
    speaker_of = source.read("utt2spk").lines
    same = {"utt2spk"}
    utterances = list(speaker_of)
    for name in source.present:
        lines, bad, tidy = source.read(name)
        kind = key_kind(name)
        if tidy and list(lines) == utterances and kind != "speakers":
            same.add(name)
            continue
        needed = name in NEEDED_TABLES or (name == "reco2dur" and "segments" not in source.present)
        if name == "utt2uniq" or not (needed or bad):
            continue
        kept = {}
        for utterance, speaker in speaker_of.items():
            key = utterance
            if kind != "utterances":
                key = speaker if kind == "speakers" else source.recording_of(utterance)
            if key in lines or (not needed and key not in bad):
                kept[utterance] = speaker
        speaker_of = kept
    return speaker_of, same


def _lines_of(content: bytes, ids: Set[str]) -> bytes:
    """Return the lines that begin with one of the ids, sorted by it; an id may have several."""
    lines = [(parse_line(line)[0], line) for line in content.split(b"\n")]
    chosen = sorted((byte_order(key), line.rstrip(b"\r")) for key, line in lines if key in ids)
    return b"".join(line + b"\n" for _, line in chosen)


def _read(path: Path, notes: List[str]) -> _Table:
    """Read what is valid in a table, and note what is not."""
    content = read_content(path)
    lines = parse_tidy(content)
    tidy = lines is not None
    bad: Set[str] = set()
    repeated: Dict[str, None] = {}
    if lines is None:
        lines = {}
        for line in content.split(b"\n"):
            key, value = parse_line(line)
            if key and lines.setdefault(key, value) != value:
                repeated[key] = None
    reasons = []
    for fault in faults(path.name, lines):
        bad.add(fault.key)
        reasons.append(fault.reason)
    if bad:
        total = len(lines)
        lines = {key: value for key, value in lines.items() if key not in bad}
        notes.append(f"{path.name}: dropped {len(bad)} of {total} lines that are not valid; the first: {reasons[0]}")
    if repeated:
        first = next(iter(repeated))
        notes.append(f"{path.name}: {len(repeated)} keys have several values; kept the first of each, as of '{first}'")
    tidy = tidy and not bad and not first_unsorted(list(lines))
    return _Table(lines, bad, tidy)
