"""The device that a command computes on, and this process among those that torchrun started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Union

import torch
import torch.distributed as dist

from sdpn_k2.errors import InputError


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


def usable_device(device: Union[str, torch.device]) -> torch.device:
    """Return ``device`` as a torch device; ``auto`` is a GPU if there is one.

    Raises:
        InputError: torch does not know the device, or cannot use it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device}: torch cannot use it: {str(error).splitlines()[0]}") from error
    return chosen


def start_process(device: str = "auto") -> Process:
    """Join the processes that ``torchrun`` started (by its environment variables), or start as the only one.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: the device is not available.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch finds no GPU on this machine; use --device cpu")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    chosen = usable_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return Process(int(os.environ.get("RANK", "0")), world_size, chosen)
