"""Files of ``torch.save``, whoever wrote them, read without running any code from them."""

from __future__ import annotations

import contextlib
import re
import zipfile
from pathlib import Path
from typing import Any, ContextManager, List

import numpy as np
import torch

from sdpn_k2.errors import InputError

# Torch 2.5 reads Python's numbers safely, and more types where it is told so.
_READS_NUMBERS = hasattr(torch.serialization, "safe_globals")


def load_torch_file(path: Path) -> Any:
    """Load what ``torch.save`` wrote with ``weights_only=True``, with tensors on the CPU.

    NumPy scalars, which other trainers leave in their optimiser's state, are read from torch 2.5 on.

    Raises:
        InputError: no such file; cut short; not written by ``torch.save``; Python objects, which could run code.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(64)
        members = _zip_members(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: not a checkpoint but a Git LFS pointer; run git lfs pull")
    if head.startswith(b"<"):
        raise InputError(f"{path}: not a checkpoint but a web page; download the file again")
    if any(name.endswith("/constants.pkl") for name in members):
        raise InputError(f"{path}: not a checkpoint but a TorchScript module; save its state dict")
    try:
        with _numpy_scalars():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        code = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
        harmless = code.group(1).startswith("numpy.") if code else "Unsupported operand" in str(error)
        if members and harmless and not _READS_NUMBERS:
            reason = f"torch {torch.__version__} cannot read all of it safely; use torch 2.5 or later"
        elif code:
            reason = f"refused, since {code.group(1)} could run code; ask for a file of tensors alone (a state dict)"
        else:
            reason = "cut short, damaged, or not written by torch.save; download or copy it again"
        raise InputError(f"{path}: {reason}") from error


def describe(content: Any) -> str:
    """Name what a loaded file holds, for the message that it is not what was expected."""
    names = ", ".join(map(str, list(content)[:4])) if isinstance(content, dict) else type(content).__name__
    return f"it holds: {names or 'nothing'}"


def _zip_members(path: Path) -> List[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile:
        return []


def _numpy_scalars() -> ContextManager[None]:
    if not _READS_NUMBERS:
        return contextlib.nullcontext()
    scalar = (getattr(np, "_core", None) or np.core).multiarray.scalar
    allowed: List[Any] = [np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))]
    # NumPy 1 and 2 write two names for one function.
    allowed += [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    return torch.serialization.safe_globals(allowed)
