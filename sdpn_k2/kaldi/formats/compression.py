"""Kaldi's compressed matrices: three formats in files, and seven methods that choose between them.

| method | format | range of the codes |
| --- | --- | --- |
| 1 automatic | ``CM`` if the matrix has more than 8 rows, else ``CM2`` | as 2 or 3 |
| 2 speech feature | ``CM``: one byte, scaled by four percentiles of the column | minimum to maximum of the matrix |
| 3 two-byte auto | ``CM2``: two bytes | minimum to maximum of the matrix |
| 4 two-byte signed integer | ``CM2`` | the range of int16, whose samples are exact |
| 5 one-byte auto | ``CM3``: one byte | minimum to maximum of the matrix |
| 6 one-byte unsigned integer | ``CM3`` | 0 … 255 |
| 7 one-byte zero-one | ``CM3`` | 0 … 1 |

All arithmetic is float32, in the order of Kaldi's compressed-matrix.cc, so that the bytes agree with Kaldi's.
"""

from __future__ import annotations

import struct
from typing import Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.io import InputStream
from sdpn_k2.pcm import INT16_SCALE

METHODS = range(1, 8)
_HEADER = struct.Struct("<ffii")  # minimum, range, rows, columns
_FIXED_RANGES = {4: (-INT16_SCALE, 2 * INT16_SCALE - 1), 6: (0.0, 255.0), 7: (0.0, 1.0)}
_F32 = np.float32


class CompressedMatrix:
    """A matrix as a file stores it: its format ("CM", "CM2" or "CM3"), the numbers of its header, and its codes.

    Attributes:
        shape: (rows, columns).
        payload: the bytes after the header. In CM: four uint16 percentiles for each column, then the codes column by
            column. In CM2 and CM3: the codes row by row.
    """

    def __init__(
        self,
        format: str,
        minimum: Union[float, np.float32],
        range: Union[float, np.float32],
        shape: Tuple[int, int],
        payload: bytes,
    ):
        self.format = format
        self.minimum = _F32(minimum)
        self.range = _F32(range)
        self.shape = shape
        self.payload = payload

    def to_bytes(self) -> bytes:
        r"""Return the object as a binary file holds it, without the ``\0B``."""
        return self.format.encode() + b" " + _HEADER.pack(self.minimum, self.range, *self.shape) + self.payload

    def to_array(self) -> np.ndarray:
        """Return the float32 matrix, shape (rows, columns), that Kaldi would read."""
        rows, columns = self.shape
        if self.format in ("CM2", "CM3"):
            dtype, highest = ("<u2", 65535.0) if self.format == "CM2" else ("u1", 255.0)
            levels = np.frombuffer(self.payload, dtype).reshape(self.shape).astype(_F32)
            values: np.ndarray = self.minimum + levels * _F32(float(self.range) * (1 / highest))
            return values
        percentiles = np.frombuffer(self.payload, "<u2", 4 * columns).reshape(columns, 4)
        codes = np.frombuffer(self.payload, np.uint8, offset=8 * columns).reshape(columns, rows)
        return np.ascontiguousarray(_decode_columns(codes, self._percentile_values(percentiles)).T)

    def _percentile_values(self, percentiles: np.ndarray) -> np.ndarray:
        values: np.ndarray = self.minimum + self.range * _F32(1.52590218966964e-05) * percentiles.astype(_F32)
        return values


