"""SGD with SDPN's parameter groups, and its gradient clipping."""

from typing import List

import torch
from torch import nn

from sdpn_k2.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD with momentum. Weight decay falls on the student's weights of two or more dimensions alone.

    The prototypes learn at ``prototype_lr_scale`` times the learning rate (the group's ``lr_scale``): the released
    recipe sums their gradient over its 4 processes while it averages the student's.
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
    """Set every group to its ``lr_scale`` times ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


@torch.no_grad()
def clip_gradients(module: nn.Module, max_norm: float) -> torch.Tensor:
    """Scale each gradient tensor of ``module`` down to an L2 norm of at most ``max_norm``, tensor by tensor.

    Returns:
        the norm over all of them before clipping, on their device.
    """
    gradients: List[torch.Tensor] = [p.grad for p in module.parameters() if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_mul_(gradients, list((max_norm / (norms + 1e-6)).clamp_max(1.0).unbind()))
    return torch.linalg.vector_norm(norms)
