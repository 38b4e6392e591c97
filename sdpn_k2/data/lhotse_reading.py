"""What lhotse may do when it reads for us: audio through our reader, and commands only if they are allowed.

lhotse runs a shell for audio sources of type ``command``, for paths that begin with ``pipe:``, for features in Kaldi's
archives whose path ends in ``|``, and for NIST SPHERE files. With SDPN_K2_ALLOW_PIPES=false all of these are refused.
SPHERE files never start a shell: libsndfile reads them.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any, FrozenSet, Iterator, Optional, Tuple

import lhotse.audio.backend
import numpy as np
from lhotse.audio.backend import LibsndfileBackend, get_default_audio_backend, set_current_audio_backend
from lhotse.utils import compute_num_samples

from sdpn_k2.data.audio_files import FFMPEG_SUFFIXES
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.sound import open_sound
from sdpn_k2.kaldi.formats.io import commands_are_allowed, require_commands
from sdpn_k2.kaldi.formats.tables import script_lines


class SoundBackend(LibsndfileBackend):
    """lhotse's libsndfile backend with our reader, so that training reads what preparation accepts."""

    def read_audio(
        self,
        path_or_fd: Any,
        offset: float = 0.0,
        duration: Optional[float] = None,
        force_opus_sampling_rate: Optional[int] = None,
    ) -> Tuple[np.ndarray, int]:
        """Return samples (channels, samples) in ±1 and the rate, from ``offset`` on for ``duration`` seconds."""
        if _is_for_others(path_or_fd):
            return get_default_audio_backend().read_audio(path_or_fd, offset, duration, force_opus_sampling_rate)
        is_path = isinstance(path_or_fd, (str, Path))
        source = path_or_fd if is_path or path_or_fd.seekable() else path_or_fd.read()
        with open_sound(source) as sound:
            first = compute_num_samples(offset, sound.rate)
            count = None if duration is None else compute_num_samples(duration, sound.rate)
            return np.ascontiguousarray(sound.read(first, count).T), sound.rate

    def info(self, path_or_fd: Any, force_opus_sampling_rate: Optional[int] = None) -> Any:
        """Describe a file, as lhotse's backends do."""
        if _is_for_others(path_or_fd):
            return get_default_audio_backend().info(path_or_fd, force_opus_sampling_rate)
        return super().info(path_or_fd, force_opus_sampling_rate)


def _is_for_others(path_or_fd: Any) -> bool:
    """Return whether libsndfile cannot read a file, and lhotse's other backends may."""
    if not isinstance(path_or_fd, (str, Path)):
        return False
    return Path(path_or_fd).suffix.lower() in FFMPEG_SUFFIXES or ".tar/" in str(path_or_fd)


def use_our_reader() -> None:
    """Make lhotse read audio as we do, unless the program or the environment has chosen a backend."""
    if lhotse.audio.backend.CURRENT_AUDIO_BACKEND is None and "LHOTSE_AUDIO_BACKEND" not in os.environ:
        set_current_audio_backend(SoundBackend())


def check_commands(item: Any, where: str) -> None:
    """Refuse an item of a manifest that would run a command while commands are switched off.

    Args:
        item: a recording, cut or supervision of lhotse, or the dict that its ``to_dict`` returns.
        where: file and line, or id, for the message.

    Raises:
        InputError: the item names a command.
    """
    if commands_are_allowed():
        return
    if hasattr(item, "to_dict"):
        item = item.to_dict()
    for command in _commands(item):
        try:
            require_commands(command)
        except InputError as error:
            name = f"'{item['id']}': " if isinstance(item, dict) and "id" in item else ""
            raise InputError(f"{where}: {name}{error}") from None


def _commands(item: Any) -> Iterator[str]:
    """Yield the commands that lhotse would run to read an item."""
    if isinstance(item, (list, tuple)):
        for each in item:
            yield from _commands(each)
    if not isinstance(item, dict):
        return
    source, storage, key = (item.get(name) for name in ("source", "storage_path", "storage_key"))
    if item.get("type") == "command" and source is not None:
        yield str(source)
    for path in (source, storage, key):
        if isinstance(path, str) and path.lstrip().startswith("pipe:"):
            yield path
    if isinstance(storage, str) and item.get("storage_type") == "kaldiio":
        if _is_command(storage):
            yield storage
        elif storage.endswith(".scp") and (key in _commands_of_script(storage, _stamp(storage))):
            yield f"{storage}: {key}"
    for value in item.values():
        yield from _commands(value)


def _stamp(path: str) -> Tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=8)
def _commands_of_script(path: str, stamp: Tuple[int, int]) -> FrozenSet[str]:
    """Return the keys of a script file whose entry is a command; ``stamp`` tells versions of the file apart."""
    if not any(stamp):
        return frozenset()
    return frozenset(key for key, entry in script_lines(path) if _is_command(entry))


def _is_command(rxfilename: str) -> bool:
    """Return whether Kaldi's readers run a name as a command; a range of rows may follow it."""
    name = re.sub(r"\[[^\]]*\]$", "", rxfilename.strip())
    return name.rstrip().endswith("|") or name.startswith("|")
