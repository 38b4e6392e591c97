"""Kaldi's tables: key-value pairs in an archive (``ark:``) or listed in a script file (``scp:``).

Reading in order, writing:

    with TableWriter("ark,scp:out.ark,out.scp", "vector") as writer:
        for key, vector in read_table("scp:in.scp", "vector"):
            writer.write(key, vector)

Reading by key:

    with RandomReader("ark,s,cs:spk2mean.ark", "vector") as means:
        if key in means:
            mean = means[key]

Kinds of values: see kinds.py. "vector" and "matrix" are float32 whatever the file holds (Kaldi's BaseFloat);
"double_vector" and "double_matrix" are float64; "general_matrix" leaves compressed matrices compressed.

Options of an rspecifier: ``p`` (a missing or broken entry is skipped with a warning; a broken archive ends there),
``o`` (each key is asked for once), ``s`` (sorted), ``cs`` (asked for in sorted order: with both, nothing is kept), their
negations, ``b``, ``t`` and ``bg`` (accepted: the format is recognised and reading is buffered anyway). Options of a
wspecifier: ``b`` or ``t``, ``f`` (flush after every value), ``nf``, ``p`` (values whose key the script file lacks are
dropped).
"""

import contextlib
import re
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import log, matrix
from sdpn_k2.kaldi.formats.compression import CompressedMatrix, compress
from sdpn_k2.kaldi.formats.holders import KINDS, Kind
from sdpn_k2.kaldi.formats.io import BLOCK, InputStream, open_input, open_output, split_offset
from sdpn_k2.kaldi.formats.specifiers import is_table, parse_rspecifier, parse_wspecifier

__all__ = [
    "KINDS",
    "RandomReader",
    "TableReader",
    "TableWriter",
    "is_table",
    "load_vectors",
    "parse_rspecifier",
    "parse_wspecifier",
    "read_object",
    "read_table",
    "script_lines",
    "take_range",
    "write_object",
]

_RANGE = re.compile(r"(.*)\[([^\[\]]*)\]\Z", re.DOTALL)
_END_TOLERANCE = 3  # Kaldi takes ranges of segments whose times were rounded: they may end at index rows + 2


# Reading in order


class TableReader:
    """Iterates over the (key, value) pairs of a table; see read_table.

    Attributes:
        where: the place of the last entry, for messages ("xvector.ark: byte 1234").
    """

    def __init__(self, rspecifier: str, kind: str):
        self._specifier = parse_rspecifier(rspecifier)
        self._kind = KINDS[kind]
        self._place = lambda: rspecifier
        self._permissive = "p" in self._specifier.options
        self._entries = self._read_archive() if self._specifier.archive is not None else self._read_script()

    @property
    def where(self) -> str:
        return self._place()

    def __iter__(self) -> Iterator[Tuple[str, Any]]:
        return self._entries

    def __next__(self) -> Tuple[str, Any]:
        return next(self._entries)

    def close(self) -> None:
        """Stop reading."""
        self._entries.close()

    def __enter__(self) -> "TableReader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _read_archive(self):
        read, like_last = self._kind.read, self._kind.read_like_last
        with open_input(self._specifier.archive) as stream:
            self._place = lambda: f"{stream.name}: byte {stream.entry}"
            key = None
            try:
                while True:
                    stream.entry = stream.tell()
                    key = stream.read_key()
                    if key is None:
                        break
                    value = read(stream)
                    yield key, value
                    if like_last is not None:
                        yield from like_last(stream, value)
                if stream.entry == 0:
                    log.warn(f"{self._specifier.text}: the table is empty")
            except InputError as error:
                message = f"{error}" if key is None else f"{error} (key {key}, which starts at byte {stream.entry})"
                if not self._permissive:
                    raise InputError(message) from None
                log.warn(f"{message}; reading ends here, as asked by the option p")
                stream.close(check=False)

    def _read_script(self):
        rxfilename = None
        self._place = lambda: rxfilename
        with _ScriptFiles(self._kind) as files:
            for key, rxfilename in script_lines(self._specifier.script):
                try:
                    value = files.read_like_last(rxfilename)
                    if value is None:
                        value = files.read(key, rxfilename)
                except InputError as error:
                    if not self._permissive:
                        raise
                    log.warn(f"{error}; skipped, as asked by the option p")
                    continue
                yield key, value
        if rxfilename is None:
            log.warn(f"{self._specifier.text}: the table is empty")


