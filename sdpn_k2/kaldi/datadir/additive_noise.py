"""Copies of data directories with added noise, as Kaldi's steps/data/augment_data_dir.py makes them.

No audio is read or written: an entry of the new wav.scp is a command that adds the noise with ``wav-reverberate``.
Background noises are repeated to the length of the recording, and several may overlap (babble). Foreground noises
follow one another. For the same seed, the same noises, SNRs and times are drawn as by Kaldi's script.
"""

from __future__ import annotations

import random
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

from sdpn_k2.errors import InputError
from sdpn_k2.files import make_folder
from sdpn_k2.kaldi.datadir.data_dir import PathLike, read_map, read_numbers, spk2utt, write_map
from sdpn_k2.kaldi.formats import words

# A noise stands inside '…' and "…" on the command line, and wav-reverberate splits the list of noises at commas.
_UNQUOTABLE = re.compile(r"['\",$`\\\n]")


@dataclass(frozen=True)
class NoiseSet:
    """Noises of a data directory: ``entries`` of its wav.scp and ``durations`` in seconds, by recording."""

    entries: Dict[str, str] = field(default_factory=dict)
    durations: Dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NoiseSettings:
    """What may be drawn: SNRs in dB, the number of overlapping background noises, and seconds between foreground ones.

    Raises:
        InputError: a list is empty, or a number of noises or the interval is negative.
    """

    foreground_snrs: Sequence[int] = (20, 10, 0)
    background_snrs: Sequence[int] = (20, 10, 0)
    background_counts: Sequence[int] = (1,)
    interval: int = 0

    def __post_init__(self) -> None:
        if not (self.foreground_snrs and self.background_snrs and self.background_counts):
            raise InputError("SNRs and numbers of background noises: a list is empty")
        if min(self.background_counts) < 0:
            raise InputError(f"a number of background noises must be at least 0, got {min(self.background_counts)}")
        if self.interval < 0:
            raise InputError(f"the interval between foreground noises must be at least 0, got {self.interval}")


def read_noises(directory: PathLike) -> NoiseSet:
    """Read wav.scp and reco2dur of a directory of noises.

    Raises:
        InputError: a file is missing, empty or malformed, a noise has no duration, or its entry cannot be quoted.
    """
    directory = Path(directory)
    noises = NoiseSet(read_map(directory / "wav.scp"), durations(directory))
    if not noises.entries:
        raise InputError(f"{directory / 'wav.scp'}: there are no noises")
    for name, entry in noises.entries.items():
        check_quotable(entry, f"{directory / 'wav.scp'}: noise '{name}'")
    return noises


def durations(directory: PathLike) -> Dict[str, float]:
    """Return the duration of each recording of a data directory, in seconds, from its reco2dur.

    Raises:
        InputError: reco2dur is missing or malformed, lacks a recording of wav.scp, or has one without length.
    """
    directory = Path(directory)
    path = directory / "reco2dur"
    if not path.is_file():
        raise InputError(f"{path}: no such file; write it with utils/data/get_reco2dur.sh {directory}")
    seconds = read_numbers(path)
    for recording in read_map(directory / "wav.scp"):
        if recording not in seconds:
            raise InputError(f"{path}: recording '{recording}' of {directory / 'wav.scp'} is missing")
        if seconds[recording] <= 0:
            raise InputError(f"{path}: recording '{recording}' lasts {seconds[recording]:g} s")
    return seconds


def check_quotable(entry: str, where: str) -> None:
    """Raise InputError if an entry of wav.scp cannot be put between the quotes of a command."""
    found = _UNQUOTABLE.search(entry)
    if found:
        raise InputError(f"{where}: {entry!r} has the character {found.group()!r}, which wav-reverberate cannot get")


