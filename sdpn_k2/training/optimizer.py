"""SGD with SDPN's parameter groups, and its gradient clipping."""

from typing import Dict, Mapping

import torch
from torch import Tensor, nn

from sdpn_k2.config import TrainConfig
from sdpn_k2.errors import InputError
from sdpn_k2.methods import Method


def make_optimizer(model: Method, config: TrainConfig) -> torch.optim.SGD:
    """Return SGD with momentum. Weight decay applies only to the student's weights of two or more dimensions.

    The prototypes learn at ``prototype_lr_scale`` times the learning rate (the group's ``lr_scale``). The released
    recipe sums their gradient over its 4 processes, but averages the student's.
    """
    student = [parameter for parameter in model.student.parameters() if parameter.requires_grad]
    return torch.optim.SGD(
        [
            {"params": [p for p in student if p.ndim >= 2], "weight_decay": config.weight_decay, "lr_scale": 1.0},
            {"params": [p for p in student if p.ndim < 2], "weight_decay": 0.0, "lr_scale": 1.0},
            {"params": model.own_rate_parameters(), "weight_decay": 0.0, "lr_scale": config.prototype_lr_scale},
        ],
        lr=0.0,
        momentum=config.momentum,
        foreach=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to its ``lr_scale`` times ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def momentum_buffers(optimizer: torch.optim.SGD, model: nn.Module) -> Dict[str, Tensor]:
    """Return the momentum of each parameter that has been updated, by the parameter's name in ``model``."""
    return {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
        if "momentum_buffer" in optimizer.state.get(parameter, {})
    }


def set_momentum_buffers(optimizer: torch.optim.SGD, model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Restore what :func:`momentum_buffers` returned. Raises InputError for a buffer of another shape."""
    for name, parameter in model.named_parameters():
        if name in buffers:
            if buffers[name].shape != parameter.shape:
                raise InputError(f"the momentum of '{name}' has shape {tuple(buffers[name].shape)}")
            optimizer.state[parameter]["momentum_buffer"] = buffers[name].to(parameter.device)


@torch.no_grad()
def clip_gradients(module: nn.Module, max_norm: float) -> Tensor:
    """Scale each gradient tensor of ``module`` down to an L2 norm of at most ``max_norm``, tensor by tensor.

    Returns:
        the norm over all of them before clipping, on their device.
    """
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_mul_(gradients, list((max_norm / (norms + 1e-6)).clamp_max(1.0).unbind()))
    return torch.linalg.vector_norm(norms)
