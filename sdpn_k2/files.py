"""Output files that appear under their final name only when they are complete, and the folders for them."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO, Iterable, Iterator, Mapping, Union

from sdpn_k2.errors import InputError


def make_folder(path: Union[str, Path]) -> None:
    """Create a folder, and its parents, unless it exists. Raises InputError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot create this folder: {error.strerror}") from error


@contextlib.contextmanager
def atomic_output(path: Union[str, Path], mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside ``path``; on success fsync it and rename it to ``path``.

    After an exception the temporary file is removed, and an earlier ``path`` keeps its content. Links are followed;
    devices and FIFOs are written directly.

    Args:
        path: the final name. Its folder must exist.
        mode: ``"wb"`` for bytes, ``"w"`` for UTF-8 text.

    Raises:
        InputError: the file cannot be written (no such folder, no permission, disk full).
    """
    encoding = None if "b" in mode else "utf-8"
    temporary = None
    try:
        if _is_special(path):
            with open(path, mode, encoding=encoding) as stream:
                yield stream
            return
        target = Path(os.path.realpath(path))
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        # mkstemp creates private files; give them the permissions that the umask allows.
        os.fchmod(descriptor, 0o666 & ~_umask())
        with os.fdopen(descriptor, mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_together(contents: Mapping[Path, Iterable[bytes]], outdated: Iterable[Path] = ()) -> None:
    """Write several files, and give them their names, in this order, when all are complete.

    A full disk thus leaves all earlier files as they are. A process that is killed while it renames may leave some.

    Args:
        contents: the files, and the pieces of their content.
        outdated: files to delete before the first one gets its name, since they must never be used with the new ones.

    Raises:
        InputError: a file cannot be written.
    """
    with contextlib.ExitStack() as outputs:
        opened = [(path, outputs.enter_context(atomic_output(path))) for path in reversed(list(contents))]
        for path, stream in opened:
            try:
                stream.writelines(contents[path])
                stream.flush()
                os.fsync(stream.fileno())
            except OSError as error:
                raise InputError(f"{path}: cannot write: {error.strerror or error}") from error
        for path in outdated:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Union[str, Path]) -> Iterator[None]:
    """Hold a file's lock, and wait for it while another process does; the file is made if there is none.

    Raises:
        InputError: the file cannot be written or locked.
    """
    try:
        lock = open(path, "ab")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise InputError(f"{path}: cannot lock this file: {error.strerror or error}") from error
    with lock:
        yield


@contextlib.contextmanager
def atomic_folder(path: Union[str, Path]) -> Iterator[Path]:
    """Make a temporary folder beside ``path``, and yield it; on success rename it to ``path``.

    After an exception it is removed, with all it holds.

    Args:
        path: the final name, of a folder that does not exist or is empty.

    Raises:
        InputError: the folder cannot be made or renamed.
    """
    target = Path(os.path.realpath(path))
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        temporary.rename(target)
    except OSError as error:
        raise InputError(f"{path}: cannot write this folder: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _is_special(path: Union[str, Path]) -> bool:
    """Return whether ``path`` exists and is not a regular file, links followed."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
