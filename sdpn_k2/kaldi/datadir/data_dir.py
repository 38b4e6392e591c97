"""Kaldi data directories: read and write their tables.

A data directory describes a set of utterances in small text tables with one line per key, sorted by key in C locale
(byte order):

    file                   key         value
    wav.scp                recording   a file, or a command that writes one and ends in "|"
    segments               utterance   recording, start and end in seconds (end -1: the recording's end)
    utt2spk                utterance   speaker
    spk2utt                speaker     its utterances
    text, utt2lang …       utterance   transcript, language …
    feats.scp, vad.scp     utterance   location of the features or decisions
    utt2dur                utterance   seconds
    utt2num_frames         utterance   frames
    reco2dur               recording   seconds
    spk2gender             speaker     m or f
    trials                 enroll id   test id, and "target" or "nontarget"

Without ``segments``, each recording is one utterance of the same name. Utterance ids begin with the speaker id, so that
sorting by utterance also sorts by speaker. Source: Kaldi's "Data preparation" pages and utils/validate_data_dir.sh.

This module imports the standard library only, because the scripts in utils/ should start fast.
"""

import itertools
import operator
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.formats import words

PathLike = Union[str, Path]

TRIAL_LIST = re.compile(r"trials(_[A-Za-z0-9_-]+)?")  # names of trial lists; keep egs/voxceleb/run.sh in step

_GRAPHIC = bytes(range(0x21, 0x7F))  # the printable characters of ASCII without the blank

UTTERANCE_TABLES = (
    "text",
    "feats.scp",
    "vad.scp",
    "utt2dur",
    "utt2num_frames",
    "utt2lang",
    "utt2uniq",
    "utt2warp",
    "utt2max_frames",
)
SPEAKER_TABLES = ("cmvn.scp", "spk2gender", "spk2warp")
RECORDING_TABLES = ("reco2dur", "reco2file_and_channel", "reco2num_spk")


class Segment(NamedTuple):
    """A part of a recording. Times are in seconds; an end of -1 means the recording's end."""

    recording: str
    start: float
    end: float


# Reading


def read_map(path: PathLike) -> Dict[str, str]:
    """Read a table as key → the rest of its line, in the order of the file.

    Raises:
        InputError: the file cannot be read, a line is empty or lacks a value, a key is a duplicate, or a line has a
            Windows line end.
    """
    content = read_content(path)
    tidy = parse_tidy(content)
    if tidy is not None:
        return tidy
    table: Dict[str, str] = {}
    for number, key, value in _rows(path, content):
        if not value and os.path.basename(path) != "text":
            raise InputError(f"{path}:{number}: '{key}' has no value")
        if key in table:
            raise InputError(f"{path}:{number}: duplicate key '{key}'")
        table[key] = value
    return table


def read_lists(path: PathLike) -> Dict[str, List[str]]:
    """Read a table such as spk2utt as key → its fields. Raises InputError as :func:`read_map` does."""
    return {key: words.split(value) for key, value in read_map(path).items()}


def read_numbers(path: PathLike) -> Dict[str, float]:
    """Read a table of numbers, such as utt2dur, reco2dur or utt2num_frames.

    Raises:
        InputError: as :func:`read_map`, or a value is not a finite number.
    """
    return {
        key: parse_number(f"{path}:{number}", key, value)
        for number, (key, value) in enumerate(read_map(path).items(), start=1)
    }


def read_segments(path: PathLike) -> Dict[str, Segment]:
    """Read a segments file as utterance → :class:`Segment`.

    Raises:
        InputError: as :func:`read_map`, or a line does not give a recording, a start and a later end.
    """
    return {
        utterance: parse_segment(utterance, value, f"{path}:{number}")
        for number, (utterance, value) in enumerate(read_map(path).items(), start=1)
    }


def parse_segment(utterance: str, value: str, where: str = "") -> Segment:
    """Parse "recording start end" and Kaldi's optional channel. An InputError begins with ``where`` (file:line)."""
    fields, at = words.split(value), f"{where}: " if where else ""
    if len(fields) not in (3, 4):
        raise InputError(f"{at}expected 'utterance recording start end', got '{utterance} {value}'")
    start, end = (parse_number(where, utterance, field) for field in fields[1:3])
    if start < 0:
        raise InputError(f"{at}'{utterance}' starts at {fields[1]} s; a start cannot be negative")
    if end <= start and end != -1:
        raise InputError(f"{at}'{utterance}' goes from {fields[1]} to {fields[2]} s: it must end after its start")
    return Segment(fields[0], start, end)


def trial_lists(directory: PathLike) -> List[Path]:
    """Return the trial lists in a directory, sorted: files named ``trials`` or ``trials_<name>``, but no backups."""
    found = Path(directory).glob("trials*")
    return sorted(path for path in found if TRIAL_LIST.fullmatch(path.name) and path.is_file())