def add_noise_command(
    entry: str,
    seconds: float,
    background: NoiseSet,
    foreground: NoiseSet,
    settings: NoiseSettings,
    generator: random.Random,
) -> str:
    """Return the entry of wav.scp that adds noise to the recording ``entry``, which lasts ``seconds``."""
    signals: List[str] = []
    starts: List[float] = []
    snrs: List[int] = []
    # The order of the draws is Kaldi's.
    if background.entries:
        names = list(background.entries)
        for _ in range(generator.choice(settings.background_counts)):
            noise = background.entries[generator.choice(names)]
            signals.append(f'wav-reverberate --duration={seconds} "{noise}" - |')
            snrs.append(generator.choice(settings.background_snrs))
            starts.append(0)
    if foreground.entries:
        names = list(foreground.entries)
        position: float = 0
        while position < seconds:
            name = generator.choice(names)
            signals.append(foreground.entries[name])
            snrs.append(generator.choice(settings.foreground_snrs))
            starts.append(position)
            position += foreground.durations[name] + settings.interval
    options = (
        f"--additive-signals='{','.join(signals)}' "
        f"--start-times='{','.join(map(str, starts))}' --snrs='{','.join(map(str, snrs))}'"
    )
    if entry.endswith("|"):
        return f"{entry} wav-reverberate --shift-output=true {options} - - |"
    return f"wav-reverberate --shift-output=true {options} {shlex.quote(entry)} - |"


def affix(prefix: str = "", suffix: str = "") -> Callable[[str], str]:
    """Return the function that makes the id of a noisy copy, ``prefix-id`` or ``id-suffix``."""
    if prefix and suffix:
        raise InputError("a prefix and a suffix for ids: only one of them can be used")
    return lambda name: f"{prefix}-{name}" if prefix else f"{name}-{suffix}" if suffix else name


def augment(
    source: PathLike,
    destination: PathLike,
    *,
    background: Optional[PathLike] = None,
    foreground: Optional[PathLike] = None,
    settings: NoiseSettings,
    rename: Callable[[str], str],
    rename_speakers: bool = False,
    seed: int = 123,
) -> int:
    """Write a data directory whose recordings are those of ``source`` with noise (augment_data_dir.py).

    Features are not carried over. VAD decisions are, since they hold for the clean speech. utt2uniq maps each utterance
    to the clean one.

    Args:
        source: the clean data directory, with reco2dur.
        destination: the directory to write.
        background: data directory of noises that cover whole recordings, with reco2dur.
        foreground: data directory of noises that follow one another, with reco2dur.
        settings: what may be drawn.
        rename: gives the new id of a recording or utterance.
        rename_speakers: whether speakers get new ids, too.
        seed: of the random choices.

    Returns:
        The number of recordings.

    Raises:
        InputError: there are no noises, source and destination are the same, or a table is missing or malformed.
    """
    source, destination = Path(source), Path(destination)
    if background is None and foreground is None:
        raise InputError("neither background nor foreground noises are given")
    if source.resolve() == destination.resolve():
        raise InputError(f"{source}: the noisy copy needs a directory of its own")
    sets = [NoiseSet() if directory is None else read_noises(directory) for directory in (background, foreground)]
    recordings, seconds = read_map(source / "wav.scp"), durations(source)
    generator = random.Random(seed)
    commands = {
        rename(name): add_noise_command(entry, seconds[name], sets[0], sets[1], settings, generator)
        for name, entry in recordings.items()
    }
    make_folder(destination)
    write_map(destination / "wav.scp", commands)

    def carry(name: str, key: Callable[[str], str], first: Callable[[str], str] = str) -> Dict[str, str]:
        """Copy a table with new keys, and a new first word of the values; return it, empty if there is none."""
        if not (source / name).is_file():
            return {}
        table = {}
        for old, value in read_map(source / name).items():
            head, *rest = words.split(value) or [""]
            table[key(old)] = " ".join([first(head), *rest])
        write_map(destination / name, table)
        return table

    speaker = rename if rename_speakers else str
    for name in ("reco2dur", "utt2dur", "utt2lang", "utt2num_frames", "text", "vad.scp"):
        carry(name, rename)
    for name in ("segments", "reco2file_and_channel"):
        carry(name, rename, rename)
    carry("spk2gender", speaker)
    utt2spk = carry("utt2spk", rename, speaker)
    write_map(destination / "spk2utt", spk2utt(utt2spk))
    if not carry("utt2uniq", rename):
        write_map(destination / "utt2uniq", {rename(name): name for name in read_map(source / "utt2spk")})
    return len(commands)
