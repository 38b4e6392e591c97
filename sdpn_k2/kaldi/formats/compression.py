"""Kaldi's compressed matrices: the three formats in files, the seven methods that choose between them.

| method | format | range of the codes |
| --- | --- | --- |
| 1 automatic | ``CM`` if the matrix has more than 8 rows, else ``CM2`` | as 2 or 3 |
| 2 speech feature | ``CM``: one byte, per column on four percentiles | the matrix' minimum to maximum |
| 3 two-byte auto | ``CM2``: two bytes | the matrix' minimum to maximum |
| 4 two-byte signed integer | ``CM2`` | -32768 … 32767, exact for int16 samples |
| 5 one-byte auto | ``CM3``: one byte | the matrix' minimum to maximum |
| 6 one-byte unsigned integer | ``CM3`` | 0 … 255 |
| 7 one-byte zero-one | ``CM3`` | 0 … 1 |

All arithmetic is float32 in the order of Kaldi's compressed-matrix.cc, so that the bytes agree with Kaldi's.
"""

import struct

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.io import InputStream

METHODS = range(1, 8)
_HEADER = struct.Struct("<ffii")  # minimum, range, rows, columns
_FIXED_RANGES = {4: (-32768.0, 65535.0), 6: (0.0, 255.0), 7: (0.0, 1.0)}
_F32 = np.float32


class CompressedMatrix:
    """A matrix as it stands in a file: ``format`` "CM", "CM2" or "CM3", the header's numbers and the codes.

    Attributes:
        shape: (rows, columns).
        payload: the bytes after the header: for CM four uint16 percentiles per column and then the codes column by
            column, else the codes row by row.
    """

    def __init__(self, format: str, minimum: float, range: float, shape, payload: bytes):
        self.format = format
        self.minimum = _F32(minimum)
        self.range = _F32(range)
        self.shape = tuple(shape)
        self.payload = payload

    def to_bytes(self) -> bytes:
        """The object as in a binary file, without ``\\0B``."""
        return self.format.encode() + b" " + _HEADER.pack(self.minimum, self.range, *self.shape) + self.payload

    def to_array(self) -> np.ndarray:
        """The float32 matrix, shape (rows, columns), that Kaldi would read."""
        rows, columns = self.shape
        if self.format == "CM2":
            codes = np.frombuffer(self.payload, "<u2").reshape(self.shape)
            return self.minimum + codes.astype(_F32) * _F32(float(self.range) * (1 / 65535.0))
        if self.format == "CM3":
            codes = np.frombuffer(self.payload, np.uint8).reshape(self.shape)
            return self.minimum + codes.astype(_F32) * _F32(float(self.range) * (1 / 255.0))
        percentiles = np.frombuffer(self.payload, "<u2", 4 * columns).reshape(columns, 4)
        codes = np.frombuffer(self.payload, np.uint8, offset=8 * columns).reshape(columns, rows)
        return np.ascontiguousarray(_decode_columns(codes, self._percentile_values(percentiles)).T)

    def _percentile_values(self, percentiles: np.ndarray) -> np.ndarray:
        return self.minimum + self.range * _F32(1.52590218966964e-05) * percentiles.astype(_F32)


def compress(matrix: np.ndarray, method: int = 1) -> CompressedMatrix:
    """Compress a matrix of shape (rows, columns) with one of Kaldi's methods 1 to 7.

    Raises:
        InputError: the method does not exist, or the matrix holds NaN or infinity (or a range beyond float32).
    """
    matrix = np.asarray(matrix, _F32)
    if method not in METHODS:
        raise InputError(f"compression method {method} does not exist: choose 1 to 7")
    if not np.isfinite(matrix).all():
        raise InputError("a matrix with NaN or infinite numbers cannot be compressed")
    rows, columns = matrix.shape
    if matrix.size == 0:
        return CompressedMatrix("CM", 0.0, 0.0, (0, 0), b"")
    if method == 1:
        method = 2 if rows > 8 else 3
    minimum, range_ = _FIXED_RANGES.get(method) or _value_range(matrix)
    result = CompressedMatrix({2: "CM", 3: "CM2", 4: "CM2"}.get(method, "CM3"), minimum, range_, matrix.shape, b"")
    if result.format == "CM2":
        result.payload = _quantise(matrix, result, 65535).astype("<u2").tobytes()
    elif result.format == "CM3":
        result.payload = _quantise(matrix, result, 255).astype(np.uint8).tobytes()
    else:
        data = np.ascontiguousarray(matrix.T)
        percentiles = _column_percentiles(data, result)
        codes = _encode_columns(data, result._percentile_values(percentiles))
        result.payload = percentiles.astype("<u2").tobytes() + codes.tobytes()
    return result


