"""Whether torch can compile here: it needs a C++ compiler on the CPU, and a C compiler and Triton on GPUs."""

from __future__ import annotations

import functools
from typing import Optional

import torch


@functools.cache
def compiler_problem(device: torch.device) -> Optional[str]:
    """Return why torch cannot compile for ``device``, in one line, or None if it can.

    Official images of torch have no compiler, and the failure would show at the first training step only. So a tiny
    function is compiled, which takes some seconds unless torch has it in its cache.
    """
    if not hasattr(torch.nn.Module, "compile"):
        return f"torch {torch.__version__} cannot compile modules"
    try:
        torch.compile(lambda x: (x * 2 + 1).relu(), dynamic=False)(torch.ones(8, device=device)).sum().item()
    except Exception as error:  # inductor and Triton raise many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        telling = [line for line in lines if "ompiler" in line or "not found" in line]
        return [*telling, *lines, type(error).__name__][0][:200]
    finally:
        torch._dynamo.reset()
    return None
