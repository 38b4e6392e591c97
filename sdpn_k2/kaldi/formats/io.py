"""Kaldi's extended filenames: where a stream of bytes comes from or goes to.

| name          | reading                         | writing                                             |
| ------------- | ------------------------------- | --------------------------------------------------- |
| ``file``      | the file                        | a temporary file, renamed when everything went well |
| ``file:123``  | the file from byte 123 on       | (refused)                                           |
| ``-`` or ``""`` | standard input                | standard output                                     |
| ``cmd \\|``    | what ``bash -c cmd`` prints     |                                                     |
| ``\\| cmd``    |                                 | the standard input of ``bash -c cmd``               |

Commands run under ``pipefail``; one that fails, anywhere in the pipe, is an InputError when the stream is closed. A
script file from an untrusted place may name commands: they can be switched off with ``pipes_allowed(False)`` or by
SDPN_K2_ALLOW_PIPES=false in the environment.
"""

import contextlib
import io
import os
import re
import stat
import sys
from typing import IO, Iterator, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output

BLOCK = 1 << 16  # bytes per read or write of small things; malloc returns much larger ones to the system every time
_FIRST_BLOCK = 1 << 14  # a single object is often small: read little at first
_LARGEST_BLOCK = 1 << 20  # for large things; bounds what a forged size can make us allocate ahead of the data
_LONGEST_KEY = 1 << 16  # bytes; a "key" longer than this is something other than a table
_KEY = re.compile(rb"\s*(\S*)")
SIGPIPE_STATUS = 141  # in a shell, of a command whose reader went away
_SIGPIPE = {SIGPIPE_STATUS, -13}

_pipes_allowed = True


class ReaderGone(InputError):
    """Whoever reads our standard output has seen enough."""


@contextlib.contextmanager
def pipes_allowed(allowed: bool) -> Iterator[None]:
    """Within this context ``cmd |`` and ``| cmd`` run only if ``allowed`` (and the environment does not forbid it)."""
    global _pipes_allowed
    before, _pipes_allowed = _pipes_allowed, allowed
    try:
        yield
    finally:
        _pipes_allowed = before


