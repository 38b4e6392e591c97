"""Kaldi's tables: key-value pairs in an archive (``ark:``) or listed in a script file (``scp:``).

Read in order, and write:

    with TableWriter("ark,scp:out.ark,out.scp", "vector") as writer:
        for key, vector in read_table("scp:in.scp", "vector"):
            writer.write(key, vector)

Read by key:

    with RandomReader("ark,s,cs:spk2mean.ark", "vector") as means:
        if key in means:
            mean = means[key]

The kinds of values are the keys of HOLDERS (holders.py). "vector" and "matrix" are float32, whatever the file holds
(Kaldi's BaseFloat); "double_vector" and "double_matrix" are float64; "general_matrix" leaves compressed matrices
compressed.

Options of an rspecifier:
    p: skip a missing or broken entry with a warning; end where an archive is broken
    o: each key is looked up once
    s: the table is sorted
    cs: keys are looked up in sorted order; with ``s``, only one value is in memory
    np, no, ns, ncs: the opposites
    b, t, bg: accepted, without effect: the format is detected, and reading is buffered anyway
Options of a wspecifier:
    b, t: binary or text
    f, nf: flush after every value, or not
    p: drop values whose keys are not in the script file
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Dict, Generator, Iterable, Iterator, List, Optional, Tuple, Type, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import log, matrix, words
from sdpn_k2.kaldi.formats.compression import CompressedMatrix, compress
from sdpn_k2.kaldi.formats.holders import HOLDERS
from sdpn_k2.kaldi.formats.io import BLOCK, LONGEST_KEY, InputStream, open_input, open_output
from sdpn_k2.kaldi.formats.script_files import (
    ScriptFiles,
    common_archive,
    script_blocks,
    script_lines,
    split_range,
    take_range,
)
from sdpn_k2.kaldi.formats.specifiers import is_table, parse_rspecifier, parse_wspecifier

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "HOLDERS",
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


# Reading in order


class TableReader:
    """An iterator over the (key, value) pairs of a table; see read_table."""

    def __init__(self, rspecifier: str, kind: str):
        self._specifier = parse_rspecifier(rspecifier)
        self._holder = HOLDERS[kind]
        self._stream: Optional[InputStream] = None  # of an archive
        self._name = rspecifier  # of the current entry of a script file
        self._permissive = "p" in self._specifier.options
        self._entries: Generator[Tuple[str, Any], None, None]
        if self._specifier.archive is not None:
            self._entries = self._read_archive(self._specifier.archive)
        elif self._specifier.script is not None:
            self._entries = self._read_script(self._specifier.script)

    @property
    def where(self) -> str:
        """The place of the last entry, for messages: "xvector.ark: byte 1234"."""
        return self._name if self._stream is None else f"{self._stream.name}: byte {self._stream.entry}"

    def __iter__(self) -> Iterator[Tuple[str, Any]]:
        return self._entries

    def __next__(self) -> Tuple[str, Any]:
        return next(self._entries)

    def close(self) -> None:
        """Stop reading."""
        self._entries.close()

    def __enter__(self) -> TableReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_archive(self, archive: str) -> Generator[Tuple[str, Any], None, None]:
        read, like_last = self._holder.read, self._holder.read_like_last
        with open_input(archive) as stream:
            self._stream = stream
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
                log.warn(f"{message}; stopped reading (option p)")
                stream.close(check=False)

    def _read_script(self, script: str) -> Generator[Tuple[str, Any], None, None]:
        empty = True
        with ScriptFiles(self._holder) as files:
            for keys, names in script_blocks(script):
                empty = False
                archive, offsets = common_archive(names)
                done = 0
                while done < len(keys):
                    rows = None if offsets is None else files.read_rows(archive, offsets[done:])
                    if rows is not None:
                        for key, self._name, row in zip(keys[done : done + len(rows)], names[done:], rows):
                            yield key, row
                        done += len(rows)
                        continue
                    key, self._name = keys[done], names[done]
                    done += 1
                    try:
                        value = files.read(key, self._name)
                    except InputError as error:
                        if not self._permissive:
                            raise
                        log.warn(f"{error}; skipped (option p)")
                        continue
                    yield key, value
        if empty:
            log.warn(f"{self._specifier.text}: the table is empty")


def read_table(rspecifier: str, kind: str) -> TableReader:
    """Iterate over the (key, value) pairs of a table in its order.

    Args:
        rspecifier: the table.
        kind: the kind of its values, a key of HOLDERS.

    Raises:
        InputError: (while iterating) the table is cut short, or has a wrong header or an impossible size; a file is
            missing; a command failed. The message names key and offset. With the option ``p``, damage causes a warning.

    Examples:
        >>> [(key, vector.tolist()) for key, vector in read_table("ark:echo 'a [ 1 2 ]' |", "vector")]
        [('a', [1.0, 2.0])]
    """
    return TableReader(rspecifier, kind)


# Reading by key


class RandomReader:
    """Look values up by key.

    A script file is loaded as a list of names. An archive without options is loaded as a whole on the first access.
    With the option ``s`` (sorted), an archive is read only as far as needed; with ``s`` and ``cs`` (keys are looked up
    in sorted order), one value is in memory at a time.

    Args:
        rspecifier: the table.
        kind: the kind of its values, a key of HOLDERS.
        key_map: rspecifier of a table of tokens, such as utt2spk, that maps the keys looked up to the keys of the
            table; "" for none.

    Raises:
        InputError: a duplicate key, a broken table, or keys out of order although ``s`` or ``cs`` promised them sorted.

    Examples:
        >>> with RandomReader("ark:echo 'a [ 1 2 ]' |", "vector") as vectors:
        ...     "a" in vectors, "b" in vectors, vectors["a"].tolist()
        (True, False, [1.0, 2.0])
    """

    def __init__(self, rspecifier: str, kind: str, key_map: str = ""):
        self._specifier = parse_rspecifier(rspecifier)
        self._kind = kind
        self._once = "o" in self._specifier.options
        self._sorted = "s" in self._specifier.options
        self._permissive = "p" in self._specifier.options
        self._called_sorted = self._sorted and "cs" in self._specifier.options
        self._key_map = RandomReader(key_map, "token") if key_map else None
        self._files = ScriptFiles(HOLDERS[kind])
        self._names: Optional[Dict[str, str]] = None
        self._values: Dict[str, Any] = {}
        self._table: Optional[TableReader] = None
        self._last_read: Optional[str] = None
        self._last_asked: Optional[str] = None
        self._finished = False
        if self._specifier.script is not None:
            self._names = _without_duplicates(script_lines(self._specifier.script), rspecifier)

    def __contains__(self, key: str) -> bool:
        mapped = self._map(key)
        if mapped is None:
            return False
        if self._names is None:
            return self._look_up(mapped)
        if mapped not in self._names:
            return False
        return not self._permissive or self._load_permissively(mapped, self._names[mapped])

    def __getitem__(self, key: str) -> Any:
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

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default`` if the key is not in the table."""
        return self[key] if key in self else default  # noqa: SIM401 (this is get)

    def require(self, key: str) -> Any:
        """Return the value of ``key``; raise InputError if the key is not in the table."""
        if key not in self:
            raise InputError(f"{self._specifier.text}: the key {key} is missing")
        return self[key]

    def _map(self, key: str) -> Optional[str]:
        if self._key_map is None:
            return key
        mapped: Optional[str] = self._key_map.get(key)
        return mapped

    def _load_permissively(self, key: str, rxfilename: str) -> bool:
        if key not in self._values:
            try:
                self._values = {key: self._files.read(key, rxfilename)}
            except InputError as error:
                log.warn(f"{error}; treated as absent (option p)")
                return False
        return True

    def _look_up(self, key: str) -> bool:
        """Read as far as the options require, and return whether the table has ``key``."""
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
                    f"{self._specifier.text}: {key} was looked up after {self._last_asked}, but the option cs promises "
                    "sorted access (sort both tables with LC_ALL=C, or remove cs)"
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
                    "a sorted table without duplicates (sort it with LC_ALL=C, or remove s)"
                )
            self._last_read = entry[0]
            if self._called_sorted:
                self._values = {}
            self._values[entry[0]] = entry[1]
        return key in self._values

    def close(self) -> None:
        """Close the files of the table."""
        self._files.close()
        if self._table is not None:
            self._table.close()
        if self._key_map is not None:
            self._key_map.close()

    def __enter__(self) -> RandomReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _without_duplicates(entries: Iterable[Tuple[str, Any]], name: str) -> Dict[str, Any]:
    table: Dict[str, Any] = {}
    for key, value in entries:
        if key in table:
            raise InputError(f"{name}: duplicate key {key} (a table that is looked up by key must have unique keys)")
        table[key] = value
    return table


