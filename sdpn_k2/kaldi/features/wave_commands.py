"""Entries of wav.scp that our tools compute themselves, though they are commands.

Kaldi's offline augmentation writes commands such as ``cat u.wav | wav-reverberate --shift-output=true … - - |``, whose
noises are commands again. A process for each of them would take longer than all later processing. Importing this module
makes readers of waves recognise pipes of ``cat FILE``, ``wav-copy FILE -`` and ``wav-reverberate … - -``, and do their
work in this process, with the same samples. Any other command is left to a shell.
"""

from __future__ import annotations

import io
import re
from dataclasses import fields
from typing import Any, Callable, Dict, List, Optional

from sdpn_k2.kaldi.features.corruption import Corruption, corrupt
from sdpn_k2.kaldi.features.wave import Wave, encode_wave, read_command, read_wave
from sdpn_k2.kaldi.formats.holders import HOLDERS
from sdpn_k2.kaldi.formats.io import InputStream
from sdpn_k2.kaldi.formats.tables import read_object

# Words that a shell passes on as they are, apart from the quotes.
_WORD = r"""(?:[\w@%+=:,./-]+|'[^'\n]*'|"[^"$`\\!\n]*")+"""
_COMMAND = re.compile(rf"(?: *(?:{_WORD}|\|))+ *")
_TOKEN = re.compile(rf"{_WORD}|\|")
_PART = re.compile(r"""'([^']*)'|"([^"]*)"|([^'"]+)""")
_PARSERS: Dict[str, Callable[[str], Any]] = {
    "bool": {"true": True, "false": False}.__getitem__,
    "float": float,
    "int": int,
    "str": str,
}

_Step = Callable[[Optional[Wave]], Wave]


def run_command(command: str) -> Optional[Wave]:
    """Return the wave that a command would write, or None if it is left to a shell.

    Files are read, and nothing else is done, unless a noise or an impulse response is another command.

    Raises:
        InputError: a file cannot be read, or the command would fail.
    """
    wave = read_command(command)
    if wave is not None:
        return wave
    stages = _stages(command)
    if not stages:
        return None
    steps: List[_Step] = []
    for number, words in enumerate(stages):
        step = _step(words, number == 0)
        if step is None:
            return None
        steps.append(step)
    for step in steps:
        made = step(wave)
        # A pipe carries integers.
        wave = read_wave(InputStream(io.BytesIO(encode_wave(made)), command))
    return wave


def _stages(command: str) -> List[List[str]]:
    """Return the words of each part of a pipe that ends in "|"; nothing if a shell could see more in it."""
    if not command.endswith("|") or _COMMAND.fullmatch(command) is None:
        return []
    stages: List[List[str]] = [[]]
    for token in _TOKEN.findall(command):
        if token == "|":
            stages.append([])
        else:
            stages[-1].append("".join("".join(parts) for parts in _PART.findall(token)))
    return stages[:-1] if all(stages[:-1]) else []


def _step(words: List[str], first: bool) -> Optional[_Step]:
    """Return what a part of a pipe does, or None if it is not one of the known programs in its usual form."""
    program, *arguments = words
    if program == "cat" and first and len(arguments) == 1 and not arguments[0].startswith("-"):
        # Unlike a tool, cat knows neither offsets nor commands.
        return None if re.search(r"[|:]", arguments[0]) else lambda _: _read(arguments[0])
    if program == "wav-copy" and first and len(arguments) == 2 and arguments[1] == "-" and arguments[0] != "-":
        return lambda _: _read(arguments[0])
    if program == "wav-reverberate" and len(arguments) >= 2:
        *options, source, target = arguments
        settings = _settings(options)
        if settings is None or target != "-" or (source == "-") == first:
            return None
        return lambda wave: corrupt(_read(source) if wave is None else wave, settings, source)
    return None


def _settings(options: List[str]) -> Optional[Corruption]:
    """Return the settings of wav-reverberate, or None if an option is unknown or not valid."""
    known = {each.name: _PARSERS[str(each.type)] for each in fields(Corruption)}
    values: Dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        name = name[2:].replace("-", "_") if name.startswith("--") else ""
        if not equals or name not in known:
            return None
        try:
            values[name] = known[name](text)
        except (KeyError, ValueError):
            return None
    return Corruption(**values)


def _read(name: str) -> Wave:
    wave: Wave = read_object(name, "wave")
    return wave


def _run_duration(command: str) -> Optional[float]:
    wave = run_command(command)
    return None if wave is None else wave.duration


HOLDERS["wave"] = HOLDERS["wave"]._replace(run=run_command)
HOLDERS["wave_duration"] = HOLDERS["wave_duration"]._replace(run=_run_duration)
