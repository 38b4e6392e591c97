"""Lists of room impulse responses (RIRs) and noises, in the form that Kaldi's reverberate_data_dir.py reads.

Probabilities in a list are mixed with the uniform distribution, and lists are weighted. The arithmetic is Kaldi's, so
that the same random numbers choose the same sounds.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.additive_noise import check_quotable
from sdpn_k2.kaldi.formats import words

_RIR_FIELDS = ("rir-id", "room-id", "receiver-position-id", "source-position-id", "rt60", "drr", "cte", "probability")
_NOISE_FIELDS = ("noise-id", "noise-type", "bg-fg-type", "room-linkage", "probability")


@dataclass
class Sound:
    """A line of an RIR list or a noise list.

    Attributes:
        entry: the file, or a command that ends in "|".
        room: the id of its room; empty for point-source noise.
        probability: its share among the draws, or None if the list does not say.
        isotropic: for noises, whether it was recorded in its room, and not from one direction.
        background: for noises, whether it is repeated to cover the whole recording.
    """

    entry: str
    room: str = ""
    probability: Optional[float] = None
    isotropic: bool = False
    background: bool = True


@dataclass
class Room:
    """The RIRs of a room, and the sum of their probabilities."""

    rirs: List[Sound] = field(default_factory=list)
    probability: Optional[float] = 0.0


@dataclass
class _List:
    path: str
    probability: Optional[float] = None


class _Line(NamedTuple):
    where: str  # file:line
    values: Dict[str, str]  # of the options, without the dashes
    location: str


@dataclass(frozen=True)
class Rooms:
    """All that may be drawn: rooms with their RIRs, point-source noises, and isotropic noises by room."""

    rooms: Mapping[str, Room]
    point_sources: Sequence[Sound] = ()
    isotropic: Mapping[str, Sequence[Sound]] = field(default_factory=dict)


def read_rooms(
    rir_lists: Sequence[str],
    noise_lists: Sequence[str] = (),
    rir_smoothing: float = 0.3,
    noise_smoothing: float = 0.3,
    rate: Optional[int] = None,
) -> Rooms:
    """Read lists of RIRs and noises.

    Args:
        rir_lists: "weight, file" or "file". A line of the file is
            "--rir-id I --room-id R [--probability P …] location".
        noise_lists: the same for noises, "--noise-id I --noise-type isotropic|point-source
            [--bg-fg-type background|foreground] [--room-linkage R] [--probability P] location".
        rir_smoothing: weight of the uniform distribution that the probabilities in the lists are mixed with.
        noise_smoothing: the same for noises.
        rate: sample rate in Hz that RIRs and noises are converted to by sox; None leaves them as they are.

    Raises:
        InputError: a file cannot be read, or a line is malformed.
    """
    rirs: List[Sound] = []
    for each in _weighted(rir_lists):
        found = [_rir(line) for line in _read_list(each.path, _RIR_FIELDS, rate)]
        rirs += _smooth(found, rir_smoothing, each.probability)
    rooms: Dict[str, Room] = {}
    for rir in rirs:
        rooms.setdefault(rir.room, Room()).rirs.append(rir)
    for room in rooms.values():
        room.probability = sum(probability_of(rir) for rir in room.rirs)

    point_sources: List[Sound] = []
    isotropic: Dict[str, List[Sound]] = {}
    for each in _weighted(noise_lists):
        noises = [_noise(line) for line in _read_list(each.path, _NOISE_FIELDS, rate)]
        for noise in noises:
            if noise.isotropic:
                isotropic.setdefault(noise.room, []).append(noise)
        point_sources += _smooth([noise for noise in noises if not noise.isotropic], noise_smoothing, each.probability)
    # As in Kaldi, point sources are normalised once more over all lists.
    return Rooms(
        rooms,
        _smooth(point_sources, noise_smoothing),
        {room: _smooth(noises, 0.0) for room, noises in isotropic.items()},
    )


def _weighted(lists: Sequence[str]) -> List[_List]:
    """Parse "weight, file" or "file"; lists without a weight share what the others leave."""
    parsed = []
    for text in lists:
        weight, comma, path = text.partition(",")
        if not comma:
            parsed.append(_List(words.strip(text)))
            continue
        parsed.append(_List(words.strip(path), _probability(weight, text)))
    return _smooth(parsed, 0.0)


def _probability(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise InputError(f"{where}: '{words.strip(text)}' is not a valid probability")
    return number


def _read_list(path: str, fields: Sequence[str], rate: Optional[int]) -> Iterator[_Line]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            lines = stream.read().split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if not words.strip(line):
            continue
        where = f"{path}:{number}"
        values, location = _parse_line(line, fields, where)
        check_quotable(location, where)
        if rate is not None and location.endswith("|"):
            location = f"{location} sox -t wav - -r {rate} -t wav - |"
        elif rate is not None:
            location = f"sox {location} -r {rate} -t wav - |"
        yield _Line(where, values, location)


def _parse_line(line: str, fields: Sequence[str], where: str) -> Tuple[Dict[str, str], str]:
    try:
        parts = shlex.split(line) if {"'", '"', "\\"} & set(line) else words.split(line)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    values: Dict[str, str] = {}
    locations: List[str] = []
    rest = iter(parts)
    for part in rest:
        if not part.startswith("--"):
            locations.append(part)
            continue
        name, equals, value = part[2:].partition("=")
        if name not in fields:
            raise InputError(f"{where}: unknown option --{name} (known are: {', '.join(fields)})")
        if not equals:
            value = next(rest, "")
        if not value:
            raise InputError(f"{where}: option --{name} needs a value")
        values[name] = value
    if len(locations) != 1:
        raise InputError(f"{where}: expected one location (quote a command), found {len(locations)}")
    return values, locations[0]


def _rir(line: _Line) -> Sound:
    for name in ("rir-id", "room-id"):
        if name not in line.values:
            raise InputError(f"{line.where}: --{name} is missing")
    return Sound(line.location, line.values["room-id"], _optional_probability(line))


def _noise(line: _Line) -> Sound:
    where, values, location = line
    for name, choices in (("noise-type", ("isotropic", "point-source")), ("bg-fg-type", ("background", "foreground"))):
        if values.setdefault(name, "background" if name == "bg-fg-type" else "") not in choices:
            raise InputError(f"{where}: --{name} must be {' or '.join(choices)}, got '{values[name]}'")
    if "noise-id" not in values:
        raise InputError(f"{where}: --noise-id is missing")
    isotropic = values["noise-type"] == "isotropic"
    if isotropic and "room-linkage" not in values:
        raise InputError(f"{where}: isotropic noise needs --room-linkage")
    return Sound(
        location,
        values["room-linkage"] if isotropic else "",
        _optional_probability(line),
        isotropic,
        values["bg-fg-type"] == "background",
    )


def _optional_probability(line: _Line) -> Optional[float]:
    return _probability(line.values["probability"], line.where) if "probability" in line.values else None


Weighted = TypeVar("Weighted", Sound, _List, Room)


def probability_of(item: Weighted) -> float:
    """Return the probability of an item, which is set."""
    assert item.probability is not None
    return item.probability


def _smooth(items: List[Weighted], smoothing: float, total: Optional[float] = 1.0) -> List[Weighted]:
    """Set the probabilities of all items; they add up to ``total``.

    Items without one share what the others leave. The others are mixed with that share. The formula is Kaldi's, also
    where no item lacks a probability: then it changes nothing.
    """
    assert total is not None
    known = 0.0
    for item in items:
        known += item.probability or 0.0
    unknown = sum(item.probability is None for item in items)
    share = (1 - known) / float(unknown) if unknown and known < 1 else 0.0
    for item in items:
        mixed = share
        if item.probability is not None:
            mixed = (1 - smoothing) * item.probability + smoothing * share
        item.probability = mixed
    sum_of_all = sum(probability_of(item) for item in items)
    if items and not sum_of_all:
        raise InputError("RIRs or noises: all probabilities are 0")
    for item in items:
        item.probability = probability_of(item) / sum_of_all * total
    return items
