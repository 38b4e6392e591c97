"""Exact large batches on small devices: gradient caching (Gao et al., 2021).

The objective needs the projections of the whole batch, since Sinkhorn, L_ME and L_DR look at all of it. The networks
do not. So embed the whole batch micro-batch by micro-batch without keeping the graph, and compute the objective and its
gradient at the embeddings once. Then embed each micro-batch again, with its graph, and backpropagate its part of that
gradient.

Batch normalisation sees one micro-batch at a time, the same in both passes; running statistics move only in the second.
With several processes it sees the k-th micro-batches of all of them together.
"""

import contextlib
from typing import ContextManager, Dict, Iterator, Tuple

import torch
from torch import Tensor, nn

from sdpn_k2.methods import Method


def micro_batch_gradients(
    model: Method,
    global_view: Tensor,
    local_views: Tensor,
    *,
    size: int,
    precision: ContextManager,
    diagnose: bool = False,
) -> Tuple[Tensor, Dict[str, Tensor]]:
    """Add the gradients of one batch to the parameters' ``grad``; return the loss and its statistics, detached.

    Args:
        model: the method.
        global_view: normalised fbank ``(utterances, frames, bins)``.
        local_views: normalised fbank ``(views, utterances, frames, bins)``.
        size: number of utterances that go through the networks at once.
        precision: autocast, entered for each forward pass of a network.
        diagnose: also compute the statistics that wait for the device.
    """
    count = global_view.shape[0]
    chunks = [slice(start, start + size) for start in range(0, count, size)]

    with torch.no_grad(), precision:
        z_teacher = torch.cat([model.teacher(global_view[chunk])[1] for chunk in chunks])
    with torch.no_grad(), running_statistics_kept(model.student), precision:
        parts = [model.student(local_views[:, chunk]) for chunk in chunks]
    e_student, z_student = (torch.cat(part, dim=1).requires_grad_() for part in zip(*parts))

    loss, statistics = model.loss(e_student, z_student, z_teacher, diagnose)
    loss.backward()

    for chunk in chunks:
        with precision:
            outputs = model.student(local_views[:, chunk])
        # An objective without L_DR leaves no gradient at the embeddings.
        pairs = zip(outputs, (e_student.grad, z_student.grad))
        seeds = [(output, gradient[:, chunk]) for output, gradient in pairs if gradient is not None]
        torch.autograd.backward([output for output, _ in seeds], [gradient for _, gradient in seeds])
    return loss.detach(), statistics


@contextlib.contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch normalisation as they are; training mode still uses batch statistics."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
