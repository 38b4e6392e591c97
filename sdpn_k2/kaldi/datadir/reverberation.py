"""Reverberated copies of data directories, as Kaldi's steps/data/reverberate_data_dir.py makes them.

No audio is read or written: an entry of the new wav.scp is a command that applies an impulse response (RIR), and noises
if wanted, with ``wav-reverberate``. A room is drawn first, then one of its RIRs for the speech. Each point-source noise
gets an RIR of the same room; isotropic noise was recorded in that room. For the same seed, the same rooms, RIRs,
noises, SNRs and times are drawn as by Kaldi's script.
"""

from __future__ import annotations

import itertools
import random
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from sdpn_k2.errors import InputError
from sdpn_k2.files import make_folder
from sdpn_k2.kaldi.datadir.additive_noise import durations
from sdpn_k2.kaldi.datadir.data_dir import PathLike, read_map, spk2utt, write_map
from sdpn_k2.kaldi.datadir.sound_lists import Room, Rooms, Weighted, probability_of
from sdpn_k2.kaldi.formats import words


@dataclass(frozen=True)
class ReverberationSettings:
    """How likely each disturbance is, and how loud: SNRs are in dB, probabilities between 0 and 1.

    Raises:
        InputError: a list of SNRs is empty, or a number is out of range.
    """

    foreground_snrs: Sequence[float] = (20.0, 10.0, 0.0)
    background_snrs: Sequence[float] = (20.0, 10.0, 0.0)
    speech_probability: float = 1.0
    point_source_probability: float = 1.0
    isotropic_probability: float = 1.0
    max_noises_per_minute: int = 2
    shift_output: bool = True

    def __post_init__(self) -> None:
        if not (self.foreground_snrs and self.background_snrs):
            raise InputError("foreground and background SNRs: a list is empty")
        for probability in (self.speech_probability, self.point_source_probability, self.isotropic_probability):
            if not 0 <= probability <= 1:
                raise InputError(f"a probability must lie between 0 and 1, got {probability:g}")
        if self.max_noises_per_minute < 0:
            raise InputError(f"the number of noises per minute must be at least 0, got {self.max_noises_per_minute}")


# Drawing


class _Draw:
    """The random choices for all recordings, in the order in which Kaldi's script makes them."""

    def __init__(self, rooms: Rooms, settings: ReverberationSettings, seed: int) -> None:
        self.rooms = rooms
        self.settings = settings
        self.generator = random.Random(seed)
        self.foreground_snrs = self._endless(settings.foreground_snrs)
        self.background_snrs = self._endless(settings.background_snrs)

    def _endless(self, numbers: Sequence[float]) -> Iterator[float]:
        shuffled = list(numbers)
        self.generator.shuffle(shuffled)
        return itertools.cycle(shuffled)

    def _pick(self, items: Sequence[Weighted]) -> Weighted:
        weights = [probability_of(item) for item in items]
        point = self.generator.uniform(0, sum(weights))
        passed = 0.0
        for item, weight in zip(items, weights):
            if passed + weight >= point:
                return item
            passed += weight
        return items[-1]  # rounding

    def options(self, seconds: float) -> str:
        """Return the options of wav-reverberate for a recording, each followed by a blank; "" leaves it dry."""
        settings, generator = self.settings, self.generator
        names = sorted(self.rooms.rooms)
        generator.shuffle(names)
        room = self._pick([self.rooms.rooms[name] for name in names])
        rir = self._pick(room.rirs)
        result = ""
        if generator.random() < settings.speech_probability:
            result += f'--impulse-response="{rir.entry}" '
        noises: List[Tuple[str, float, float]] = []  # command, start, SNR
        isotropic = self.rooms.isotropic.get(rir.room, ())
        if isotropic and generator.random() < settings.isotropic_probability:
            noise = self._pick(isotropic)
            noises.append(
                (_through(noise.entry, f"wav-reverberate --duration={seconds}"), 0, next(self.background_snrs))
            )
        most = int(settings.max_noises_per_minute * seconds / 60)
        points = self.rooms.point_sources
        if points and generator.random() < settings.point_source_probability and most >= 1:
            for _ in range(generator.randint(1, most)):
                noises.append(self._point_source(room, seconds))
        if noises:
            commands, starts, snrs = zip(*noises)
            result += f"--additive-signals='{','.join(commands)}' "
            result += f"--start-times='{','.join(map(str, starts))}' --snrs='{','.join(map(str, snrs))}' "
        return result

    def _point_source(self, room: Room, seconds: float) -> Tuple[str, float, float]:
        noise, rir = self._pick(self.rooms.point_sources), self._pick(room.rirs)
        command = f'wav-reverberate --impulse-response="{rir.entry}" '
        if noise.background:
            return _through(noise.entry, f"{command}--duration={seconds}"), 0, next(self.background_snrs)
        start = round(self.generator.random() * seconds, 2)
        return _through(noise.entry, command), start, next(self.foreground_snrs)