def read_compressed(stream: InputStream) -> CompressedMatrix:
    """Read ``CM``, ``CM2`` or ``CM3`` and what follows from a binary stream.

    Raises:
        InputError: it is cut short or its header is impossible.
    """
    start = stream.peek(4)
    format = next((name for name in ("CM", "CM2", "CM3") if start.startswith(name.encode() + b" ")), None)
    if format is None:
        raise stream.fail(f"expected a compressed matrix (CM, CM2 or CM3), got {start!r}")
    stream.read(len(format) + 1)
    minimum, range_, rows, columns = _HEADER.unpack(
        stream.read_exactly(_HEADER.size, "the header of a compressed matrix")
    )
    if rows < 0 or columns < 0 or (rows == 0) != (columns == 0):
        raise stream.fail(f"impossible size of a compressed matrix: {rows} × {columns}")
    if columns == 0:
        return CompressedMatrix(format, minimum, range_, (0, 0), b"")
    size = {"CM": 8 * columns + rows * columns, "CM2": 2 * rows * columns, "CM3": rows * columns}[format]
    payload = stream.read_array("u1", size, f"a compressed matrix of {rows} × {columns} numbers")
    return CompressedMatrix(format, minimum, range_, (rows, columns), payload.tobytes())


def _value_range(matrix: np.ndarray):
    minimum, maximum = matrix.min(), matrix.max()
    if maximum == minimum:
        maximum = _F32(float(minimum) + (1.0 + abs(float(minimum))))
    with np.errstate(over="ignore"):
        range_ = maximum - minimum
    if not np.isfinite(range_):
        raise InputError(
            f"a matrix with numbers from {minimum:g} to {maximum:g} cannot be compressed: that is beyond float"
        )
    return minimum, range_


def _quantise(values: np.ndarray, header: CompressedMatrix, highest: int) -> np.ndarray:
    """Codes 0 … highest, rounded the way Kaldi does (+ 0.499, cut)."""
    with np.errstate(over="ignore"):
        fraction = np.clip((values - header.minimum) / header.range, _F32(0), _F32(1))
    return ((fraction * _F32(highest)).astype(np.float64) + 0.499).astype(np.int32)


def _column_percentiles(columns: np.ndarray, header: CompressedMatrix) -> np.ndarray:
    """Percentiles 0, 25, 75 and 100 of each row of ``columns``: strictly increasing uint16 codes, (columns, 4)."""
    rows = columns.shape[1]
    quarter = rows // 4
    places = (0, quarter, 3 * quarter, rows - 1) if rows >= 5 else tuple(range(rows))
    ordered = np.partition(columns, sorted(set(places)), axis=1)[:, places]
    codes = _quantise(ordered, header, 65535)
    result = np.empty((len(columns), 4), np.int32)
    result[:, 0] = np.minimum(codes[:, 0], 65532)
    for i in (1, 2, 3):
        above = result[:, i - 1] + 1
        result[:, i] = np.maximum(codes[:, i], above) if i < codes.shape[1] else above
        if i < 3:
            result[:, i] = np.minimum(result[:, i], 65532 + i)
    return result


def _encode_columns(columns: np.ndarray, percentiles: np.ndarray) -> np.ndarray:
    """Codes of each column between its percentiles: 0 … 64 … 192 … 255, shape (columns, rows), uint8."""
    p0, p25, p75, p100 = (percentiles[:, i : i + 1] for i in range(4))

    def piece(low, high, first, steps):
        code = ((columns - low) / (high - low) * _F32(steps)).astype(np.float64) + 0.5
        return first + np.clip(code, 0, steps).astype(np.int32)

    codes = np.where(
        columns < p25,
        piece(p0, p25, 0, 64),
        np.where(columns < p75, piece(p25, p75, 64, 128), piece(p75, p100, 192, 63)),
    )
    return codes.astype(np.uint8)


def _decode_columns(codes: np.ndarray, percentiles: np.ndarray) -> np.ndarray:
    p0, p25, p75, p100 = (percentiles[:, i : i + 1] for i in range(4))
    code = codes.astype(_F32)

    def piece(low, high, first, steps):
        # Kaldi multiplies the float product by a double constant and adds in double.
        return low.astype(np.float64) + ((high - low) * (code - _F32(first))).astype(np.float64) * (1.0 / steps)

    values = np.where(
        codes <= 64, piece(p0, p25, 0, 64), np.where(codes <= 192, piece(p25, p75, 64, 128), piece(p75, p100, 192, 63))
    )
    return values.astype(_F32)
