"""One or several training processes: who am I, on which device, and gradients averaged over all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Iterable, Union

import torch
import torch.distributed as dist
from torch import nn

from sdpn_k2.errors import InputError


@dataclass(frozen=True)
class Process:
    """This training process among ``world_size``."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Rank 0, the one that writes."""
        return self.rank == 0


def usable_device(device: Union[str, torch.device]) -> torch.device:
    """``device`` as torch has it. Raises InputError where torch does not know it or cannot use it."""
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device}: torch cannot use it: {str(error).splitlines()[0]}") from error
    return chosen


def start_process(device: str = "auto") -> Process:
    """Join the processes that ``torchrun`` started (its environment variables), or be the only one.

    Args:
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: the device is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: this machine has no GPU that torch can use; take --device cpu")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    chosen = usable_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return Process(int(os.environ.get("RANK", "0")), world_size, chosen)


def synchronised(model: nn.Module, process: Process) -> nn.Module:
    """``model`` with batch normalisation over all processes where torch can: on GPUs, not on CPUs."""
    if process.world_size > 1 and process.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], process: Process) -> None:
    """Replace every gradient by its mean over all processes."""
    if process.world_size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch._utils._flatten_dense_tensors(gradients)
    dist.all_reduce(flat)
    flat /= process.world_size
    for gradient, mean in zip(gradients, torch._utils._unflatten_dense_tensors(flat, gradients)):
        gradient.copy_(mean)
