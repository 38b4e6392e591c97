"""The precision of the networks' forward passes."""

import contextlib
import functools
from pathlib import Path

import torch


def resolve(precision: str, device: torch.device) -> str:
    """Return ``float32`` or ``bfloat16``: the given precision, or for ``auto`` what the device supports in hardware."""
    if precision != "auto":
        return precision
    # GPUs before Ampere only emulate bfloat16.
    fast = torch.cuda.get_device_capability(device) >= (8, 0) if device.type == "cuda" else _cpu_has_bfloat16()
    return "bfloat16" if fast else "float32"


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Return a context in which networks run in ``precision`` (see :func:`resolve`)."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=resolve(precision, device) == "bfloat16")


@functools.cache
def _cpu_has_bfloat16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and any(flag in cpuinfo.read_text() for flag in ("avx512_bf16", "amx_bf16"))
