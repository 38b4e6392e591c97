r"""Vectors, matrices, integers and tokens as Kaldi writes them, binary and text.

A binary object starts with ``\0B``; the readers detect it. A binary float vector is ``FV``, a blank, its length (the
byte 4 and an int32) and its floats; ``DV``, ``FM``, ``DM`` are the double and matrix forms. In text a vector is
`` [ 1 2 3 ]``, with seven significant digits.

``read_*`` read from an InputStream; where they have an argument ``binary``, None means "detect". ``encode_*`` return
bytes without the ``\0B``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.compression import CompressedMatrix, read_compressed
from sdpn_k2.kaldi.formats.io import InputStream

if TYPE_CHECKING:
    import numpy.typing as npt

BINARY_MARK = b"\0B"
_SIZE = struct.Struct("<bi")
_FORMATS: Dict[int, bytes] = {}  # length → format string of a row of text


def read_binary_mark(stream: InputStream) -> bool:
    r"""Consume the ``\0B`` of a binary object and return True; return False before an object in text."""
    stream.ahead(2)
    if stream.buffer.startswith(BINARY_MARK, stream.position):
        stream.position += 2
        return True
    if stream.buffer.startswith(b"\0", stream.position):
        raise stream.fail("wrong header: \\0 not followed by B")
    return False


# Tokens and single numbers, as in the files of models


def read_token(stream: InputStream, binary: bool) -> str:
    """Read a word and the one character of white space after it (Kaldi's ReadToken)."""
    if not binary:
        stream.skip_blanks()
    start = stream.tell()
    length = 0
    while length < 512 and stream.ahead(length + 1) > length:
        if stream.buffer[stream.position + length : stream.position + length + 1].isspace():
            break
        length += 1
    token = stream.read(length)
    if not token or not token.isascii():
        raise InputError(f"{stream.name}: byte {start}: expected a token, got {token!r}")
    stream.read(1)
    return token.decode()


def expect_token(stream: InputStream, binary: bool, expected: str) -> None:
    """Consume the token ``expected``, or raise InputError."""
    start = stream.tell()
    token = read_token(stream, binary)
    if token != expected:
        raise InputError(f"{stream.name}: byte {start}: expected {expected}, got {token}")


def read_int32(stream: InputStream, binary: bool) -> int:
    """Read an int32. In binary, a byte 4 precedes the number."""
    if not binary:
        return _parse_int(stream, _read_word(stream))
    width, value = _SIZE.unpack(stream.read_exactly(5, "an integer"))
    if width != 4:
        raise stream.fail(f"expected a 4-byte integer, not one of {width} bytes")
    return int(value)


def read_float(stream: InputStream, binary: bool) -> float:
    """Read a float or double. In binary, a byte 4 or 8 precedes the number."""
    if not binary:
        return _parse_floats(stream, [_read_word(stream)])[0]
    width = stream.read_exactly(1, "a number")[0]
    if width not in (4, 8):
        raise stream.fail(f"expected a 4- or 8-byte number, not one of {width} bytes")
    return float(struct.unpack("<f" if width == 4 else "<d", stream.read_exactly(width, "a number"))[0])


def encode_token(token: str) -> bytes:
    """Return the bytes of a token and its blank."""
    return token.encode() + b" "


def encode_int32(value: int, binary: bool) -> bytes:
    """Return the bytes that read_int32 reads."""
    return _SIZE.pack(4, value) if binary else b"%d " % value


def encode_float(value: float, binary: bool, double: bool = False) -> bytes:
    """Return the bytes that read_float reads."""
    if not binary:
        return b"%.7g " % (value if double else np.float32(value))
    return struct.pack("<bd", 8, value) if double else struct.pack("<bf", 4, value)


# Vectors


def read_vector(stream: InputStream, binary: Optional[bool] = None, dtype: npt.DTypeLike = np.float32) -> np.ndarray:
    """Read a vector of shape (dim,); convert it to ``dtype``, whichever float type the file holds.

    Raises:
        InputError: the bytes are not a vector, are cut short, or claim an impossible size.
    """
    if read_binary_mark(stream) if binary is None else binary:
        if stream.ahead(8) < 8:
            raise stream.fail("cut short in the header of a vector")
        start = stream.position
        token = stream.buffer[start : start + 3]
        if token not in (b"FV ", b"DV "):
            raise stream.fail(f"expected a vector (FV or DV), got {token!r}")
        width, dim = _SIZE.unpack_from(stream.buffer, start + 3)
        if width != 4 or dim < 0:
            raise stream.fail(f"{dim} is not a valid size of a vector")
        stream.position = start + 8
        vector = stream.read_array("<f4" if token == b"FV " else "<f8", dim, f"a vector of {dim} numbers")
        return _converted(vector, dtype)
    text = _read_brackets(stream, "vector")
    if b"\n" in text:
        raise stream.fail("a line end within a vector in text form (is it a matrix?)")
    return _converted(_parse_floats(stream, text.split()), dtype)


def read_vectors_like(stream: InputStream, vector: np.ndarray) -> Iterator[Tuple[str, np.ndarray]]:
    """Yield the next (key, vector) entries that are in the buffer and have the type and length of ``vector``.

    Archives of speaker vectors consist of nothing else, and comparing two headers is faster than parsing one.
    """
    buffer, position, base = stream.buffer, stream.position, stream.base
    dtype, dim = vector.dtype, len(vector)
    header = b" " + vector_header(dtype, dim)
    size, length = dim * dtype.itemsize, len(buffer)
    find, startswith, frombuffer = buffer.find, buffer.startswith, np.frombuffer
    while size:
        blank = find(b" ", position)
        data = blank + len(header)
        following = data + size
        if following > length or not startswith(header, blank):
            break
        key = buffer[position:blank].decode("utf-8", "surrogateescape")
        if not key or not key.isprintable():
            break
        stream.entry = base + position
        stream.position = position = following
        yield key, frombuffer(buffer, dtype, dim, data).copy()


def vector_header(dtype: npt.DTypeLike, dim: int) -> bytes:
    r"""Return the bytes before the numbers of a binary vector, ``\0B`` included."""
    return BINARY_MARK + (b"FV " if dtype == np.float32 else b"DV ") + _SIZE.pack(4, dim)


def encode_vector(numbers: npt.ArrayLike, binary: bool, dtype: npt.DTypeLike = np.float32) -> bytes:
    """Return the bytes of a vector of shape (dim,) as ``dtype``, float32 or float64."""
    vector = np.asarray(numbers, dtype)
    if vector.ndim != 1:
        raise InputError(f"an array of shape {vector.shape} is not a vector")
    if not binary:
        return b" [ " + _format_row(vector) + b"]\n"
    return (b"FV " if vector.itemsize == 4 else b"DV ") + _SIZE.pack(4, len(vector)) + vector.tobytes()


# Matrices


def read_matrix(stream: InputStream, binary: Optional[bool] = None, dtype: npt.DTypeLike = np.float32) -> np.ndarray:
    """Read a matrix of shape (rows, columns); convert it to ``dtype``, and expand it if it is compressed."""
    matrix = read_general_matrix(stream, binary, dtype)
    return matrix.to_array().astype(dtype, copy=False) if isinstance(matrix, CompressedMatrix) else matrix


def read_general_matrix(
    stream: InputStream, binary: Optional[bool] = None, dtype: npt.DTypeLike = np.float32
) -> Union[np.ndarray, CompressedMatrix]:
    """Read a matrix like read_matrix, but leave a compressed matrix compressed."""
    if not (read_binary_mark(stream) if binary is None else binary):
        return _parse_matrix(stream, dtype)
    if stream.peek(1) == b"C":
        return read_compressed(stream)
    if stream.ahead(13) < 13:
        raise stream.fail("cut short in the header of a matrix")
    start = stream.position
    token = stream.buffer[start : start + 3]
    if token not in (b"FM ", b"DM "):
        raise stream.fail(f"expected a matrix (FM, DM or CM), got {token!r}")
    row_width, rows = _SIZE.unpack_from(stream.buffer, start + 3)
    column_width, columns = _SIZE.unpack_from(stream.buffer, start + 8)
    if (row_width, column_width) != (4, 4) or rows < 0 or columns < 0 or (rows == 0) != (columns == 0):
        raise stream.fail(f"{rows} × {columns} is not a valid size of a matrix")
    stream.position = start + 13
    matrix = stream.read_array(
        "<f4" if token == b"FM " else "<f8", rows * columns, f"a matrix of {rows} × {columns} numbers"
    )
    return _converted(matrix.reshape(rows, columns), dtype)


def encode_matrix(
    numbers: Union[npt.ArrayLike, CompressedMatrix], binary: bool, dtype: npt.DTypeLike = np.float32
) -> bytes:
    """Encode a matrix of shape (rows, columns) as ``dtype`` (float32 or float64), or encode a compressed matrix."""
    if isinstance(numbers, CompressedMatrix):
        if binary:
            return numbers.to_bytes()
        numbers = numbers.to_array()
    matrix = np.asarray(numbers, dtype)
    if matrix.ndim != 2:
        raise InputError(f"an array of shape {matrix.shape} is not a matrix")
    rows, columns = matrix.shape if matrix.size else (0, 0)
    if binary:
        header = _matrix_header(dtype, rows, columns)
        return b"".join((header, np.ascontiguousarray(matrix).data)) if rows else header  # one copy, not two
    if columns == 0:
        return b" [ ]\n"
    return b" [" + b"".join(b"\n  " + _format_row(row) for row in matrix) + b"]\n"


def encode_large_matrix(numbers: Any, least: int) -> Optional[Tuple[bytes, memoryview]]:
    """Return header and numbers of a matrix of at least ``least`` bytes, binary, without copying it.

    The numbers are a view. Return None for a smaller matrix, and for whatever is not a float32 array in C order.
    """
    if not isinstance(numbers, np.ndarray) or numbers.dtype != np.float32 or numbers.ndim != 2:
        return None
    if numbers.nbytes < least or not numbers.flags.c_contiguous or not numbers.dtype.isnative:
        return None
    return _matrix_header(np.float32, *numbers.shape), numbers.reshape(-1).view(np.uint8).data


def _matrix_header(dtype: npt.DTypeLike, rows: int, columns: int) -> bytes:
    return (b"FM " if dtype == np.float32 else b"DM ") + _SIZE.pack(4, rows) + _SIZE.pack(4, columns)


def _parse_matrix(stream: InputStream, dtype: npt.DTypeLike) -> np.ndarray:
    text = _read_brackets(stream, "matrix")
    rows = [_parse_floats(stream, line.split()) for line in text.replace(b";", b"\n").split(b"\n") if line.strip()]
    if not rows:
        return np.empty((0, 0), dtype)
    width = len(rows[0])
    for number, row in enumerate(rows):
        if len(row) != width:
            raise stream.fail(f"row {number} of a matrix in text form has {len(row)} numbers, the first has {width}")
    return _converted(rows, dtype)


# Integers, one or many


def read_int_vector(stream: InputStream) -> np.ndarray:
    """Read a list of int32, shape (n,). In text, the list is the rest of the line."""
    if not read_binary_mark(stream):
        return np.array([_parse_int(stream, word) for word in stream.read_through(b"\n").split()], np.int32)
    count = read_int32(stream, True)
    if count < 0:
        raise stream.fail(f"{count} is not a valid size of a list of integers")
    items = stream.read_array([("width", "i1"), ("value", "<i4")], count, f"a list of {count} integers")
    if (items["width"] != 4).any():
        raise stream.fail("an element of a list of integers is not an int32")
    return np.ascontiguousarray(items["value"])


def encode_int_vector(integers: npt.ArrayLike, binary: bool) -> bytes:
    """Return the bytes that read_int_vector reads."""
    values = np.asarray(integers)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise InputError(f"an array of shape {values.shape} and type {values.dtype} is not a list of integers")
    if not binary:
        return b"".join(b"%d " % value for value in values.tolist()) + b"\n"
    items = np.empty(len(values), [("width", "i1"), ("value", "<i4")])
    items["width"], items["value"] = 4, values
    return _SIZE.pack(4, len(values)) + items.tobytes()


def read_integers(stream: InputStream, binary: Optional[bool] = None) -> np.ndarray:
    """Read a list of int32, shape (n,), from a single file. In text, it has brackets (Kaldi's ReadIntegerVector)."""
    if not (read_binary_mark(stream) if binary is None else binary):
        return np.array(
            [_parse_int(stream, word) for word in _read_brackets(stream, "list of integers").split()], np.int32
        )
    width, count = _SIZE.unpack(stream.read_exactly(_SIZE.size, "the header of a list of integers"))
    if width != 4 or count < 0:
        raise stream.fail(f"{count} integers of {width} bytes are not a valid list of integers")
    return stream.read_array("<i4", count, f"a list of {count} integers")


def encode_integers(integers: npt.ArrayLike, binary: bool) -> bytes:
    """Return the bytes that read_integers reads."""
    values = np.asarray(integers, np.int32)
    if not binary:
        return b"[ " + b"".join(b"%d " % value for value in values.tolist()) + b"]\n"
    return _SIZE.pack(4, len(values)) + values.tobytes()


# Text


def _read_word(stream: InputStream) -> bytes:
    stream.skip_blanks()
    return read_token(stream, False).encode()


def _read_brackets(stream: InputStream, what: str) -> bytes:
    """Read the text between ``[`` and ``]``, and consume the line end after it."""
    if stream.skip_blanks() != b"[":
        raise stream.fail(f"expected a {what} in text form, '[ … ]', got {stream.peek(8)!r}")
    text = stream.read_through(b"]")
    if not text.endswith(b"]"):
        raise stream.fail(f"cut short: a {what} in text form without its ']'")
    if stream.peek(1) == b"\r":
        stream.position += 1
    if stream.peek(1) == b"\n":
        stream.position += 1
    return text[1:-1]


def _converted(numbers: Union[np.ndarray, Sequence[Any]], dtype: npt.DTypeLike) -> np.ndarray:
    """Return an array of ``dtype``; numbers too large for it become infinite, as in Kaldi."""
    if isinstance(numbers, np.ndarray) and numbers.dtype == dtype:
        return numbers
    with np.errstate(over="ignore"):
        return np.array(numbers, dtype)


def _parse_floats(stream: InputStream, words: List[bytes]) -> List[float]:
    try:
        numbers = list(map(float, words))
        # Kaldi tells a number by its first character, so that .5 and +1 are none; float() would also accept 1_000.
        plain = {word[:1] for word in words} <= _FIRST_OF_NUMBER and not any(b"_" in word for word in words)
        if not plain and any(map(_is_no_number, words)):
            raise ValueError
        return numbers
    except ValueError:
        raise stream.fail(f"not a number: {next(filter(_is_no_number, words))[:20]!r}") from None


_FIRST_OF_NUMBER = {b"-", *(b"%d" % digit for digit in range(10))}


def _is_no_number(word: bytes) -> bool:
    try:
        float(word)
        return b"_" in word or (word[:1] not in _FIRST_OF_NUMBER and word.lower() not in (b"inf", b"infinity", b"nan"))
    except ValueError:
        return True


def _parse_int(stream: InputStream, word: bytes) -> int:
    try:
        value = int(word)
        if b"_" in word or not -(2**31) <= value < 2**31:
            raise ValueError
        return value
    except ValueError:
        raise stream.fail(f"not an int32: {word[:20]!r}") from None


def _format_row(row: np.ndarray) -> bytes:
    """Return numbers as C++ prints them with a precision of 7, with a blank after each."""
    count = len(row)
    if count not in _FORMATS:
        if len(_FORMATS) > 64:
            _FORMATS.clear()
        _FORMATS[count] = b"%.7g " * count
    text: bytes = _FORMATS[count] % tuple(row.tolist())
    return text
