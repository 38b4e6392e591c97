"""Random access to the cuts of a manifest that may be too large to parse as a whole."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Iterator, Tuple, Union

import numpy as np
from lhotse import CutSet, MonoCut

from sdpn_k2.data.manifest_files import parse_item
from sdpn_k2.errors import InputError


class CutTable:
    """A cut manifest in one byte buffer; each cut is parsed on access.

    A million cuts occupy about 1 GB. Loader processes share it after fork, since reading changes no Python object.
    """

    def __init__(self, path: Union[str, Path]):
        """Read ``path`` (``.jsonl`` or ``.jsonl.gz``).

        Raises:
            InputError: missing, empty or broken file.
        """
        self.path = Path(path)
        try:
            data = self.path.read_bytes()
            if data[:2] == b"\x1f\x8b":
                data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{self.path}: cannot read the cut manifest: {error}") from error
        if not data.strip():
            raise InputError(f"{self.path}: the manifest has no cuts")
        self._buffer = np.frombuffer(data if data.endswith(b"\n") else data + b"\n", np.uint8)
        self._ends = np.flatnonzero(self._buffer == ord("\n"))

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """Return the cuts' indices in random order."""
        return rng.permutation(len(self))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> MonoCut:
        return parse_item(self._line(index), self.path, index + 1, CutSet)

    def spans(self) -> Iterator[Tuple[str, float, float]]:
        """Yield id, start and duration (seconds) of each cut. Raises InputError."""
        for index in range(len(self)):
            try:
                item = json.loads(self._line(index))
                yield item["id"], item["start"], item["duration"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{self.path}:{index + 1}: not a valid lhotse cut: {error}") from error

    def _line(self, index: int) -> bytes:
        start = self._ends[index - 1] + 1 if index else 0
        return self._buffer[start : self._ends[index]].tobytes()
