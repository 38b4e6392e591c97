r"""Kaldi's extended filenames: where a stream of bytes comes from or goes to.

| name          | reading                         | writing                                   |
| ------------- | ------------------------------- | ----------------------------------------- |
| ``file``      | the file                        | a temporary file, renamed after success   |
| ``file:123``  | the file from byte 123 on       | (refused)                                 |
| ``-`` or ``""`` | standard input                | standard output                           |
| ``cmd \|``    | what ``bash -c cmd`` prints     | (refused)                                 |
| ``\| cmd``    | (refused)                       | the standard input of ``bash -c cmd``     |

Commands run under ``pipefail``: if any part of a pipe fails, closing the stream raises InputError. Script files may
name commands. To refuse those of an untrusted file, use ``pipes_allowed(False)``, or set SDPN_K2_ALLOW_PIPES=false in
the environment.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import sys
from typing import IO, TYPE_CHECKING, Any, ContextManager, Iterator, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError, describe_os_error
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.formats.words import strip

if TYPE_CHECKING:
    import subprocess

    import numpy.typing as npt

BLOCK = 1 << 16  # bytes per read or write of small objects; malloc would return larger blocks to the system every time
_FIRST_BLOCK = 1 << 14  # a single object is often small: read little at first
_LARGEST_BLOCK = 1 << 20  # for large objects; bounds the memory that a forged size can claim ahead of the data
LONGEST_KEY = 1 << 16  # bytes; a longer "key" means that the file is not a table
_KEY = re.compile(rb"\s*(\S*)")
SIGPIPE_STATUS = 141  # the exit status in a shell of a command whose reader has gone away
_SIGPIPE = {SIGPIPE_STATUS, -13}

_pipes_allowed = True


class ReaderGone(InputError):
    """The reader of our standard output has closed the pipe."""


@contextlib.contextmanager
def pipes_allowed(allowed: bool) -> Iterator[None]:
    """Run ``cmd |`` and ``| cmd`` in this context only if ``allowed`` and if the environment does not forbid it."""
    global _pipes_allowed
    before, _pipes_allowed = _pipes_allowed, allowed
    try:
        yield
    finally:
        _pipes_allowed = before


class InputStream:
    """A stream of bytes with look-ahead for parsers, which knows its name and position for their error messages.

    ``read``, ``tell`` and ``close`` work as those of a Python file. The look-ahead never exceeds the bytes that arrive.
    """

    def __init__(
        self, raw: IO[bytes], name: str, offset: int = 0, process: Optional[subprocess.Popen[bytes]] = None
    ) -> None:
        self.name = name
        self.buffer = b""  # bytes read from the source
        self.position = 0  # in buffer, of the first byte that is not consumed
        self.base = offset  # in the source, of buffer[0]
        self.entry = offset  # in the source, of the current entry of an archive
        self._raw: Any = raw  # typing.IO lacks readinto
        self._read = getattr(raw, "read1", raw.read)  # one system call at most: do not wait for a full block
        self._block = _FIRST_BLOCK
        self._at_end = False
        self._process = process

    def tell(self) -> int:
        """Return the offset of the next byte from the start of the file or pipe."""
        return self.base + self.position

    def fail(self, message: str) -> InputError:
        """Return an error that names this position, for the caller to raise."""
        return InputError(f"{self.name}: byte {self.tell()}: {message}")

    def _next_block(self, wanted: int) -> bytes:
        if self._at_end:
            return b""
        try:
            block: bytes = self._read(min(max(wanted, self._block), _LARGEST_BLOCK))
        except OSError as error:
            raise self.fail(f"cannot read: {error.strerror or error}") from None
        self._at_end = not block
        self._block = min(BLOCK, self._block * 4)
        return block

    def ahead(self, size: int) -> int:
        """Read ahead until the buffer has ``size`` unread bytes; return their number (smaller only at the end)."""
        waiting = len(self.buffer) - self.position
        if waiting >= size or self._at_end:
            return waiting
        blocks = [self.buffer[self.position :]]
        self.base += self.position
        self.position = 0
        while waiting < size:
            block = self._next_block(size - waiting)
            if not block:
                break
            blocks.append(block)
            waiting += len(block)
        self.buffer = b"".join(blocks)
        return waiting

    def peek(self, size: int) -> bytes:
        """Return the next ``size`` bytes (fewer at the end) without consuming them."""
        self.ahead(size)
        return self.buffer[self.position : self.position + size]

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes, fewer only at the end; read all the rest if ``size`` is negative."""
        self.ahead(size if size >= 0 else sys.maxsize)
        start = self.position
        self.position = len(self.buffer) if size < 0 else min(start + size, len(self.buffer))
        return self.buffer[start : self.position]

    def read_exactly(self, size: int, what: str) -> bytes:
        """Read ``size`` bytes, or raise an InputError that says that ``what`` is cut short."""
        if self.ahead(size) < size:
            raise self._cut(what, size)
        return self.read(size)

    def read_array(self, item: npt.DTypeLike, count: int, what: str) -> np.ndarray:
        """Read ``count`` items into a new, writable array. Allocate no more than the bytes that arrive."""
        dtype = np.dtype(item)
        size = count * dtype.itemsize
        start = self.position
        if size <= len(self.buffer) - start:
            self.position = start + size
            return np.frombuffer(self.buffer, dtype, count, start).copy() if count else np.empty(0, dtype)
        if size <= BLOCK:
            if self.ahead(size) < size:
                raise self._cut(what, size)
            return self.read_array(dtype, count, what)
        if self._is_in_file(size):
            return self._read_into(np.empty(count, dtype), what)
        data = bytearray()
        while len(data) < size:
            if not self.ahead(1):
                raise self._cut(what, size, len(data))
            data += self.read(min(size - len(data), _LARGEST_BLOCK))
        return np.frombuffer(data, dtype)

    def _is_in_file(self, size: int) -> bool:
        """Return whether the source is a file with ``size`` more bytes."""
        try:
            status = os.fstat(self._raw.fileno())
        except (OSError, ValueError):
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size >= self.tell() + size

    def _read_into(self, array: np.ndarray, what: str) -> np.ndarray:
        view = array.view(np.uint8).data
        filled = len(self.buffer) - self.position
        view[:filled] = self.buffer[self.position :]
        self.base += len(self.buffer)
        self.buffer, self.position = b"", 0
        while filled < len(view):
            count = self._raw.readinto(view[filled:])
            if not count:
                raise self._cut(what, len(view), filled)
            filled += count
            self.base += count
        return array

    def read_key(self) -> Optional[str]:
        """Read the key of the next entry of an archive, and the blank after it; return None at the end."""
        match = _KEY.match(self.buffer, self.position)
        if match is None or match.end() == len(self.buffer):  # the key may go on beyond the buffer
            if not self.skip_blanks():
                return None
            self.ahead(LONGEST_KEY)
            match = _KEY.match(self.buffer, self.position)
        assert match is not None  # this pattern matches anything
        key = match.group(1)
        if b"\0" in key or len(key) >= LONGEST_KEY:
            raise self.fail("expected a key and a blank (is it an archive?)")
        self.position = match.end()
        following = self.buffer[self.position : self.position + 1]
        if not following:
            raise self.fail(f"cut short after the key {key.decode(errors='replace')!r}")
        if following != b"\n":  # a line end belongs to the value, which is empty
            self.position += 1
        return key.decode("utf-8", "surrogateescape")

    def lines(self) -> Iterator[str]:
        """Yield the lines of a text without their ends, reading whole blocks."""
        while self.ahead(1):
            end = self.buffer.rfind(b"\n", self.position) + 1
            if end:
                block, self.position = self.buffer[self.position : end - 1], end
            else:
                block = self.read_through(b"\n")
                block = block[:-1] if block.endswith(b"\n") else block
            yield from block.decode("utf-8", "surrogateescape").split("\n")

    def read_through(self, delimiter: bytes) -> bytes:
        """Read up to and including ``delimiter`` (one byte), or to the end if it does not occur."""
        searched = self.position
        while True:
            found = self.buffer.find(delimiter, searched)
            if found >= 0:
                start, self.position = self.position, found + 1
                return self.buffer[start : self.position]
            waiting = len(self.buffer) - self.position
            if self.ahead(2 * waiting + 1) == waiting:
                return self.read(waiting)
            searched = self.position + waiting

    def skip_blanks(self) -> bytes:
        """Skip white space; return the byte after it without consuming it (empty at the end)."""
        while True:
            following = self.peek(1)
            if not following or not following.isspace():
                return following
            self.position += 1

    def seek(self, offset: int) -> None:
        """Continue reading at ``offset`` (files only); this is free if the buffer already holds that byte."""
        if self.base <= offset <= self.base + len(self.buffer):
            self.position = offset - self.base
            return
        try:
            self._raw.seek(offset)
        except OSError as error:
            raise InputError(f"{self.name}: cannot seek to byte {offset}: {error.strerror or error}") from None
        self.buffer, self.position, self.base = b"", 0, offset
        self._at_end, self._block = False, _FIRST_BLOCK

    def _cut(self, what: str, size: int, got: Optional[int] = None) -> InputError:
        got = len(self.buffer) - self.position if got is None else got
        return self.fail(f"cut short: {what} needs {size} bytes, {got} are left")

    def close(self, check: bool = True) -> None:
        """Close the source. With ``check``, raise InputError if a command was read to its end and failed."""
        if self._process is None:
            if self._raw is not _stdin():
                self._raw.close()
            return
        process, self._process = self._process, None
        # A reader that stops early makes the command fail, so the status is meaningful only after the end.
        finished = check and not self.ahead(1)
        if not check:  # after an error: do not wait for a command that may take long
            process.terminate()
        self._raw.close()
        status = process.wait()
        if finished and status != 0 and status not in _SIGPIPE:
            raise InputError(f"{self.name}: the command failed with exit status {status}")

    def __enter__(self) -> InputStream:
        return self

    def __exit__(self, exception_type: Optional[type], *_: object) -> None:
        self.close(check=exception_type is None)