def read_table(rspecifier: str, kind: str) -> TableReader:
    """Iterate over the (key, value) pairs of a table in its order.

    Raises:
        InputError: while iterating: the table is cut short, has a wrong header or impossible sizes (the message names
            key and offset), a file is missing, a command failed. With the option ``p`` damage is a warning.
    """
    return TableReader(rspecifier, kind)


class _ScriptFiles:
    """Reads the objects that the lines of a script file name, opening an archive once for neighbours in it."""

    def __init__(self, kind: Kind):
        self._kind = kind
        self._path: Optional[str] = None
        self._stream: Optional[InputStream] = None
        self._last: Optional[np.ndarray] = None  # the vector read last, if it came from _stream
        self._header = b""  # of that vector
        self._prefix = ""  # of names of others in its archive

    def read(self, key: str, rxfilename: str):
        """The object at ``file``, ``file:offset``, either with a range, or ``command |``."""
        match = _RANGE.match(rxfilename) if rxfilename.endswith("]") else None
        name, range_ = match.groups() if match else (rxfilename, None)
        try:
            value = self._read_object(name)
            return value if range_ is None else take_range(value, range_, rxfilename)
        except InputError as error:
            raise InputError(f"{error} (key {key})") from None

    def read_like_last(self, rxfilename: str) -> Optional[np.ndarray]:
        """The vector at ``file:offset`` if it is in memory and has the type and length of the one before, else None."""
        last = self._last
        if last is None or not rxfilename.startswith(self._prefix):
            return None
        offset = rxfilename[len(self._prefix) :]
        if not offset.isdecimal() or len(offset) > 18:
            return None
        stream, header = self._stream, self._header
        start = int(offset) - stream.base
        data = start + len(header)
        if start < 0 or data + last.nbytes > len(stream.buffer) or not stream.buffer.startswith(header, start):
            return None
        return np.frombuffer(stream.buffer, last.dtype, len(last), data).copy()

    def _read_object(self, name: str):
        value = self._kind.run(name) if name.endswith("|") else None
        if value is not None:
            return value
        path, offset = split_offset(name)
        if offset is None:
            with open_input(name) as stream:
                return self._kind.read(stream)
        if path != self._path:
            self.close()
            self._stream, self._path = open_input(name), path
        else:
            self._stream.seek(offset)
        try:
            value = self._kind.read(self._stream)
        except InputError:
            self.close()
            raise
        if self._kind.read_like_last is not None and len(value):
            self._last, self._header = value, matrix.vector_header(value.dtype, len(value))
            self._prefix = path + ":"
        return value

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = self._path = self._last = None

    def __enter__(self) -> "_ScriptFiles":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def script_lines(rxfilename: str) -> Iterator[Tuple[str, str]]:
    """(key, extended filename) of each line of a script file."""
    with open_input(rxfilename) as stream:
        for number, line in enumerate(stream.lines(), 1):
            try:
                key, name = line.split(None, 1)
            except ValueError:
                raise InputError(f"{stream.name}: line {number} should be '<key> <file>', not {line[:60]!r}") from None
            yield key, name.rstrip()


def take_range(value, range_: str, name: str):
    """Part of a vector or matrix: ``first:last`` of rows, then of columns; both ends belong to it, ``:`` is all.

    A row end up to 2 beyond the number of rows is clipped with a warning; more is an error, as in Kaldi.

    Raises:
        InputError: the range is malformed, reversed or outside of the value; or the value is neither vector nor matrix.
    """
    if isinstance(value, CompressedMatrix):
        value = value.to_array()
    if not isinstance(value, np.ndarray):
        raise InputError(f"{name}: a range can be taken of vectors and matrices only")
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
            log.warn(f"{name}: the range {what} ends beyond them: clipped")
        slices.append(slice(first, last + 1))
    return np.ascontiguousarray(value[tuple(slices)])


# Reading by key


