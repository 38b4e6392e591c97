"""Tensors of all processes as one batch, with gradients; without other processes, the tensor itself."""

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        ctx.size = tensor.shape[dim]
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, dim=dim)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        # Every process computes the same objective over the whole batch, so each holds the whole gradient already:
        # its own rows, times the number of processes because gradients of parameters are averaged over them.
        rows = gradient.narrow(ctx.dim, dist.get_rank() * ctx.size, ctx.size)
        return rows * dist.get_world_size(), None


def gather(tensor: Tensor, dim: int = 0) -> Tensor:
    """Concatenate ``tensor`` of every process along ``dim``, in rank order. Shapes must agree.

    Made for objectives that every process computes in full on the gathered batch and whose parameter gradients
    are then averaged over processes: what results is the gradient of the single-process batch.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tensor
    return _Gather.apply(tensor, dim)