def compress(matrix: np.ndarray, method: int = 1) -> CompressedMatrix:
    """Compress a matrix of shape (rows, columns) with one of Kaldi's methods 1 to 7.

    Raises:
        InputError: the method does not exist, a number is NaN or infinite, or float32 cannot hold the range.
    """
    matrix = np.asarray(matrix, _F32)
    if method not in METHODS:
        raise InputError(f"compression method {method} does not exist (choose 1 to 7)")
    if not np.isfinite(matrix).all():
        raise InputError("cannot compress a matrix with NaN or infinite numbers")
    rows, columns = matrix.shape
    if matrix.size == 0:
        return CompressedMatrix("CM", 0.0, 0.0, (0, 0), b"")
    if method == 1:
        method = 2 if rows > 8 else 3
    minimum, range_ = _FIXED_RANGES.get(method) or _value_range(matrix)
    format = {2: "CM", 3: "CM2", 4: "CM2"}.get(method, "CM3")
    result = CompressedMatrix(format, minimum, range_, (rows, columns), b"")
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
    """Read a compressed matrix, which starts with ``CM``, ``CM2`` or ``CM3``, from a binary stream.

    Raises:
        InputError: the stream is cut short, or the header is impossible.
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
        raise stream.fail(f"{rows} × {columns} is not a valid size of a compressed matrix")
    if columns == 0:
        return CompressedMatrix(format, minimum, range_, (0, 0), b"")
    size = {"CM": 8 * columns + rows * columns, "CM2": 2 * rows * columns, "CM3": rows * columns}[format]
    payload = stream.read_array("u1", size, f"a compressed matrix of {rows} × {columns} numbers")
    return CompressedMatrix(format, minimum, range_, (rows, columns), payload.tobytes())


def _value_range(matrix: np.ndarray) -> Tuple[np.float32, np.float32]:
    """Return the minimum and the range of a matrix, as Kaldi's header holds them."""
    minimum, maximum = matrix.min(), matrix.max()
    if maximum == minimum:
        maximum = _F32(float(minimum) + (1.0 + abs(float(minimum))))
    with np.errstate(over="ignore"):
        range_ = maximum - minimum
    if not np.isfinite(range_):
        raise InputError(
            f"cannot compress a matrix with numbers from {minimum:g} to {maximum:g}: float32 cannot hold their range"
        )
    return minimum, range_


def _quantise(values: np.ndarray, header: CompressedMatrix, highest: int) -> np.ndarray:
    """Return codes from 0 to ``highest``, rounded as Kaldi rounds: add 0.499, then truncate."""
    with np.errstate(over="ignore"):
        fraction = np.clip((values - header.minimum) / header.range, _F32(0), _F32(1))
    codes: np.ndarray = ((fraction * _F32(highest)).astype(np.float64) + 0.499).astype(np.int32)
    return codes


def _column_percentiles(columns: np.ndarray, header: CompressedMatrix) -> np.ndarray:
    """Return percentiles 0, 25, 75 and 100 of each row of ``columns``: strictly increasing codes, (columns, 4)."""
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
    """Return the codes of each column, 0 … 64 … 192 … 255 between its percentiles: uint8, (columns, rows)."""
    p0, p25, p75, p100 = (percentiles[:, i : i + 1] for i in range(4))

    def piece(low: np.ndarray, high: np.ndarray, first: int, steps: int) -> np.ndarray:
        code = ((columns - low) / (high - low) * _F32(steps)).astype(np.float64) + 0.5
        result: np.ndarray = first + np.clip(code, 0, steps).astype(np.int32)
        return result

    codes = np.where(
        columns < p25,
        piece(p0, p25, 0, 64),
        np.where(columns < p75, piece(p25, p75, 64, 128), piece(p75, p100, 192, 63)),
    )
    return codes.astype(np.uint8)


def _decode_columns(codes: np.ndarray, percentiles: np.ndarray) -> np.ndarray:
    """Return the values that the codes of ``_encode_columns`` stand for: float32, (columns, rows)."""
    p0, p25, p75, p100 = (percentiles[:, i : i + 1] for i in range(4))
    code = codes.astype(_F32)

    def piece(low: np.ndarray, high: np.ndarray, first: int, steps: int) -> np.ndarray:
        # Kaldi multiplies the float product by a double constant and adds in double.
        values: np.ndarray = low.astype(np.float64) + ((high - low) * (code - _F32(first))).astype(np.float64) * (
            1.0 / steps
        )
        return values

    result: np.ndarray = np.where(
        codes <= 64, piece(p0, p25, 0, 64), np.where(codes <= 192, piece(p25, p75, 64, 128), piece(p75, p100, 192, 63))
    )
    return result.astype(_F32)