class InputStream:
    """A stream of bytes with look-ahead that knows its name and position, for parsers and for their error messages.

    ``read``, ``tell`` and ``close`` are those of a Python file; what is read ahead is bounded by what really arrives.
    """

    def __init__(self, raw: IO[bytes], name: str, offset: int = 0, process=None):
        self.name = name
        self.buffer = b""  # read from the source
        self.position = 0  # of the first byte in buffer that nobody took yet
        self.base = offset  # of buffer[0] in the source
        self.entry = offset  # where the current entry of an archive starts in the source
        self._raw = raw
        self._read = getattr(raw, "read1", raw.read)  # at most one system call, never waiting for a full block
        self._block = _FIRST_BLOCK
        self._at_end = False
        self._process = process

    def tell(self) -> int:
        """The offset of the next byte from the start of the file (or of the pipe)."""
        return self.base + self.position

    def fail(self, message: str) -> InputError:
        """An error at this place, to be raised by the caller."""
        return InputError(f"{self.name}: byte {self.tell()}: {message}")

    def _next_block(self, wanted: int) -> bytes:
        if self._at_end:
            return b""
        try:
            block = self._read(min(max(wanted, self._block), _LARGEST_BLOCK))
        except OSError as error:
            raise self.fail(f"cannot read: {error.strerror or error}") from None
        self._at_end = not block
        self._block = min(BLOCK, self._block * 4)
        return block

    def ahead(self, size: int) -> int:
        """Read ahead until ``size`` bytes are waiting in the buffer; return how many are (fewer only at the end)."""
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
        """The next ``size`` bytes (fewer at the end), without taking them."""
        self.ahead(size)
        return self.buffer[self.position : self.position + size]

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, fewer only at the end; all of the rest if ``size`` is negative."""
        self.ahead(size if size >= 0 else sys.maxsize)
        start = self.position
        self.position = len(self.buffer) if size < 0 else min(start + size, len(self.buffer))
        return self.buffer[start : self.position]

    def read_exactly(self, size: int, what: str) -> bytes:
        """The next ``size`` bytes, or an InputError saying that ``what`` is cut short."""
        if self.ahead(size) < size:
            raise self._cut(what, size)
        return self.read(size)

    def read_array(self, dtype: str, count: int, what: str) -> np.ndarray:
        """``count`` numbers as a new, writable array. Allocates no more than what really arrives."""
        dtype = np.dtype(dtype)
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
        """Whether the source is a file that has ``size`` bytes more."""
        try:
            status = os.fstat(self._raw.fileno())
        except (OSError, ValueError):
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size >= self.tell() + size

    def _read_into(self, array: np.ndarray, what: str) -> np.ndarray:
        view = memoryview(array.view(np.uint8))
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
        """The key of the next entry of an archive and the blank after it; None at the end."""
        match = _KEY.match(self.buffer, self.position)
        if match.end() == len(self.buffer):  # the key may go on beyond the buffer
            if not self.skip_blanks():
                return None
            self.ahead(_LONGEST_KEY)
            match = _KEY.match(self.buffer, self.position)
        key = match.group(1)
        if b"\0" in key or len(key) >= _LONGEST_KEY:
            raise self.fail("expected a key and a blank, not this (is it an archive?)")
        self.position = match.end()
        following = self.buffer[self.position : self.position + 1]
        if not following:
            raise self.fail(f"cut short after the key {key.decode(errors='replace')!r}")
        if following != b"\n":  # a new line belongs to the value: an empty one
            self.position += 1
        return key.decode("utf-8", "surrogateescape")

    def lines(self) -> Iterator[str]:
        """The lines of a text without their ends, read by whole blocks."""
        while self.ahead(1):
            end = self.buffer.rfind(b"\n", self.position) + 1
            if end:
                block, self.position = self.buffer[self.position : end - 1], end
            else:
                block = self.read_through(b"\n")
                block = block[:-1] if block.endswith(b"\n") else block
            yield from block.decode("utf-8", "surrogateescape").split("\n")

    def read_through(self, delimiter: bytes) -> bytes:
        """Everything up to and including ``delimiter`` (one byte), or up to the end if it does not occur."""
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
        """Skip white space; return the byte after it without taking it (empty at the end)."""
        while True:
            following = self.peek(1)
            if not following or not following.isspace():
                return following
            self.position += 1

    def seek(self, offset: int) -> None:
        """Go on reading at ``offset`` (files only); free when it lies in what is already in memory."""
        if self.base <= offset <= self.base + len(self.buffer):
            self.position = offset - self.base
            return
        try:
            self._raw.seek(offset)
        except OSError as error:
            raise InputError(f"{self.name}: cannot go to byte {offset}: {error.strerror or error}") from None
        self.buffer, self.position, self.base = b"", 0, offset
        self._at_end, self._block = False, _FIRST_BLOCK

    def _cut(self, what: str, size: int, got: Optional[int] = None) -> InputError:
        got = len(self.buffer) - self.position if got is None else got
        return self.fail(f"cut short: {what} needs {size} bytes, {got} are left")

    def close(self, check: bool = True) -> None:
        """Close the source. With ``check``, a command that was read to its end and failed is an InputError."""
        if self._process is None:
            if self._raw is not _stdin():
                self._raw.close()
            return
        process, self._process = self._process, None
        # A reader that stops early makes the command fail, so its status means something only at its end.
        finished = check and not self.ahead(1)
        if not check:  # something went wrong: do not wait for a command that may take long
            process.terminate()
        self._raw.close()
        status = process.wait()
        if finished and status != 0 and status not in _SIGPIPE:
            raise InputError(f"{self.name}: the command failed with exit status {status}")

    def __enter__(self) -> "InputStream":
        return self

    def __exit__(self, exception_type, *_) -> None:
        self.close(check=exception_type is None)


def open_input(rxfilename: str) -> InputStream:
    """Open an extended filename for reading; use it in a ``with``.

    Raises:
        InputError: it does not exist, is not readable, or is a command and commands are switched off.
    """
    if rxfilename in ("", "-"):
        return InputStream(_stdin(), "standard input")
    if rxfilename.endswith("|"):
        process = _start(rxfilename, rxfilename[:-1], stdout=True)
        return InputStream(process.stdout, rxfilename, process=process)
    if rxfilename.startswith("|") or rxfilename != rxfilename.strip():
        raise InputError(f"{rxfilename!r}: cannot be read: not a file name, '-', 'file:offset' or 'command |'")
    path, offset = split_offset(rxfilename)
    try:
        raw = open(path, "rb", buffering=0)
        if offset:
            raw.seek(offset)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{rxfilename}: cannot read: {getattr(error, 'strerror', None) or error}") from None
    return InputStream(raw, path, offset or 0)


def split_offset(rxfilename: str) -> Tuple[str, Optional[int]]:
    """``file:123`` → ("file", 123); anything else → (itself, None)."""
    path, _, offset = rxfilename.rpartition(":")
    # 18 digits: no file is longer, and seek() takes no more.
    return (path, int(offset)) if path and offset.isdecimal() and len(offset) <= 18 else (rxfilename, None)


@contextlib.contextmanager
def open_output(wxfilename: str) -> Iterator[IO[bytes]]:
    """Open an extended filename for writing bytes.

    After an exception a file keeps its earlier content (or stays absent). Links are followed; devices and FIFOs are
    written directly.

    Raises:
        InputError: it cannot be written, or its command fails; ReaderGone where it is standard output and a pipe that
            nobody reads any more.
    """
    if wxfilename in ("", "-"):
        try:
            sys.stdout.flush()
            with _stdout() as stream:
                yield stream
                stream.flush()
        except BrokenPipeError:
            raise ReaderGone("standard output: its reader has gone away (broken pipe)") from None
    elif wxfilename.startswith("|"):
        with _command_input(wxfilename) as stream:
            yield stream
    elif wxfilename.endswith("|") or wxfilename != wxfilename.strip() or split_offset(wxfilename)[1] is not None:
        raise InputError(f"{wxfilename!r}: cannot be written: not a file name, '-' or '| command'")
    else:
        with atomic_output(wxfilename) as stream:
            yield stream


@contextlib.contextmanager
def _command_input(wxfilename: str) -> Iterator[IO[bytes]]:
    process = _start(wxfilename, wxfilename[1:], stdin=True)
    broken = False
    try:
        yield process.stdin
        process.stdin.flush()
    except BrokenPipeError:
        broken = True
    finally:
        try:
            process.stdin.close()
        except BrokenPipeError:
            broken = True
        status = process.wait()
    if status != 0 or broken:
        raise InputError(
            f"{wxfilename}: the command "
            + (f"failed with exit status {status}" if status else "ended before it had read everything")
        )


def _start(name: str, command: str, stdin: bool = False, stdout: bool = False):
    """Run a command with its standard input or output connected to us, unbuffered when we read."""
    if not _pipes_allowed or os.environ.get("SDPN_K2_ALLOW_PIPES", "").lower() not in ("", "true", "t", "1"):
        raise InputError(f"{name!r}: commands are switched off (--allow-pipes=false or SDPN_K2_ALLOW_PIPES=false)")
    import subprocess  # here, because most tools run no commands and this import is a tenth of their start-up

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


def _stdout():
    if isinstance(sys.stdout.buffer, io.BufferedIOBase):
        return contextlib.nullcontext(sys.stdout.buffer)
    # Under PYTHONUNBUFFERED it is a raw file, which may write a part of what it is given.
    return open(sys.stdout.fileno(), "wb", closefd=False)
