"""A stand-in for sox, for the calls that Kaldi's scripts write into wav.scp. It is last on PATH, so that sox wins."""

from __future__ import annotations

from fractions import Fraction
from typing import List, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.wave import Wave
from sdpn_k2.kaldi.formats.tables import read_object, write_object
from sdpn_k2.kaldi.tools.command_line import Tool
from sdpn_k2.pcm import to_int16

_MOST_STEPS = 1000  # a speed is a ratio of whole numbers up to this one
_INSTALL = "install sox for anything else"


class _Sox(Tool):
    """A tool with the command line of sox instead of Kaldi's."""

    def _run(self, argv: List[str]) -> int:
        if not argv or argv[0] in ("-h", "--help"):
            self.print_usage()
            return 0 if argv else 1
        files, volume, effects, rate = _parse(argv)
        wave = read_object(files[0], "wave")
        samples = wave.samples * np.float32(volume)
        for name, value in effects:
            if name == "vol":
                samples = samples * np.float32(value)
            else:
                ratio = Fraction(value).limit_denominator(_MOST_STEPS)
                samples = np.stack([resample(channel, ratio.numerator, ratio.denominator) for channel in samples])
        if rate:
            samples = np.stack([resample(channel, wave.rate, rate) for channel in samples])
        samples = to_int16(samples / np.float32(32768)).astype(np.float32)
        write_object(files[1], Wave(samples, rate or wave.rate), "wave")
        return 0


def _parse(argv: List[str]) -> Tuple[List[str], float, List[Tuple[str, float]], int]:
    """Return the two files, the volume of the input, the effects and the rate of the output (0: that of the input)."""
    files: List[str] = []
    volume, effects, rate, rest = 1.0, [], 0, iter(argv)
    for word in rest:
        if len(files) == 2:
            if word not in ("speed", "vol"):
                raise InputError(f"effect {word!r}: only 'speed' and 'vol' are available ({_INSTALL})")
            effects.append((word, _number(word, next(rest, None))))
        elif word in ("-v", "--volume", "--vol") and not files:
            volume = _number(word, next(rest, None))
        elif word in ("-r", "--rate") and len(files) == 1:
            text = next(rest, "")
            if not text.isdigit() or not 100 <= int(text) <= 1_000_000:
                raise InputError(f"{word} {text}: expected a whole number of samples per second from 100 to 1000000")
            rate = int(text)
        elif word in ("-t", "--type"):
            if next(rest, None) not in ("wav", "wavpcm"):
                raise InputError(f"{word}: only wav files can be read and written ({_INSTALL})")
        elif word in ("-q", "-D", "-G", "-R") or word.startswith("-V"):
            continue
        elif word.startswith("-") and word != "-":
            raise InputError(f"option {word!r} is not available ({_INSTALL})")
        else:
            files.append(word)
    if len(files) < 2:
        raise InputError("expected an input and an output file")
    return files, volume, effects, rate


def _number(name: str, text: Optional[str]) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not 0 <= value < np.inf or (name == "speed" and not 0.01 <= value <= 100):
        raise InputError(f"{name} {text}: expected a number" + (" from 0.01 to 100" if name == "speed" else ""))
    return value


def _usage() -> None:
    """Change the speed, volume or sample rate of a wave file, with the command line of sox.

    Usage: sox [-v|--vol <factor>] [-t wav] (<in.wav>|-) [-r <rate>] [-t wav] (<out.wav>|-)
               [speed <factor>] [vol <factor>]
     e.g.: sox -t wav a.wav -t wav - speed 0.9
           sox a.wav -r 8000 -t wav -
           sox --vol 0.5 -t wav - -t wav -
    A stand-in for the calls that Kaldi's scripts write into wav.scp, where sox is not installed.
    See also: wav-copy
    """


_usage.__name__ = "sox"
sox = _Sox(_usage, (), (2, None))
