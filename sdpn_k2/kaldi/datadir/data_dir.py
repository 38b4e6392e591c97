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

import os
import re
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Mapping, NamedTuple, Tuple, Union

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.formats import words

PathLike = Union[str, Path]

TRIAL_LIST = re.compile(r"trials(_[A-Za-z0-9_-]+)?")  # names of trial lists; keep egs/voxceleb/run.sh in step

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
    table: Dict[str, str] = {}
    for number, key, value in _rows(path):
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


def parse_segment(utterance: str, value: str, where: str) -> Segment:
    """Parse "recording start end" and Kaldi's optional channel. An InputError begins with ``where`` (file:line)."""
    fields = words.split(value)
    if len(fields) not in (3, 4):
        raise InputError(f"{where}: expected 'utterance recording start end', got '{utterance} {value}'")
    start, end = (parse_number(where, utterance, field) for field in fields[1:3])
    if start < 0:
        raise InputError(f"{where}: '{utterance}' starts at {fields[1]} s; a start cannot be negative")
    if end <= start and end != -1:
        raise InputError(f"{where}: '{utterance}' goes from {fields[1]} to {fields[2]} s: it must end after its start")
    return Segment(fields[0], start, end)


def trial_lists(directory: PathLike) -> List[Path]:
    """Return the trial lists in a directory, sorted: files named ``trials`` or ``trials_<name>``, but no backups."""
    found = Path(directory).glob("trials*")
    return sorted(path for path in found if TRIAL_LIST.fullmatch(path.name) and path.is_file())


def _rows(path: PathLike) -> Iterator[Tuple[int, str, str]]:
    """Yield line number, key and the rest of each line.

    Lines are split as bytes, for the reason that formats/words.py gives.
    """
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.endswith(b"\r\n"):
                    raise InputError(f"{path}:{number}: Windows line end; remove it with: sed -i 's/\\r$//' {path}")
                fields = line.split(None, 1)
                if not fields:
                    raise InputError(f"{path}:{number}: empty line")
                key = fields[0].decode("utf-8", "surrogateescape")
                yield number, key, fields[1].rstrip().decode("utf-8", "surrogateescape") if len(fields) > 1 else ""
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error


def parse_number(where: str, key: str, value: str) -> float:
    """Parse the value of ``key``, a finite number. An InputError begins with ``where`` (file:line)."""
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise InputError(f"{where}: '{key}' has '{value}', which is not a valid number")
    return number


# Writing


def byte_order(key: str) -> bytes:
    """Return the sort key for C locale, the order of ``LC_ALL=C sort``."""
    return key.encode("utf-8", "surrogateescape")


def write_map(path: PathLike, items: Union[Mapping[str, object], Iterable[Tuple[str, object]]]) -> None:
    """Write a table of "key value" lines, sorted in C locale. The file is written completely or not at all.

    A value may be a string, a number, or a list or tuple of them. Floats are written with the fewest digits that give
    the same number.

    Raises:
        InputError: a key is empty, a duplicate or has white space, a value has a line break, or the file cannot be
            written.
    """
    pairs = sorted(items.items() if isinstance(items, Mapping) else items, key=lambda pair: byte_order(pair[0]))
    previous = None
    with atomic_output(path) as stream:
        for key, value in pairs:
            text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            if not words.is_key(key):
                raise InputError(f"{path}: '{key}' is not a valid key: it is empty or has white space")
            if "\n" in text or "\r" in text:
                raise InputError(f"{path}: the value of '{key}' has a line break")
            if key == previous:
                raise InputError(f"{path}: duplicate key '{key}'")
            previous = key
            stream.write(byte_order(f"{key} {text}\n" if text else f"{key}\n"))


def spk2utt(utt2spk: Mapping[str, str]) -> Dict[str, List[str]]:
    """Convert utterance → speaker to speaker → utterances, both in order of appearance."""
    table: Dict[str, List[str]] = {}
    for utterance, speaker in utt2spk.items():
        table.setdefault(speaker, []).append(utterance)
    return table


def utt2spk(spk2utt: Mapping[str, Iterable[str]]) -> Dict[str, str]:
    """Convert speaker → utterances to utterance → speaker, in order of appearance."""
    return {utterance: speaker for speaker, utterances in spk2utt.items() for utterance in utterances}
