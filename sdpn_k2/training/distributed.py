"""Several training processes that work as one: agreement on the host, gradients averaged over all."""

from __future__ import annotations

from typing import Any, Dict, Iterable

import torch
import torch.distributed as dist
from torch import nn

from sdpn_k2.device import Process
from sdpn_k2.errors import InputError


class Agreement:
    """What all processes do together on the host: in a group of its own, so that no GPU is waited for."""

    def __init__(self, process: Process):
        self._process = process
        self._group = dist.new_group(backend="gloo") if process.world_size > 1 else None

    def from_main(self, value: Any) -> Any:
        """What rank 0 gave (anything that can be pickled)."""
        values = [value]
        if self._group is not None:
            dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` holds in any process."""
        if self._group is None:
            return flag
        count = torch.tensor(int(flag))
        dist.all_reduce(count, group=self._group)
        return bool(count > 0)

    def require_same(self, start: Dict[str, Any]) -> None:
        """Raises InputError, in all processes alike, where their values differ; keys name them."""
        if self._group is None:
            return
        starts = [start] * self._process.world_size
        dist.all_gather_object(starts, start, group=self._group)
        for rank, other in enumerate(starts):
            for name, value in other.items():
                if value != starts[0][name]:
                    raise InputError(
                        f"process {rank} starts with the {name} {value}, process 0 with {starts[0][name]}: "
                        "give every process the same command and the same files"
                    )

    def wait(self) -> None:
        """Until all processes are here."""
        if self._group is not None:
            dist.barrier(group=self._group)


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