class RandomReader:
    """Looks values up by key.

    A script file is loaded as a list of names; an archive without options is loaded as a whole on the first access;
    ``s`` (the archive is sorted) reads only as far as needed and with ``cs`` (keys are asked for in sorted order) keeps
    one value at a time.

    Args:
        rspecifier: the table.
        kind: one of KINDS.
        key_map: an rspecifier of a table of tokens (utt2spk) that turns the keys asked for into keys of the table; ""
            for none.

    Raises:
        InputError: a duplicate key, a broken table, keys out of order although ``s`` or ``cs`` promised them sorted.
    """

    def __init__(self, rspecifier: str, kind: str, key_map: str = ""):
        self._specifier = parse_rspecifier(rspecifier)
        self._kind = kind
        self._once = "o" in self._specifier.options
        self._sorted = "s" in self._specifier.options
        self._permissive = "p" in self._specifier.options
        self._called_sorted = self._sorted and "cs" in self._specifier.options
        self._key_map = RandomReader(key_map, "token") if key_map else None
        self._files = _ScriptFiles(KINDS[kind])
        self._names: Optional[Dict[str, str]] = None
        self._values: Dict[str, Any] = {}
        self._table: Optional[TableReader] = None
        self._last_read: Optional[str] = None
        self._last_asked: Optional[str] = None
        self._finished = False
        if self._specifier.script is not None:
            self._names = _without_duplicates(script_lines(self._specifier.script), rspecifier)

    def __contains__(self, key: str) -> bool:
        key = self._map(key)
        if key is None:
            return False
        if self._names is None:
            return self._look_up(key)
        if key not in self._names:
            return False
        return not self._permissive or self._load_permissively(key)

    def __getitem__(self, key: str):
        mapped = self._map(key)
        if mapped is None:
            raise KeyError(key)
        if self._names is not None:
            if mapped in self._values:
                return self._values[mapped]
            return self._files.read(mapped, self._names[mapped])
        if not self._look_up(mapped):
            raise KeyError(key)
        return self._values.pop(mapped) if self._once and not self._sorted else self._values[mapped]

    def get(self, key: str, default=None):
        """The value of ``key``, or ``default`` if the table lacks it."""
        return self[key] if key in self else default

    def _map(self, key: str) -> Optional[str]:
        return key if self._key_map is None else self._key_map.get(key)

    def _load_permissively(self, key: str) -> bool:
        if key not in self._values:
            try:
                self._values = {key: self._files.read(key, self._names[key])}
            except InputError as error:
                log.warn(f"{error}; treated as absent, as asked by the option p")
                return False
        return True

    def _look_up(self, key: str) -> bool:
        """Read on as far as the options require to know whether ``key`` is there."""
        if self._table is None:
            self._table = read_table(self._specifier.text, self._kind)
        if not self._sorted:
            if not self._finished:
                self._values = _without_duplicates(self._table, self._specifier.text)
                self._finished = True
            return key in self._values
        if self._called_sorted:
            if self._last_asked is not None and key < self._last_asked:
                raise InputError(
                    f"{self._specifier.text}: asked for {key} after {self._last_asked}, but the option cs promises "
                    "sorted access (sort both tables with LC_ALL=C or drop cs)"
                )
            self._last_asked = key
        while not self._finished and (self._last_read is None or self._last_read < key):
            entry = next(self._table, None)
            if entry is None:
                self._finished = True
                break
            if self._last_read is not None and entry[0] <= self._last_read:
                raise InputError(
                    f"{self._table.where}: the key {entry[0]} comes after {self._last_read}, but the option s promises "
                    "a sorted table without duplicates (sort it with LC_ALL=C or drop s)"
                )
            self._last_read = entry[0]
            if self._called_sorted:
                self._values = {}
            self._values[entry[0]] = entry[1]
        return key in self._values

    def close(self) -> None:
        """Close the files."""
        self._files.close()
        if self._table is not None:
            self._table.close()
        if self._key_map is not None:
            self._key_map.close()

    def __enter__(self) -> "RandomReader":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _without_duplicates(entries, name: str) -> Dict[str, Any]:
    table: Dict[str, Any] = {}
    for key, value in entries:
        if key in table:
            raise InputError(f"{name}: the key {key} occurs twice; keys must be unique where they are looked up")
        table[key] = value
    return table


def load_vectors(rspecifier: str, dtype=np.float32) -> Tuple[List[str], np.ndarray]:
    """All vectors of a table as (keys, array of shape (n, dim)); the array of an empty table has shape (0, 0).

    Raises:
        InputError: mixed dimensions (with ``p`` those that differ from the first are skipped with a warning).
    """
    keys: List[str] = []
    vectors: List[np.ndarray] = []
    permissive = "p" in parse_rspecifier(rspecifier).options
    reader = read_table(rspecifier, "double_vector" if dtype == np.float64 else "vector")
    for key, vector in reader:
        if vectors and len(vector) != len(vectors[0]):
            message = f"{reader.where}: key {key}: {len(vector)} dimensions, the vectors before have {len(vectors[0])}"
            if not permissive:
                raise InputError(message)
            log.warn(message + "; skipped, as asked by the option p")
            continue
        keys.append(key)
        vectors.append(vector)
    return keys, np.array(vectors, dtype) if vectors else np.empty((0, 0), dtype)