def load_vectors(rspecifier: str, dtype: npt.DTypeLike = np.float32) -> Tuple[List[str], np.ndarray]:
    """Load all vectors of a table as (keys, array of shape (n, dim)); an empty table gives an array of shape (0, 0).

    Raises:
        InputError: a vector differs from the first in dimension (with the option ``p`` it is skipped with a warning).
    """
    keys: List[str] = []
    vectors = np.empty((0, 0), dtype)  # grows by doubling: a list of a million small arrays would stay in the heap
    permissive = "p" in parse_rspecifier(rspecifier).options
    reader = read_table(rspecifier, "double_vector" if dtype == np.float64 else "vector")
    for key, vector in reader:
        if keys and len(vector) != vectors.shape[1]:
            message = f"{reader.where}: key {key}: {len(vector)} dimensions, but the first has {vectors.shape[1]}"
            if not permissive:
                raise InputError(message)
            log.warn(message + "; skipped (option p)")
            continue
        if len(keys) == len(vectors):
            larger = np.empty((max(1024, 2 * len(keys)), len(vector)), dtype)
            if keys:
                larger[: len(keys)] = vectors
            vectors = larger
        vectors[len(keys)] = vector
        keys.append(key)
    return keys, vectors[: len(keys)]


# Writing


class TableWriter:
    """Write a table, in a ``with`` block. The files get their names when the block ends without an exception.

    Args:
        wspecifier: ``ark:``, ``ark,scp:``, or ``scp:`` with an existing script file that says where each value goes.
        kind: the kind of the values, a key of HOLDERS.
        compression_method: for matrices: 1 to 7 compresses them (see compression.py), 0 does not.

    Raises:
        InputError: the output cannot be written, a key is empty or has blanks, or a value is of another kind.

    Examples:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with TableWriter(f"ark,t:{folder}/x.ark", "vector") as writer:
        ...         writer.write("a", np.array([1.0, 2.0]))
        ...     print(pathlib.Path(folder, "x.ark").read_text().strip())
        a  [ 1 2 ]
    """

    def __init__(self, wspecifier: str, kind: str, compression_method: int = 0):
        self._specifier = parse_wspecifier(wspecifier)
        self._encode = HOLDERS[kind].encode
        self._method = compression_method
        self._binary = "t" not in self._specifier.options
        self._mark = matrix.BINARY_MARK if self._binary and HOLDERS[kind].marked else b""
        self._before_value = b" " + self._mark
        self._limit = 0 if "f" in self._specifier.options else BLOCK
        # Large matrices are written from where they are, without a copy.
        self._large = (
            kind == "matrix" and self._binary and not compression_method and self._specifier.archive is not None
        )
        self._ark: Optional[IO[bytes]] = None
        self._scp: Optional[IO[bytes]] = None
        self._names: Dict[str, str] = {}  # without an archive: where the script file says that each value goes
        self._pending: List[Union[bytes, memoryview]] = []  # not yet written to the archive
        self._lines: List[str] = []  # not yet written to the script file
        self._waiting = 0  # bytes in _pending
        self._offset = 0  # in the archive, of the next entry

    def __enter__(self) -> TableWriter:
        archive, script = self._specifier.archive, self._specifier.script
        with contextlib.ExitStack() as stack:
            if archive is None and script is not None:
                self._names = dict(script_lines(script))
            elif archive is not None:
                if script is not None:
                    if archive in ("", "-") or archive.startswith("|"):
                        log.warn(f"{self._specifier.text}: {archive!r} is not a file that a script file can point into")
                    self._scp = stack.enter_context(open_output(script))
                self._ark = stack.enter_context(open_output(archive))
            stack.push(self._finish)  # runs first, so that an error there still discards the files
            self._stack = stack.pop_all()
        return self

    def write(self, key: str, value: Any) -> None:
        """Write one value."""
        if not key or " " in key or not (key.isprintable() or words.is_key(key)):
            raise InputError(f"{self._specifier.text}: {key[:80]!r} is not a valid key (keys are words without blanks)")
        if len(key) >= LONGEST_KEY // 4 and len(key.encode("utf-8", "surrogateescape")) >= LONGEST_KEY:
            raise InputError(
                f"{self._specifier.text}: {key[:80]!r}… is not a valid key: it has {LONGEST_KEY} bytes or more"
            )
        if self._large:
            parts = matrix.encode_large_matrix(value, self._limit + 1)
            if parts is not None:
                self._add(key, *parts)
                return
        try:
            if self._method and not isinstance(value, CompressedMatrix):
                value = compress(value, self._method)
            data = self._encode(value, self._binary)
        except InputError as error:
            raise InputError(f"{self._specifier.text}: key {key}: {error}") from None
        if self._ark is None:
            self._write_alone(key, data)
        else:
            self._add(key, data)

    def _add(self, key: str, *data: Union[bytes, memoryview]) -> None:
        """Add an entry to the archive. Views of more than ``_limit`` bytes are written before this returns."""
        head = key.encode("utf-8", "surrogateescape") + self._before_value
        if self._scp is not None:
            self._lines.append(f"{key} {self._specifier.archive}:{self._offset + len(head) - len(self._mark)}\n")
        self._pending += (head, *data)
        size = len(head) + sum(map(len, data))
        self._offset += size
        self._waiting += size
        if self._waiting > self._limit and self._ark is not None:
            self._flush(self._ark)

    def _flush(self, ark: IO[bytes]) -> None:
        try:
            if self._waiting > BLOCK * len(self._pending) // 4:  # a few large values: not worth another copy
                ark.writelines(self._pending)
            else:
                ark.write(b"".join(self._pending))
            if self._limit == 0:
                ark.flush()
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
            raise InputError(f"{self._specifier.text}: the key {key} is not in the script file")
        with open_output(self._names[key]) as stream:
            stream.write(self._mark + data)

    def _finish(self, exception_type: Optional[Type[BaseException]], *_: object) -> None:
        if exception_type is None and self._ark is not None:
            self._flush(self._ark)
            # A full disk shows here, before one of the two has its final name.
            if self._scp is not None:
                for stream in (self._ark, self._scp):
                    self._sync(stream)

    def _sync(self, stream: IO[bytes]) -> None:
        try:
            stream.flush()
            with contextlib.suppress(ValueError, io.UnsupportedOperation):
                if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    os.fsync(stream.fileno())
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(f"{self._specifier.text}: cannot write: {error.strerror or error}") from None

    def __exit__(
        self,
        exception_type: Optional[Type[BaseException]],
        exception: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._stack.__exit__(exception_type, exception, traceback)


# Single objects


def read_object(rxfilename: str, kind: str) -> Any:
    """Read one object from an extended filename: ``mean.vec``, ``ivector-mean … - |``, ``feats.ark:17[0:9]``."""
    name, range_ = split_range(rxfilename)
    value = HOLDERS[kind].run(name) if name.endswith("|") else None
    if value is None:
        with open_input(name) as stream:
            value = HOLDERS[kind].read(stream)
    return value if range_ is None else take_range(value, range_, rxfilename)


def write_object(wxfilename: str, value: Any, kind: str, binary: bool = True) -> None:
    """Write one object to an extended filename, without a key."""
    holder = HOLDERS[kind]
    mark = matrix.BINARY_MARK if binary and holder.marked else b""
    data = mark + holder.encode(value, binary)
    with open_output(wxfilename) as stream:
        stream.write(data)
