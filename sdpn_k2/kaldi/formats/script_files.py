"""Script files: lines "key file", "key file:offset", either with a range, or "key command |", and what they name."""

from __future__ import annotations

import re
from typing import Any, Iterator, List, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import log, matrix, words
from sdpn_k2.kaldi.formats.compression import CompressedMatrix
from sdpn_k2.kaldi.formats.holders import Holder
from sdpn_k2.kaldi.formats.io import InputStream, open_input, split_offset

_RANGE = re.compile(r"(.*)\[([^\[\]]*)\]\Z", re.DOTALL)
_END_TOLERANCE = 3  # the times of segments are rounded, so Kaldi lets a range end at index rows + 2
_MOST_DIGITS = 18  # of an offset
_MOST_ROWS = 64  # read at once; they share memory
_GRAPHIC = bytes(range(0x21, 0x7F))  # the printable characters of ASCII without the blank


# Lines


def script_lines(rxfilename: str) -> Iterator[Tuple[str, str]]:
    """Yield the key and the extended filename of each line of a script file."""
    for keys, names in script_blocks(rxfilename):
        yield from zip(keys, names)


def script_blocks(rxfilename: str) -> Iterator[Tuple[List[str], List[str]]]:
    """Yield the keys and the extended filenames of a script file in blocks of lines."""
    number = 0
    with open_input(rxfilename) as stream:
        for block in stream.line_blocks():
            count = block.count(b"\n") + 1
            # Plain ASCII with two words a line is split at once.
            plain = block.translate(None, _GRAPHIC) == b" \n" * (count - 1) + b" "
            fields = block.decode("ascii").split() if plain else []
            if len(fields) != 2 * count:
                fields = []
                lines = block.decode("utf-8", "surrogateescape").split("\n")
                for line in lines:
                    number += 1
                    try:
                        key, name = words.split(line, 1)
                    except ValueError:
                        if fields:  # the lines before it are good
                            yield fields[::2], fields[1::2]
                        raise InputError(
                            f"{stream.name}: line {number} should be '<key> <file>', not {line[:60]!r}"
                        ) from None
                    fields += key, words.strip(name)
                number -= count
            yield fields[::2], fields[1::2]
            number += count


def common_archive(names: List[str]) -> Tuple[str, Optional[np.ndarray]]:
    """Return the archive and the offsets if all names are ``archive:offset`` with the same archive, else ("", None)."""
    archive, colon, _ = names[0].rpartition(":")
    numbers = (" " + " ".join(names)).replace(f" {archive}:", " ") if colon else ""
    digits = numbers.split()
    if not numbers.isascii() or not "".join(digits).isdecimal() or len(digits) != len(names):
        return "", None
    if max(map(len, digits)) > _MOST_DIGITS:
        return "", None
    return archive, np.fromstring(numbers, np.int64, sep=" ")


# What they name


class ScriptFiles:
    """Read the objects that the lines of a script file name; open an archive once for consecutive lines."""

    def __init__(self, holder: Holder):
        self._holder = holder
        self._path: Optional[str] = None
        self._stream: Optional[InputStream] = None
        self._last: Optional[np.ndarray] = None  # the last vector, if it came from _stream

    def read(self, key: str, rxfilename: str) -> Any:
        """Read the object at ``file``, ``file:offset``, either with a range, or ``command |``."""
        name, range_ = split_range(rxfilename)
        try:
            value = self._read_object(name)
            return value if range_ is None else take_range(value, range_, rxfilename)
        except InputError as error:
            raise InputError(f"{error} (key {key})") from None

    def read_rows(self, archive: str, offsets: np.ndarray) -> Optional[np.ndarray]:
        """Return the vectors at the first of these offsets as rows ``(n, dim)``, or None.

        They are those that are in memory and have the type and length of the last vector.
        """
        last, stream = self._last, self._stream
        if last is None or stream is None or archive != self._path:
            return None
        header = matrix.vector_header(last.dtype, len(last))
        room = len(stream.buffer) - len(header) - last.nbytes
        if not 0 <= offsets[0] - stream.base <= room:
            return None
        starts = offsets[:_MOST_ROWS] - stream.base
        fits = (starts >= 0) & (starts <= room)
        count = len(fits) if fits.all() else int(fits.argmin())
        heads = _pieces(stream.buffer, starts[:count], len(header)).tobytes()
        while heads != header * count:  # another kind of object follows: as many as are of this kind
            count //= 2
            heads = heads[: count * len(header)]
        if not count:
            return None
        rows = _pieces(stream.buffer, starts[:count] + len(header), last.nbytes)
        return rows.view(last.dtype).reshape(count, len(last))

    def _read_object(self, name: str) -> Any:
        self._last = None
        value = self._holder.run(name) if name.endswith("|") else None
        if value is not None:
            return value
        path, offset = split_offset(name)
        if offset is None:
            with open_input(name) as stream:
                return self._holder.read(stream)
        if self._stream is None or path != self._path:
            self.close()
            self._stream, self._path = open_input(name), path
        else:
            self._stream.seek(offset)
        try:
            value = self._holder.read(self._stream)
        except InputError:
            self.close()
            raise
        if self._holder.read_like_last is not None and len(value):
            self._last = value
        return value

    def close(self) -> None:
        """Close the archive."""
        if self._stream is not None:
            self._stream.close()
            self._stream = self._path = self._last = None

    def __enter__(self) -> ScriptFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pieces(buffer: bytes, starts: np.ndarray, size: int) -> np.ndarray:
    """Return the ``size`` bytes of the buffer from each start on, ``(n,)`` of raw bytes."""
    everywhere: np.ndarray = np.ndarray((len(buffer) - size + 1,), f"V{size}", buffer, 0, (1,))
    pieces: np.ndarray = everywhere[starts]
    return pieces


def split_range(rxfilename: str) -> Tuple[str, Optional[str]]:
    """Split ``feats.ark:17[0:9]`` into ("feats.ark:17", "0:9"); return a name without range as (itself, None)."""
    match = _RANGE.match(rxfilename) if rxfilename.endswith("]") else None
    return (match.group(1), match.group(2)) if match else (rxfilename, None)


def take_range(value: Any, range_: str, name: str) -> np.ndarray:
    """Return part of a vector or matrix: rows ``first:last``, then columns; both ends are included, ``:`` is all.

    As in Kaldi, rows may end up to 2 above the number of rows: they are clipped with a warning.

    Raises:
        InputError: the range is malformed, reversed or outside of the value, or the value is not a vector or matrix.
    """
    if isinstance(value, CompressedMatrix):
        value = value.to_array()
    if not isinstance(value, np.ndarray):
        raise InputError(f"{name}: only vectors and matrices have ranges")
    parts = range_.split(",")
    what = f"[{range_}] of a {'vector' if value.ndim == 1 else 'matrix'} of {' × '.join(map(str, value.shape))} numbers"
    if len(parts) > value.ndim:
        raise InputError(f"{name}: invalid range {what}")
    slices = []
    for size, tolerance, part in zip(value.shape, (_END_TOLERANCE, 0), parts):
        if part == ":":
            slices.append(slice(None))
            continue
        match = re.match(r"(\d+):(\d+)\Z", part)
        first, last = map(int, match.groups()) if match else (1, 0)
        if not first <= last < size + tolerance or first >= size:
            raise InputError(f"{name}: invalid range {what}")
        if last >= size:
            log.warn(f"{name}: clipped the range {what}: it ends beyond the data")
        slices.append(slice(first, last + 1))
    return np.ascontiguousarray(value[tuple(slices)])
