"""Output files that appear under their final name only when they are complete, and the folders for them.

Until then they are hidden files or folders ``.NAME.tmp0`` beside it, locked by the process that writes them (flock).
The next process that writes NAME removes those of killed processes. Beside that of a living one it uses ``.NAME.tmp1``.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO, Iterable, Iterator, Mapping, Optional, Set, Tuple, Union

from sdpn_k2.errors import InputError

LONGEST_NAME = 255  # bytes, on all common file systems


def make_folder(path: Union[str, Path]) -> None:
    """Create a folder, and its parents, unless it exists. Raises InputError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot create this folder: {error.strerror}") from error


def hidden_name(name: str, suffix: str) -> str:
    """Return the name of a hidden file that belongs to ``name``; a digest replaces a name that would be too long."""
    hidden = f".{name}{suffix}"
    if len(os.fsencode(hidden)) > LONGEST_NAME:
        hidden = f".{hashlib.sha1(os.fsencode(name)).hexdigest()[:16]}{suffix}"
    return hidden


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
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "surrogateescape")
    try:
        if _is_special(path):
            with open(path, mode, encoding=encoding, errors=errors) as stream:
                yield stream
            return
        target = Path(os.path.realpath(path))
        descriptor, temporary = _temporary(target, folder=False)
        with os.fdopen(descriptor, mode, encoding=encoding, errors=errors) as stream:
            # Both happen before the file is closed, which ends the lock.
            try:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                os.replace(temporary, target)
            except BaseException:
                _remove(temporary, folder=False)
                raise
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from error


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
    descriptor = -1
    temporary: Optional[str] = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _temporary(target, folder=True)
        yield Path(temporary)
        os.rename(temporary, target)
        temporary = None
    except OSError as error:
        raise InputError(f"{path}: cannot write this folder: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if descriptor >= 0:
            os.close(descriptor)


@contextlib.contextmanager
def exclusive(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file, which names this process and its host. It is released when the process ends in any way.

    Where the file system has no locks, nothing happens.

    Raises:
        InputError: another process holds the lock, or the file cannot be written; the message begins with ``what``.
    """
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"{lock}: cannot write: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown process"
            raise InputError(f"{what} ({holder}); wait for its end, or use another folder") from error
        except OSError:  # no locks here
            yield
            return
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
        _held.add(descriptor)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


_held: Set[int] = set()


def _close_in_child() -> None:
    """Close the locks in a forked process, which would else keep them after its parent was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _temporary(target: Path, folder: bool) -> Tuple[int, str]:
    """Make an empty temporary file or folder for ``target``, and lock it; return its descriptor and path.

    Those of killed processes are removed. Where the file system has no locks, the name is unique, and nothing is
    removed.
    """
    claimed = None
    for slot in itertools.count():
        path = str(target.parent / hidden_name(target.name, f".tmp{slot}"))
        existed = os.path.lexists(path)
        if claimed is not None and not existed:
            return claimed
        try:
            found = _claim(path, folder)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                if not existed:
                    _remove(path, folder)
                return _unique(target, folder)
            if error.errno == errno.ENOSPC or not os.path.lexists(path):
                raise
            continue  # a link, or another user's
        if found is None:  # a living process writes it, or renames it just now
            continue
        if claimed is None:
            claimed = found, path
        else:  # left over beside the one that is used
            _remove(path, folder)
            os.close(found)
    raise AssertionError("the loop above ends by return")


def _claim(path: str, folder: bool) -> Optional[int]:
    """Make or take over a temporary file or folder, and lock it; None if another process holds the lock."""
    if folder:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    else:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and lock, its process may have renamed it to its final name.
        if not os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            raise FileNotFoundError(errno.ENOENT, "renamed", path)
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    if folder:
        for item in os.scandir(path):
            _remove(item.path, item.is_dir(follow_symlinks=False))
    else:
        os.ftruncate(descriptor, 0)
    return descriptor


def _unique(target: Path, folder: bool) -> Tuple[int, str]:
    """Make a temporary file or folder with a unique name; return its descriptor and path."""
    prefix = hidden_name(target.name, ".")[: LONGEST_NAME // 4]
    if folder:
        path = tempfile.mkdtemp(prefix=prefix, dir=target.parent)
        os.chmod(path, 0o777 & ~_umask())
        return os.open(path, os.O_RDONLY), path
    descriptor, path = tempfile.mkstemp(prefix=prefix, dir=target.parent)
    # mkstemp creates private files; give them the permissions that the umask allows.
    os.fchmod(descriptor, 0o666 & ~_umask())
    return descriptor, path


def _remove(path: str, folder: bool) -> None:
    if folder:
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


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
