"""The tensors of all processes as one batch, with gradients; with a single process, the tensor itself."""

from typing import Any, Tuple

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        ctx.size = tensor.shape[dim]
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, dim=dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None]:
        # Every process computes the same objective over the whole batch, so each already holds the whole gradient.
        # Its own rows are multiplied by the number of processes, because parameter gradients are averaged over them.
        rows = gradient.narrow(ctx.dim, dist.get_rank() * ctx.size, ctx.size)
        return rows * dist.get_world_size(), None


def gather(tensor: Tensor, dim: int = 0) -> Tensor:
    """Concatenate ``tensor`` of every process along ``dim``, in rank order. Shapes must agree.

    Use it where every process computes the whole objective on the gathered batch, and parameter gradients are then
    averaged over processes. The result is the gradient of the single-process batch.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tensor
    return _Gather.apply(tensor, dim)
