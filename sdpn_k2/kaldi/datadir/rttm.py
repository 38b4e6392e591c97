"""Who speaks when: RTTM files of NIST, the regions to score (UEM), and speaker turns from labelled segments.

A line of an RTTM file is "TYPE recording channel start duration words subtype speaker confidence [lookahead]". For
diarization, TYPE is SPEAKER. Source: NIST's RT-09 evaluation plan, Appendix A; Kaldi's diarization/make_rttm.py.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Dict, Iterable, Iterator, List, NamedTuple, Tuple

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import byte_order, parse_number, read_map, read_segments
from sdpn_k2.kaldi.formats import words

#: The types of records; those for words are read over.
TYPES = (
    *("SPEAKER", "NOSCORE", "NO_RT_METADATA", "SPKR-INFO", "SEGMENT", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER"),
    *("EDIT", "IP", "SU", "CB", "A/P"),
)


class Record(NamedTuple):
    """A line of an RTTM file. Times are in seconds; the channel is in lower case."""

    type: str
    recording: str
    channel: str
    start: float
    end: float
    speaker: str


class Turn(NamedTuple):
    """A stretch of time in which a speaker speaks, in seconds."""

    recording: str
    start: float
    end: float
    speaker: str


def turns_of_segments(segments: str, labels: str) -> List[Turn]:
    """Return the turns that labelled segments amount to, by recording and time.

    Where a segment overlaps the next one, as windows do, the border is the middle of the overlap. Adjoining segments of
    one speaker become one turn.

    Args:
        segments: file of lines "segment recording start end".
        labels: file of lines "segment speaker".

    Raises:
        InputError: a file is malformed, or a segment has no label.
    """
    speaker_of = read_map(labels)
    by_recording: Dict[str, List[Turn]] = {}
    for name, (recording, start, end) in read_segments(segments).items():
        if name not in speaker_of:
            raise InputError(f"{labels}: segment '{name}' of {segments} has no label")
        by_recording.setdefault(recording, []).append(Turn(recording, start, end, speaker_of[name]))
    turns: List[Turn] = []
    for pieces in by_recording.values():
        pieces.sort(key=lambda piece: (piece.start, piece.end))
        turns += _merge(_cut_overlaps(pieces))
    return turns


def _cut_overlaps(pieces: List[Turn]) -> Iterator[Turn]:
    start = pieces[0].start
    for piece, following in zip(pieces, pieces[1:]):
        end, next_start = piece.end, following.start
        if end > next_start:
            end = next_start = (next_start + end) / 2.0
        if end > start:
            yield piece._replace(start=start, end=end)
        start = next_start
    if pieces[-1].end > start:
        yield pieces[-1]._replace(start=start)


def _merge(pieces: Iterable[Turn]) -> Iterator[Turn]:
    current = None
    for piece in pieces:
        if current and current.end == piece.start and current.speaker == piece.speaker:
            current = current._replace(end=piece.end)
            continue
        if current:
            yield current
        current = piece
    if current:
        yield current


def format_turns(turns: Iterable[Turn], channel: str = "0") -> bytes:
    """Return the lines of an RTTM file, with times to the millisecond as in Kaldi."""
    return b"".join(
        byte_order(
            f"SPEAKER {turn.recording} {channel} {turn.start:7.3f} {turn.end - turn.start:7.3f} "
            f"<NA> <NA> {turn.speaker} <NA> <NA>\n"
        )
        for turn in turns
    )


def read_rttm(path: str) -> List[Record]:
    """Read the records of an RTTM file ("-": standard input), in its order.

    Raises:
        InputError: the file cannot be read, or a line has too few fields, an unknown type or invalid times.
    """
    records = []
    for where, fields in _lines(path):
        if len(fields) < 9:
            raise InputError(f"{where}: an RTTM record has 9 or 10 fields, but this line has {len(fields)}")
        kind = fields[0].upper()
        if kind not in TYPES:
            raise InputError(f"{where}: '{fields[0]}' is not a type of RTTM records")
        # An asterisk marks a time that was guessed; records about a speaker have no times.
        start, duration = (
            0.0 if field.lower() == "<na>" else parse_number(where, fields[1], field.replace("*", "", 1))
            for field in fields[3:5]
        )
        if duration < 0:
            raise InputError(f"{where}: '{fields[1]}' has the duration {duration:g} s")
        records.append(Record(kind, fields[1], fields[2].lower(), start, start + duration, fields[7]))
    return records


def read_uem(path: str, keep_folders: bool = False) -> Dict[Tuple[str, str], List[Tuple[float, float]]]:
    """Read the regions to score: (recording, channel) → (start, end) in seconds, by time.

    As md-eval.pl does, the recording is the name without what follows its first dot and, unless ``keep_folders``,
    without folders.

    Raises:
        InputError: the file cannot be read, a line is not "recording channel start end", or regions overlap.
    """
    regions: Dict[Tuple[str, str], List[Tuple[float, float]]] = {}
    for where, fields in _lines(path):
        if len(fields) < 4:
            raise InputError(f"{where}: expected 'recording channel start end'")
        name = fields[0] if keep_folders else os.path.basename(fields[0])
        start, end = (parse_number(where, name, field.strip(",")) for field in fields[2:4])
        if end <= start:
            raise InputError(f"{where}: the region goes from {fields[2]} to {fields[3]}: it must end after its start")
        key = re.sub(r"\.[^.]*", "", name, count=1), fields[1].lower()
        regions.setdefault(key, []).append((start, end))
    for (name, channel), found in regions.items():
        found.sort()
        for first, second in zip(found, found[1:]):
            if second[0] < first[1]:
                raise InputError(f"{path}: regions {first} and {second} of '{name}', channel {channel}, overlap")
    return regions


def _lines(path: str) -> Iterator[Tuple[str, List[str]]]:
    """Yield the place and the fields of each line that is neither blank nor a comment."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else open(path, "rb").read()
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), start=1):
        fields = words.split(line)
        if fields and fields[0][0] not in "#;":
            yield f"{path}:{number}", fields
