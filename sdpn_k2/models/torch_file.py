"""Read files of ``torch.save`` from any source, without running code that they may contain."""

from __future__ import annotations

import contextlib
import re
import warnings
from pathlib import Path
from typing import Any, ContextManager, List

import numpy as np
import torch

from sdpn_k2.errors import InputError

# From torch 2.5 on, ``weights_only=True`` also reads types that the caller declares safe.
_READS_NUMBERS = hasattr(torch.serialization, "safe_globals")


def load_torch_file(path: Path) -> Any:
    """Load a file of ``torch.save`` with ``weights_only=True``, and its tensors onto the CPU.

    NumPy scalars, which other trainers leave in their optimiser's state, are read from torch 2.5 on.

    Raises:
        InputError: no such file; cut short; not written by ``torch.save``; Python objects, which could run code.
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
            reason = "cut short, damaged, or not written by torch.save; download or copy it again"
        raise InputError(f"{path}: {reason}") from error


def describe(content: Any) -> str:
    """Describe the contents of a loaded file, for the message that refuses it."""
    names = ", ".join(map(str, list(content)[:4])) if isinstance(content, dict) else type(content).__name__
    return f"it holds: {names or 'nothing'}"


def _numpy_scalars() -> ContextManager[None]:
    if not _READS_NUMBERS:
        return contextlib.nullcontext()
    scalar = (getattr(np, "_core", None) or np.core).multiarray.scalar
    allowed: List[Any] = [np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))]
    # NumPy 1 and 2 write different names for the same function.
    allowed += [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    return torch.serialization.safe_globals(allowed)
