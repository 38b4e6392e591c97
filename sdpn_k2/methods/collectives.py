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
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.narrow(ctx.dim, dist.get_rank() * ctx.size, ctx.size), None


def gather(tensor: Tensor, dim: int = 0) -> Tensor:
    """Concatenate ``tensor`` of every process along ``dim``, in rank order. Shapes must agree.

    The gradient of ``tensor`` is that of the sum of all processes' losses. If each process computes the whole objective
    on the gathered batch, that sum is the objective times the number of processes, and so is the gradient. Averaging
    the parameters' gradients over processes then gives the gradient of one process with the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tensor
    if hasattr(torch, "compiler") and torch.compiler.is_compiling():
        # The same, in a form that compiles without a graph break.
        from torch.distributed._functional_collectives import all_gather_tensor_autograd

        world = dist.group.WORLD
        assert world is not None
        return all_gather_tensor_autograd(tensor, dim, world)
    return _Gather.apply(tensor, dim)
