"""Read files of ``torch.save`` from any source, without running code that they may contain.

torch sees a file only after its container was checked. On torch before 2.6, ``weights_only=True`` alone does not
suffice: a TorchScript archive goes to ``torch.jit.load``, which runs its code, and an old tar archive is unpickled.
torch does not compare the checksums of a file either, and it believes the sizes that a file announces.
"""

from __future__ import annotations

import contextlib
import mmap
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, ContextManager, Dict, List, Tuple

import numpy as np
import torch

from sdpn_k2.errors import InputError, error_context

# From torch 2.5 on, ``weights_only=True`` also reads types that the caller declares safe.
_READS_NUMBERS = hasattr(torch.serialization, "safe_globals")

_ZIP = b"PK\3\4"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of torch before 1.6
# The records of a file of tensors, below its own name.
_RECORD = re.compile(
    r"[^/]+/(data\.pkl|data/\d+|byteorder|version|\.data/serialization_id|\.format_version|\.storage_alignment)"
)
LARGEST_EXPANSION = 10  # bytes unpacked for a byte of the file; torch itself does not compress
_LARGEST_OUTLINE = 1 << 26  # bytes of the pickle, which holds names and shapes
_BLOCK = 1 << 20
# Bytes of an item by the name of its storage; others have items of one byte.
_ITEM_BYTES = {
    "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
    "DoubleStorage": 8,
    "LongStorage": 8,
    "FloatStorage": 4,
    "IntStorage": 4,
    "BFloat16Storage": 2,
    "HalfStorage": 2,
    "ShortStorage": 2,
}


_DAMAGED = "cut short, damaged, or not written by torch.save; download or copy it again"


def load_torch_file(path: Path) -> Any:
    """Load a file of ``torch.save`` with ``weights_only=True``, and its tensors onto the CPU.

    NumPy scalars, which other trainers leave in their optimiser's state, are read from torch 2.5 on.

    Raises:
        InputError: no such file; cut short or damaged; not written by ``torch.save``; Python objects or TorchScript,
            which could run code; sizes that the file does not have.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: not a checkpoint but a Git LFS pointer; run git lfs pull")
    if head.startswith(b"<"):
        raise InputError(f"{path}: not a checkpoint but a web page; download the file again")
    with error_context(path):
        if head.startswith(_ZIP):
            _check_archive(path)
        elif not head.startswith(_LEGACY):
            raise InputError(_DAMAGED)
    try:
        with _numpy_scalars(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TorchScript")  # the error below says so
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        code = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
        harmless = code.group(1).startswith("numpy.") if code else "Unsupported operand" in str(error)
        if "TorchScript" in str(error):
            reason = "not a checkpoint but a TorchScript module; save its state dict"
        elif harmless and not _READS_NUMBERS and head.startswith(b"PK\3\4"):
            reason = f"torch {torch.__version__} cannot read all of it safely; use torch 2.5 or later"
        elif code:
            reason = f"refused, since {code.group(1)} could run code; ask for a file of tensors alone (a state dict)"
        else:
            reason = _DAMAGED
        raise InputError(f"{path}: {reason}") from error


def describe(content: Any) -> str:
    """Describe the contents of a loaded file, for the message that refuses it."""
    names = ", ".join(map(str, list(content)[:4])) if isinstance(content, dict) else type(content).__name__
    return f"it holds: {names or 'nothing'}"


def _check_archive(path: Path) -> None:
    """Check the container of a file of ``torch.save``. Raises InputError."""
    with open(path, "rb") as stream:
        # Names are stored as they are. So a search finds them however torch or zipfile read the directory.
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b"constants.pkl") >= 0:
                raise InputError("not a checkpoint but a TorchScript module, which could run code; save its state dict")
        try:
            with zipfile.ZipFile(stream) as archive:
                _check_records(archive, stream.seek(0, 2))
        except InputError:
            raise
        except Exception as error:  # zipfile and zlib raise many kinds for damaged archives
            raise InputError(f"{_DAMAGED} ({error})") from error


def _check_records(archive: zipfile.ZipFile, size: int) -> None:
    """Check names, sizes and checksums of all records, and the sizes that the pickle gives them."""
    records = archive.infolist()
    if not any(record.filename.endswith("/data.pkl") for record in records):
        raise InputError(_DAMAGED)
    sizes: Dict[str, int] = {}
    for record in records:
        match = _RECORD.fullmatch(record.filename)
        if match is None:
            raise InputError(f"refused, since its record {record.filename[:80]!a} is no part of a file of tensors")
        if match.group(1) in sizes:
            raise InputError(f"refused, since it has two records {match.group(1)}")
        sizes[match.group(1)] = record.file_size
    total = sum(sizes.values())
    if total > LARGEST_EXPANSION * size:
        raise InputError(f"refused, since its {size} bytes unpack to {total}, over {LARGEST_EXPANSION} times as many")
    if not 0 < sizes["data.pkl"] <= _LARGEST_OUTLINE:
        raise InputError(_DAMAGED)
    for record in records:
        with archive.open(record) as stream:
            while stream.read(_BLOCK):  # zipfile compares the checksum at the end
                pass
    (outline,) = (record for record in records if record.filename.endswith("/data.pkl"))
    with archive.open(outline) as stream:
        for storage, key, count in _storages(stream):
            needed = count * _ITEM_BYTES.get(storage, 1)
            if needed > sizes.get(f"data/{key}", -1):
                raise InputError(f"damaged: a tensor needs {needed} bytes of its record data/{key}, which has fewer")


class _Inert:
    """Stands for whatever a pickle names; it accepts any use and does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __call__(self, *_: object) -> _Inert:
        return _Inert()

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, *_: object) -> None:
        pass

    def append(self, _: object) -> None:
        """Do nothing."""

    def extend(self, _: object) -> None:
        """Do nothing."""


class _Outline(pickle.Unpickler):
    """Reads a pickle without importing or calling what it names, and notes its storages."""

    def __init__(self, stream: IO[bytes]):
        super().__init__(stream)
        self.storages: List[Tuple[str, str, int]] = []

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in that remembers its name."""
        return type(name, (_Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        """Note a storage: ("storage", type, key, location, number of items)."""
        if not isinstance(pid, tuple) or len(pid) < 5 or not isinstance(pid[4], int):
            raise InputError(_DAMAGED)
        self.storages.append((getattr(pid[1], "__name__", ""), str(pid[2]), pid[4]))
        return _Inert()


def _storages(stream: IO[bytes]) -> List[Tuple[str, str, int]]:
    """Return the type, key and number of items of each storage in a pickle."""
    outline = _Outline(stream)
    try:
        outline.load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(f"{_DAMAGED} ({type(error).__name__} in data.pkl)") from error
    return outline.storages


def _numpy_scalars() -> ContextManager[None]:
    if not _READS_NUMBERS:
        return contextlib.nullcontext()
    scalar = (getattr(np, "_core", None) or np.core).multiarray.scalar
    allowed: List[Any] = [np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))]
    # NumPy 1 and 2 write different names for the same function.
    allowed += [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    return torch.serialization.safe_globals(allowed)