# Writing


class TableWriter:
    """Writes a table; a context manager. Files appear under their names when the ``with`` ends without an exception.

    Args:
        wspecifier: ``ark:``, ``scp:`` (an existing list of where each value goes) or ``ark,scp:``.
        kind: one of KINDS.
        compression_method: for kinds of matrices: 1 to 7 compresses them (see compression.py), 0 does not.

    Raises:
        InputError: the output cannot be written, a key is empty or has blanks, a value is of another kind.
    """

    def __init__(self, wspecifier: str, kind: str, compression_method: int = 0):
        self._specifier = parse_wspecifier(wspecifier)
        self._encode = KINDS[kind].encode
        self._method = compression_method
        self._binary = "t" not in self._specifier.options
        self._mark = matrix.BINARY_MARK if self._binary and KINDS[kind].marked else b""
        self._before_value = b" " + self._mark
        self._limit = 0 if "f" in self._specifier.options else BLOCK
        self._pending: List[bytes] = []  # what the archive's stream did not get yet
        self._lines: List[str] = []  # likewise of the script file
        self._waiting = 0  # bytes in _pending
        self._offset = 0  # in the archive, of the next entry

    def __enter__(self) -> "TableWriter":
        archive, script = self._specifier.archive, self._specifier.script
        with contextlib.ExitStack() as stack:
            self._scp = self._ark = None
            if archive is None:
                self._names = dict(script_lines(script))
            elif script is not None:
                if archive in ("", "-") or archive.startswith("|"):
                    log.warn(f"{self._specifier.text}: the script file cannot point into {archive!r}, which is no file")
                self._scp = stack.enter_context(open_output(script))
            if archive is not None:
                self._ark = stack.enter_context(open_output(archive))
            stack.push(self._finish)  # runs first, so that what fails there still discards the files
            self._stack = stack.pop_all()
        return self

    def write(self, key: str, value) -> None:
        """Write one value."""
        if not key or " " in key or not (key.isprintable() or key.split() == [key]):
            raise InputError(f"{self._specifier.text}: {key!r} cannot be a key: keys are words without blanks")
        try:
            if self._method and not isinstance(value, CompressedMatrix):
                value = compress(value, self._method)
            data = self._encode(value, self._binary)
        except InputError as error:
            raise InputError(f"{self._specifier.text}: key {key}: {error}") from None
        if self._ark is None:
            self._write_alone(key, data)
            return
        head = key.encode("utf-8", "surrogateescape") + self._before_value
        if self._scp is not None:
            self._lines.append(f"{key} {self._specifier.archive}:{self._offset + len(head) - len(self._mark)}\n")
        self._pending += (head, data)
        size = len(head) + len(data)
        self._offset += size
        self._waiting += size
        if self._waiting > self._limit:
            self._flush()

    def _flush(self) -> None:
        try:
            self._ark.write(b"".join(self._pending))
            if self._limit == 0:
                self._ark.flush()
            if self._scp is not None:
                self._scp.write("".join(self._lines).encode("utf-8", "surrogateescape"))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(f"{self._specifier.text}: cannot write: {error.strerror or error}") from None
        self._pending, self._lines, self._waiting = [], [], 0

    def _write_alone(self, key: str, data: bytes) -> None:
        if key not in self._names:
            if "p" in self._specifier.options:
                return
            raise InputError(f"{self._specifier.text}: the script file does not say where {key} goes")
        with open_output(self._names[key]) as stream:
            stream.write(self._mark + data)

    def _finish(self, exception_type, *_) -> None:
        if exception_type is None and self._ark is not None:
            self._flush()

    def __exit__(self, *exception) -> None:
        self._stack.__exit__(*exception)


# Single objects


def read_object(rxfilename: str, kind: str):
    """The one object in an extended filename: ``mean.vec``, ``ivector-mean … - |``, ``feats.ark:17[0:9]``."""
    match = _RANGE.match(rxfilename) if rxfilename.endswith("]") else None
    name, range_ = match.groups() if match else (rxfilename, None)
    with open_input(name) as stream:
        value = KINDS[kind].read(stream)
    return value if range_ is None else take_range(value, range_, rxfilename)


def write_object(wxfilename: str, value, kind: str, binary: bool = True) -> None:
    """Write one object to an extended filename, without a key."""
    mark = matrix.BINARY_MARK if binary and KINDS[kind].marked else b""
    data = mark + KINDS[kind].encode(value, binary)
    with open_output(wxfilename) as stream:
        stream.write(data)
