"""Embeddings that are kept beside an unfinished output, so that a stopped run can go on."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Dict, Optional, Type
from urllib.parse import quote, unquote

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.files import hidden_name, make_folder
from sdpn_k2.kaldi.formats import matrix
from sdpn_k2.kaldi.formats.specifiers import is_table, parse_wspecifier
from sdpn_k2.kaldi.formats.tables import read_table
from sdpn_k2.scoring.vector_files import is_folder, table_specifier

log = logging.getLogger(__name__)


class PartialVectors:
    """The embeddings of a stopped run, in ``.<output>.<digest>.part``, to which this run appends its own.

    The file is a Kaldi archive under quoted names. It is removed when the ``with`` block ends without an exception.

    Attributes:
        vectors: name → embedding, as found at the start.
    """

    def __init__(self, output: str, settings: bytes):
        """Open the file beside ``output``; ``settings`` is all that decides on the embeddings, such as the weights.

        Outputs that are no file, such as ``-``, keep nothing.

        Raises:
            InputError: the file cannot be written.
        """
        self.vectors: Dict[str, np.ndarray] = {}
        self._stream: Optional[IO[bytes]] = None
        if is_folder(output):
            make_folder(output)
        specifier = table_specifier(output)
        file = (parse_wspecifier(specifier).archive or "") if is_table(specifier) else output
        if file in ("", "-") or file.startswith("|") or (os.path.exists(file) and not os.path.isfile(file)):
            return
        path = Path(file)
        self._path = path.with_name(hidden_name(path.name, f".{hashlib.sha256(settings).hexdigest()[:12]}.part"))
        size = 0
        if self._path.is_file() and self._path.stat().st_size:
            for key, vector in read_table(f"ark,p:{self._path}", "vector"):
                self.vectors[unquote(key, errors="surrogateescape")] = vector
                size += len(_entry(key, vector))
            log.info("found %d embeddings of a stopped run in %s", len(self.vectors), self._path)
        try:
            self._stream = open(self._path, "ab")
            self._stream.truncate(size)  # the last entry may be cut short
        except OSError as error:
            raise InputError(f"{file}: cannot write: {error.strerror or error}") from error

    def append(self, vectors: Dict[str, np.ndarray]) -> None:
        """Keep some embeddings by name."""
        if self._stream is None:
            return
        try:
            for name, vector in vectors.items():
                self._stream.write(_entry(quote(name, errors="surrogateescape"), vector))
            self._stream.flush()
        except OSError as error:
            raise InputError(f"{self._path}: cannot write: {error.strerror or error}") from error

    def __enter__(self) -> PartialVectors:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._stream is None:
            return
        self._stream.close()
        if kind is None or not self._path.stat().st_size:
            self._path.unlink()
        else:
            log.info("kept the embeddings so far in %s; the same command goes on from there", self._path)


def _entry(key: str, vector: np.ndarray) -> bytes:
    return key.encode("ascii") + b" " + matrix.BINARY_MARK + matrix.encode_vector(vector, True)
