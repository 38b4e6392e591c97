"""Sets of lhotse's cuts of every kind as the input of a command: manifests in all formats, and Shar folders."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Union

import numpy as np
from lhotse import Recording
from lhotse.cut import Cut

from sdpn_k2.data.lhotse_reading import check_commands
from sdpn_k2.data.manifest_files import AUDIO, SUFFIXES, parse_item, read_lines
from sdpn_k2.data.shar import SharTable
from sdpn_k2.errors import InputError


def is_cut_set(path: Path) -> bool:
    """Return whether ``path`` is a manifest by its name, or a folder of shards, rather than a data directory."""
    if path.is_dir():
        return next(path.glob("cuts.*.jsonl.gz"), None) is not None
    return path.name.endswith(SUFFIXES)


class CutSetReader:
    """The cuts of a manifest or of a Shar folder, read lazily and as often as iterated; recordings count as cuts."""

    def __init__(self, path: Path):
        """Open a set.

        Raises:
            InputError: no such file; while iterating: a broken file, or an item that is neither a cut nor a recording.
        """
        self.path = path
        self._shards = SharTable(path) if path.is_dir() else None
        if self._shards is None and not path.is_file():
            raise InputError(f"{path}: no such file")

    def __iter__(self) -> Iterator[Cut]:
        if self._shards is not None:
            yield from map(self._shards.__getitem__, range(len(self._shards)))
            return
        for number, line in enumerate(read_lines(self.path), start=1):
            item = parse_item(line, self.path, number, AUDIO)
            yield item.to_cut() if isinstance(item, Recording) else item


def load_cut_audio(cut: Union[Recording, Cut], channel: int = 0) -> np.ndarray:
    """Return one channel of a recording or of a cut of any kind, float32 ``(samples,)`` in ±1 at its own rate.

    Padded, appended and mixed cuts are mixed as lhotse does (``cut.load_audio``).

    Raises:
        InputError: no recording, audio that cannot be read, a command where they are refused, or no such channel.
    """
    check_commands(cut, cut.id)
    try:
        samples = cut.load_audio()
    except Exception as error:  # lhotse and what it reads with raise errors of many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise InputError(f"{cut.id}: cannot read audio: {reason}") from error
    if samples is None:
        raise InputError(f"{cut.id}: the cut has no recording")
    samples = np.atleast_2d(samples)
    if not 0 <= channel < len(samples):
        raise InputError(f"{cut.id}: there is no channel {channel} (0-based); the audio has {len(samples)}")
    return np.asarray(samples[channel], np.float32)
