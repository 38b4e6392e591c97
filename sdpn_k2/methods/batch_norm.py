"""Batch normalisation over the batch of all processes.

torch's own SyncBatchNorm does not run on CPUs, makes the host wait for the device in every layer, and breaks the graph
of a compiled network. Here every process has an equal share of the batch, so none of that is needed.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from sdpn_k2.methods.collectives import gather

Model = TypeVar("Model", bound=nn.Module)


class SynchronisedBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d over all processes, which must have equal shares of the batch; one gather per layer.

    Parameters, buffers and evaluation mode are those of BatchNorm1d.
    """

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels)`` or ``(batch, channels, frames)`` to the same shape and dtype."""
        if not self.training:
            return super().forward(x)
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        own_mean = x.mean(dims, dtype=torch.promote_types(x.dtype, torch.float32))
        # Deviations from the process's own mean: a mean of squares would cancel where means are large.
        centred = x - own_mean.view(shape)
        own_variance = centred.square().mean(dims)
        means, variances = gather(torch.stack([own_mean, own_variance]).unsqueeze(0)).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)  # Chan et al. (1979), for equal shares

        if self.track_running_stats:
            count = len(means) * x.numel() // x.shape[1]
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_(variance.to(self.running_var.dtype) * (count / (count - 1)), self.momentum)

        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias + (own_mean - mean) * scale
        return (centred * scale.view(shape) + shift.view(shape)).to(x.dtype)


def synchronise_batch_norm(model: Model) -> Model:
    """Turn the BatchNorm1d layers of ``model`` into :class:`SynchronisedBatchNorm`; return the model.

    Its tensors and their names stay the same.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SynchronisedBatchNorm
    return model