def read_content(path: PathLike) -> bytes:
    """Return the bytes of a file; raise InputError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error


def parse_tidy(content: bytes) -> Optional[Dict[str, str]]:
    """Parse a table of printable ASCII with single blanks and unique keys, as scripts write it; else return None.

    This takes a third of the time of parsing line by line, and large corpora have a million lines.
    """
    count = content.count(b"\n")
    blanks = content.translate(None, _GRAPHIC)
    if blanks == b" \n" * count:
        fields = content.decode("ascii").split()
        if len(fields) != 2 * count:
            return None
        following = iter(fields)
        table = dict(zip(following, following))
    else:
        if blanks.translate(None, b" \n") or content[:1] == b" ":
            return None
        if b"  " in content or b" \n" in content or b"\n " in content or content[-1:] != b"\n":
            return None
        try:
            table = dict(line.split(" ", 1) for line in content[:-1].decode("ascii").split("\n"))
        except ValueError:  # an empty line, or a key without a value
            return None
    return table if len(table) == count else None


def parse_line(line: bytes) -> Tuple[str, str]:
    """Return the key and the value of a line, both "" if it is blank.

    Lines are split as bytes, for the reason that formats/words.py gives.
    """
    fields = line.split(None, 1)
    key = fields[0].decode("utf-8", "surrogateescape") if fields else ""
    return key, fields[1].rstrip().decode("utf-8", "surrogateescape") if len(fields) > 1 else ""


def _rows(path: PathLike, content: bytes) -> Iterator[Tuple[int, str, str]]:
    """Yield line number, key and value of each line."""
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\r"):
            raise InputError(f"{path}:{number}: Windows line end; remove it with: sed -i 's/\\r$//' {path}")
        key, value = parse_line(line)
        if not key:
            raise InputError(f"{path}:{number}: empty line")
        yield number, key, value


def parse_number(where: str, key: str, value: str) -> float:
    """Parse the value of ``key``, a finite number. An InputError begins with ``where`` (file:line)."""
    try:
        number = float(value) if value.isascii() and "_" not in value else float("nan")
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise InputError(f"{f'{where}: ' if where else ''}'{key}' has '{value}', which is not a valid number")
    return number


# Writing


def byte_order(key: str) -> bytes:
    """Return the sort key for C locale, the order of ``LC_ALL=C sort``."""
    return key.encode("utf-8", "surrogateescape")


def in_byte_order(keys: Sequence[str]) -> bool:
    """Return whether keys ascend in C locale, without duplicates."""
    ordered = _comparable(keys)
    return all(map(operator.lt, ordered, itertools.islice(ordered, 1, None)))


def first_unsorted(keys: Sequence[str]) -> int:
    """Return the 1-based position of the first key that sorts before its predecessor in C locale, or 0 if none does."""
    ordered = _comparable(keys)
    if all(map(operator.le, ordered, itertools.islice(ordered, 1, None))):
        return 0
    return next(number for number in range(2, len(ordered) + 1) if ordered[number - 1] < ordered[number - 2])


def sorted_keys(keys: Iterable[str]) -> List[str]:
    """Return keys sorted in C locale."""
    keys = list(keys)
    return sorted(keys) if _comparable(keys) is keys else sorted(keys, key=byte_order)


def _comparable(keys: Sequence[str]) -> Sequence[Any]:
    """Return the keys in a form that compares in C locale: code points do, unless they stand for single bytes."""
    try:
        "".join(keys).encode()
    except UnicodeEncodeError:
        return list(map(byte_order, keys))
    return keys


def write_map(path: PathLike, items: Union[Mapping[str, object], Iterable[Tuple[str, object]]]) -> None:
    """Write a table of "key value" lines, sorted in C locale. The file is written completely or not at all.

    A value may be a string, a number, or a list or tuple of them. Floats are written with the fewest digits that give
    the same number.

    Raises:
        InputError: a key is empty, a duplicate or has white space, a value has a line break, or the file cannot be
            written.
    """
    with atomic_output(path) as stream:
        stream.write(format_map(path, items))


def format_map(path: PathLike, items: Union[Mapping[str, object], Iterable[Tuple[str, object]]]) -> bytes:
    """Return what :func:`write_map` writes into ``path``, which is for messages only."""
    pairs = list(items.items() if isinstance(items, Mapping) else items)
    keys = [key for key, _ in pairs]
    ascending = in_byte_order(keys)
    if not ascending:
        pairs.sort(key=lambda pair: byte_order(pair[0]))
        keys = [key for key, _ in pairs]
    lines = [_line(key, value if type(value) is str else _value(value)) for key, value in pairs]
    joined, text = "".join(keys), "".join(lines)
    # All at once where nothing is special; line by line only to find what is wrong.
    plain = joined.isascii() and joined.isprintable() and " " not in joined and "" not in keys
    if not plain or "\r" in text or text.count("\n") != len(pairs):
        for key, line in zip(keys, lines):
            if not words.is_key(key):
                raise InputError(f"{path}: '{key}' is not a valid key: it is empty or has white space")
            if "\n" in line[:-1] or "\r" in line:
                raise InputError(f"{path}: the value of '{key}' has a line break")
    if not ascending and len(set(keys)) < len(keys):
        key = next(key for key, following in zip(keys, keys[1:]) if key == following)
        raise InputError(f"{path}: duplicate key '{key}'")
    return byte_order(text)


def _line(key: str, value: str) -> str:
    return f"{key} {value}\n" if value else f"{key}\n"


def _value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def spk2utt(utt2spk: Mapping[str, str]) -> Dict[str, List[str]]:
    """Convert utterance → speaker to speaker → utterances, both in order of appearance."""
    table: Dict[str, List[str]] = {}
    for utterance, speaker in utt2spk.items():
        table.setdefault(speaker, []).append(utterance)
    return table


def utt2spk(spk2utt: Mapping[str, Iterable[str]]) -> Dict[str, str]:
    """Convert speaker → utterances to utterance → speaker, in order of appearance."""
    return {utterance: speaker for speaker, utterances in spk2utt.items() for utterance in utterances}