def open_input(rxfilename: str) -> InputStream:
    """Open an extended filename for reading; use it in a ``with``.

    Raises:
        InputError: the file is not readable, or the name is a command and commands are switched off.
    """
    if rxfilename in ("", "-"):
        return InputStream(_stdin(), "standard input")
    if rxfilename.endswith("|"):
        process = _start(rxfilename, rxfilename[:-1], stdout=True)
        assert process.stdout is not None
        return InputStream(process.stdout, rxfilename, process=process)
    if rxfilename.startswith("|") or rxfilename != strip(rxfilename):
        raise InputError(f"{rxfilename!r}: cannot read: expected a file name, '-', 'file:offset' or 'command |'")
    path, offset = split_offset(rxfilename)
    try:
        raw = open(path, "rb", buffering=0)
        if offset:
            raw.seek(offset)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{rxfilename}: cannot read: {getattr(error, 'strerror', None) or error}") from None
    return InputStream(raw, path, offset or 0)


def split_offset(rxfilename: str) -> Tuple[str, Optional[int]]:
    """Split ``file:123`` into ("file", 123); return anything else as (itself, None)."""
    path, _, offset = rxfilename.rpartition(":")
    # 18 digits suffice for the length of any file, and seek() accepts no larger number.
    return (path, int(offset)) if path and offset.isdecimal() and len(offset) <= 18 else (rxfilename, None)


