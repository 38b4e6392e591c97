"""The device that a command computes on, and this process among those that torchrun started."""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import torch
import torch.distributed as dist

from sdpn_k2.errors import InputError
from sdpn_k2.processors import usable_processors

# Options of mallopt(3), by their numbers in malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


@dataclass(frozen=True)
class Process:
    """This training process, one of ``world_size``."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes."""
        return self.rank == 0


def default_device() -> str:
    """Return ``cuda`` if there is a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(device: Union[str, torch.device]) -> torch.device:
    """Return ``device`` as a torch device; ``auto`` is a GPU if there is one.

    Raises:
        InputError: torch does not know the device, or cannot use it.
    """
    if device == "auto":
        device = default_device()
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:120]
        raise InputError(f"device {device}: torch cannot use it here: {reason}; use --device cpu") from error
    return chosen


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor and how many of them this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    count = usable_processors()
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name}, {count} processor{'s' if count > 1 else ''}"


def start_process(device: str = "auto") -> Process:
    """Join the processes that ``torchrun`` started (by its environment variables), or start as the only one.

    Unless OMP_NUM_THREADS is set, torch uses as many threads as there are processors for each process of this machine.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: the device is not available.
    """
    if device == "auto":
        device = default_device()
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch finds no GPU on this machine; use --device cpu")
    if "OMP_NUM_THREADS" not in os.environ:
        share = usable_processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, min(torch.get_num_threads(), share)))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    chosen = usable_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    else:
        keep_freed_memory()
    return Process(int(os.environ.get("RANK", "0")), world_size, chosen)


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next ones; elsewhere, do nothing.

    By default it hands every large tensor back to the system. Getting it again, page by page, is a third of a training
    step on the CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, -1)  # never shrink the heap
        mallopt(M_TOP_PAD, 2**26)  # grow it by 64 MB
        mallopt(M_MMAP_MAX, 0)  # allocate everything there, whatever its size
