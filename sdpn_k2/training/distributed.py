"""Several training processes that work as one: agreement on the host, gradients averaged over all."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Callable, Dict, Iterable, List, Optional, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sdpn_k2.device import Process
from sdpn_k2.errors import InputError
from sdpn_k2.methods.batch_norm import synchronise_batch_norm

Value = TypeVar("Value")
Model = TypeVar("Model", bound=nn.Module)

# Reading and embedding a large dev set can take hours.
PATIENCE = timedelta(days=1)


class Agreement:
    """Agreement of all processes on the host, in a group of its own, so that none waits for a GPU."""

    def __init__(self, process: Process):
        self._process = process
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE) if process.world_size > 1 else None

    def from_main(self, value: Any) -> Any:
        """Return rank 0's ``value`` (anything that can be pickled)."""
        values = [value]
        if self._group is not None:
            dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def on_main(self, function: Callable[[], Value]) -> Optional[Value]:
        """Return the value of ``function``, which only rank 0 calls while the others wait; there it is None.

        Raises:
            InputError: in the other processes, if the call failed or rank 0 ended.
        """
        if self._group is None:
            return function()
        if not self._process.is_main:
            try:
                failure = self.from_main(None)
            except RuntimeError as error:
                raise InputError("process 0 ended while the others waited for it") from error
            if failure is not None:
                raise InputError(f"process 0 failed: {failure}")
            return None
        try:
            value = function()
        except BaseException as error:
            self.from_main(str(error) or type(error).__name__)
            raise
        self.from_main(None)
        return value

    def on_main_value(self, function: Callable[[], Value]) -> Optional[Value]:
        """As ``on_main``, but return the value in every process."""
        return self.from_main(self.on_main(function))

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in any process."""
        if self._group is None:
            return flag
        count = torch.tensor(int(flag))
        dist.all_reduce(count, group=self._group)
        return bool(count > 0)

    def require_same(self, start: Dict[str, Any]) -> None:
        """Raise InputError in every process if their values differ. The message names a value by its key."""
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
        """Wait until all processes have arrived."""
        if self._group is not None:
            dist.barrier(group=self._group)


def synchronised(model: Model, process: Process) -> Model:
    """Return ``model`` with batch normalisation over all processes."""
    return synchronise_batch_norm(model) if process.world_size > 1 else model


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], process: Process) -> None:
    """Replace every gradient by its mean over all processes."""
    if process.world_size == 1:
        return
    gradients: List[Tensor] = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch._utils._flatten_dense_tensors(gradients)
    dist.all_reduce(flat)
    flat /= process.world_size
    for gradient, mean in zip(gradients, torch._utils._unflatten_dense_tensors(flat, gradients)):
        gradient.copy_(mean)