@contextlib.contextmanager
def open_output(wxfilename: str) -> Iterator[IO[bytes]]:
    """Open an extended filename for writing bytes.

    After an exception the file keeps its earlier content, or stays absent. Links are followed; devices and FIFOs are
    written directly.

    Raises:
        InputError: the output cannot be written, or its command fails.
        ReaderGone: the output is standard output, and its reader has closed the pipe.
    """
    if wxfilename in ("", "-"):
        try:
            sys.stdout.flush()
            with _stdout() as stream:
                yield stream
                stream.flush()
        except BrokenPipeError:
            raise ReaderGone("standard output: the reader has closed the pipe") from None
        except OSError as error:
            raise InputError(describe_os_error(error)) from None
    elif wxfilename.startswith("|"):
        with _command_input(wxfilename) as stream:
            yield stream
    elif wxfilename.endswith("|") or wxfilename != strip(wxfilename) or split_offset(wxfilename)[1] is not None:
        raise InputError(f"{wxfilename!r}: cannot write: expected a file name, '-' or '| command'")
    else:
        with atomic_output(wxfilename) as stream:
            yield stream


@contextlib.contextmanager
def _command_input(wxfilename: str) -> Iterator[IO[bytes]]:
    process = _start(wxfilename, wxfilename[1:], stdin=True)
    stream = process.stdin
    assert stream is not None
    broken = False
    try:
        yield stream
        stream.flush()
    except BrokenPipeError:
        broken = True
    finally:
        try:
            stream.close()
        except BrokenPipeError:
            broken = True
        status = process.wait()
    if status != 0 or broken:
        raise InputError(
            f"{wxfilename}: the command "
            + (f"failed with exit status {status}" if status else "ended before it read all of its input")
        )


def commands_are_allowed() -> bool:
    """Return whether commands that tables and manifests name may run. All that runs one must ask."""
    return _pipes_allowed and os.environ.get("SDPN_K2_ALLOW_PIPES", "").lower() in ("", "true", "t", "1")


def require_commands(name: str) -> None:
    """Raise InputError, which names the command ``name``, if commands are switched off."""
    if not commands_are_allowed():
        raise InputError(f"{name!r}: commands are switched off (--allow-pipes=false or SDPN_K2_ALLOW_PIPES=false)")


def _start(name: str, command: str, stdin: bool = False, stdout: bool = False) -> subprocess.Popen[bytes]:
    """Run a command with its standard input or output connected to us; its output is unbuffered."""
    require_commands(name)
    import subprocess  # here: most tools run no commands, and the import takes a tenth of their start-up time

    sys.stdout.flush()
    try:
        return subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            bufsize=BLOCK if stdin else 0,
            stdin=subprocess.PIPE if stdin else None,
            stdout=subprocess.PIPE if stdout else None,
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{name!r}: cannot start the command: {error}") from None


def _stdin() -> IO[bytes]:
    return sys.stdin.buffer


def _stdout() -> ContextManager[IO[bytes]]:
    buffer: Any = sys.stdout.buffer
    if isinstance(buffer, io.BufferedIOBase):
        return contextlib.nullcontext(sys.stdout.buffer)
    # Under PYTHONUNBUFFERED this is a raw file, which may write only part of its input.
    return open(sys.stdout.fileno(), "wb", closefd=False)