def _through(entry: str, command: str) -> str:
    """Return the pipe of a sound through a wav-reverberate."""
    return f"{entry} {command} - - |" if entry.endswith("|") else f"{command} {entry} - |"


def _pipe(entry: str) -> str:
    """Return an entry of wav.scp as a command that writes the recording."""
    if entry.endswith("|"):
        return entry
    name, _, offset = entry.rpartition(":")
    program = "wav-copy" if name and offset.isdecimal() else "cat"
    return f"{program} {shlex.quote(entry)}{' -' if program == 'wav-copy' else ''} |"


# Whole directories


def copy_names(prefix: Optional[str], copies: int, original: bool) -> Dict[int, Callable[[str], str]]:
    """Return for the number of each copy, 0 for the original, the function that makes its ids: prefix1-id."""

    def named(number: int) -> Callable[[str], str]:
        return lambda name: name if prefix is None else f"{prefix}{number}-{name}"

    return {number: named(number) for number in range(0 if original else 1, copies + 1)}


def reverberate(
    source: PathLike,
    destination: PathLike,
    rooms: Rooms,
    settings: ReverberationSettings,
    *,
    copies: Mapping[int, Callable[[str], str]],
    seed: int = 0,
) -> int:
    """Write a data directory with reverberated copies of the recordings of ``source`` (reverberate_data_dir.py).

    Features are not carried over. VAD decisions are, since they hold for the clean speech. utt2uniq maps each utterance
    to the clean one. Speakers are renamed as utterances are.

    Args:
        source: the clean data directory, with reco2dur.
        destination: the directory to write.
        rooms: the RIRs and noises.
        settings: how to use them.
        copies: from :func:`copy_names`. Number 0 stays dry.
        seed: of the random choices.

    Returns:
        The number of recordings written.

    Raises:
        InputError: there are no RIRs, source and destination are the same, or a table is missing or malformed.
    """
    source, destination = Path(source), Path(destination)
    if not rooms.rooms:
        raise InputError("the lists of impulse responses are empty")
    if source.resolve() == destination.resolve():
        raise InputError(f"{source}: the reverberated copy needs a directory of its own")
    recordings, seconds = read_map(source / "wav.scp"), durations(source)
    draw = _Draw(rooms, settings, seed)
    shift = "true" if settings.shift_output else "false"
    commands = {}
    for number, rename in copies.items():
        for name in sorted(recordings):
            pipe, options = _pipe(" ".join(words.split(recordings[name]))), draw.options(seconds[name])
            if options and number > 0:
                pipe = f"{pipe} wav-reverberate --shift-output={shift} {options} - - |"
            commands[rename(name)] = pipe
    make_folder(destination)
    write_map(destination / "wav.scp", commands)

    def carry(name: str, number_of_ids: int) -> Dict[str, str]:
        """Copy a table, with new ids in its first column and, if it has two of them, in the second."""
        if not (source / name).is_file():
            return {}
        table = {}
        old = read_map(source / name)
        for rename in copies.values():
            for key, value in old.items():
                ids = words.split(value)
                table[rename(key)] = " ".join([rename(ids[0]), *ids[1:]] if number_of_ids == 2 else ids)
        write_map(destination / name, table)
        return table

    write_map(destination / "spk2utt", spk2utt(dict(sorted(carry("utt2spk", 2).items()))))
    for name in ("text", "vad.scp"):
        carry(name, 1)
    for name in ("segments", "reco2file_and_channel"):
        carry(name, 2)
    if not carry("utt2uniq", 1):
        clean = read_map(source / "utt2spk")
        write_map(destination / "utt2uniq", {rename(name): name for rename in copies.values() for name in clean})
    return len(commands)
