"""The kinds of values that tables and single files hold, and how each is read and written."""

from typing import Any, Callable, Dict, NamedTuple, Optional

import numpy as np

from sdpn_k2.kaldi.formats import matrix
from sdpn_k2.kaldi.formats.io import InputStream


class Kind(NamedTuple):
    """How values of a table are read and written."""

    read: Callable[[InputStream], Any]
    encode: Callable[[Any, bool], bytes]
    marked: bool = True  # a binary value starts with \0B
    run: Callable[[str], Any] = lambda command: None  # the value of a "command |" that needs no process, else None
    read_like_last: Optional[Callable] = None  # yields entries of an archive that look like the one before, faster


def _read_token(stream: InputStream) -> str:
    line = _rest_of_line(stream)
    if not line.endswith("\n"):
        raise stream.fail("cut short: no line end after a word")
    words = line.split()
    if len(words) != 1:
        raise stream.fail(f"expected one word after the key, got {len(words)}")
    return words[0]


def _rest_of_line(stream: InputStream) -> str:
    return stream.read_through(b"\n").decode("utf-8", "surrogateescape")


def _read_number(read: Callable) -> Callable[[InputStream], Any]:
    def number(stream: InputStream):
        binary = matrix.read_binary_mark(stream)
        value = read(stream, binary)
        if not binary and stream.buffer[stream.position - 1 : stream.position] != b"\n":
            rest = stream.read_through(b"\n")
            if rest.strip():
                raise stream.fail(f"expected one number after the key, then {rest.strip()[:20]!r}")
            if not rest:
                raise stream.fail("cut short: no line end after a number")
        return value

    return number


def _encode_number(encode: Callable) -> Callable[[Any, bool], bytes]:
    return lambda value, binary: encode(value, binary) + (b"" if binary else b"\n")


def _read_wave(stream: InputStream):
    from sdpn_k2.kaldi.features.wave import read_wave

    return read_wave(stream)


def _encode_wave(value, binary: bool) -> bytes:
    from sdpn_k2.kaldi.features.wave import encode_wave

    return encode_wave(value)


def _run_to_wav(command: str):
    from sdpn_k2.kaldi.features.wave import read_command

    return read_command(command)


def _read_duration(stream: InputStream) -> float:
    from sdpn_k2.kaldi.features.wave import read_duration

    return read_duration(stream)


def _run_duration(command: str) -> Optional[float]:
    wave = _run_to_wav(command)
    return None if wave is None else wave.duration


def _encode_bytes(value: bytes, binary: bool) -> bytes:
    return value


KINDS: Dict[str, Kind] = {
    "vector": Kind(matrix.read_vector, matrix.encode_vector, read_like_last=matrix.read_vectors_like),
    "matrix": Kind(matrix.read_matrix, matrix.encode_matrix),
    "general_matrix": Kind(matrix.read_general_matrix, matrix.encode_matrix),
    "double_vector": Kind(
        lambda stream: matrix.read_vector(stream, dtype=np.float64),
        lambda value, binary: matrix.encode_vector(value, binary, np.float64),
        read_like_last=matrix.read_vectors_like,
    ),
    "double_matrix": Kind(
        lambda stream: matrix.read_matrix(stream, dtype=np.float64),
        lambda value, binary: matrix.encode_matrix(value, binary, np.float64),
    ),
    "int_vector": Kind(matrix.read_int_vector, matrix.encode_int_vector),
    "integers": Kind(matrix.read_integers, matrix.encode_integers),  # the form of int_vector outside of tables
    "int": Kind(_read_number(matrix.read_int32), _encode_number(matrix.encode_int32)),
    "float": Kind(_read_number(matrix.read_float), _encode_number(matrix.encode_float)),
    "token": Kind(_read_token, lambda value, binary: value.encode("utf-8", "surrogateescape") + b"\n", marked=False),
    "token_vector": Kind(
        lambda stream: _rest_of_line(stream).split(),
        lambda value, binary: " ".join(value).encode("utf-8", "surrogateescape") + b"\n",
        marked=False,
    ),
    "wave": Kind(_read_wave, _encode_wave, marked=False, run=_run_to_wav),
    "wave_duration": Kind(_read_duration, None, marked=False, run=_run_duration),  # to be read from files, not written
    "bytes": Kind(InputStream.read, _encode_bytes, marked=False),
}
