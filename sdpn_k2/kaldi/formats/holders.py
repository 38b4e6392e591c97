"""Holders (Kaldi's word): how each kind of value is read from and written to tables and single files.

``HOLDERS`` contains the holders of vectors, matrices, numbers and words. To read waveforms, import
``features/wave.py``, which adds theirs.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import matrix, words
from sdpn_k2.kaldi.formats.htk import read_htk, read_sphinx
from sdpn_k2.kaldi.formats.io import InputStream


class Holder(NamedTuple):
    """How the values of one kind are read and written."""

    read: Callable[[InputStream], Any]
    encode: Callable[[Any, bool], bytes]  # (value, binary) → bytes
    marked: bool = True  # a binary value starts with \0B
    run: Callable[[str], Any] = lambda command: None  # the value of a "command |" that needs no process, else None
    # Yields the next entries of an archive while they look like the last one; faster than ``read``.
    read_like_last: Optional[Callable[[InputStream, Any], Iterator[Tuple[str, Any]]]] = None


def _read_token(stream: InputStream) -> str:
    line = _rest_of_line(stream)
    if not line.endswith("\n"):
        raise stream.fail("cut short: no line end after a word")
    found = words.split(line)
    if len(found) != 1:
        raise stream.fail(f"expected one word after the key, got {len(found)}")
    return found[0]


def _rest_of_line(stream: InputStream) -> str:
    return stream.read_through(b"\n").decode("utf-8", "surrogateescape")


def _read_number(read: Callable[[InputStream, bool], Any]) -> Callable[[InputStream], Any]:
    def number(stream: InputStream) -> Any:
        binary = matrix.read_binary_mark(stream)
        value = read(stream, binary)
        if not binary and stream.buffer[stream.position - 1 : stream.position] != b"\n":
            rest = stream.read_through(b"\n")
            if rest.strip():
                raise stream.fail(f"expected one number after the key, but {rest.strip()[:20]!r} follows")
            if not rest:
                raise stream.fail("cut short: no line end after a number")
        return value

    return number


def _encode_number(encode: Callable[[Any, bool], bytes]) -> Callable[[Any, bool], bytes]:
    return lambda value, binary: encode(value, binary) + (b"" if binary else b"\n")


def read_only(value: Any, binary: bool) -> bytes:
    """Refuse to write: the ``encode`` of kinds that can only be read."""
    raise InputError("values of this kind can be read but not written")


HOLDERS: Dict[str, Holder] = {
    "vector": Holder(matrix.read_vector, matrix.encode_vector, read_like_last=matrix.read_vectors_like),
    "matrix": Holder(matrix.read_matrix, matrix.encode_matrix),
    "general_matrix": Holder(matrix.read_general_matrix, matrix.encode_matrix),
    "double_vector": Holder(
        lambda stream: matrix.read_vector(stream, dtype=np.float64),
        lambda value, binary: matrix.encode_vector(value, binary, np.float64),
        read_like_last=matrix.read_vectors_like,
    ),
    "double_matrix": Holder(
        lambda stream: matrix.read_matrix(stream, dtype=np.float64),
        lambda value, binary: matrix.encode_matrix(value, binary, np.float64),
    ),
    "int_vector": Holder(matrix.read_int_vector, matrix.encode_int_vector),
    "integers": Holder(matrix.read_integers, matrix.encode_integers),  # int_vector as single files store it
    "int": Holder(_read_number(matrix.read_int32), _encode_number(matrix.encode_int32)),
    "float": Holder(_read_number(matrix.read_float), _encode_number(matrix.encode_float)),
    "token": Holder(_read_token, lambda value, binary: value.encode("utf-8", "surrogateescape") + b"\n", marked=False),
    "token_vector": Holder(
        lambda stream: words.split(_rest_of_line(stream)),
        lambda value, binary: " ".join(value).encode("utf-8", "surrogateescape") + b"\n",
        marked=False,
    ),
    "htk": Holder(read_htk, read_only, marked=False),
    "sphinx": Holder(read_sphinx, read_only, marked=False),
    "bytes": Holder(InputStream.read, lambda value, binary: value, marked=False),
}
