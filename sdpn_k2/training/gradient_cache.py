"""Exact large batches on small devices: gradient caching (Gao et al., 2021).

The objective needs the projections of the whole batch (Sinkhorn, L_ME and L_DR look at all of it), but their
computation does not. So: embed the whole batch chunk by chunk without keeping anything, take the objective and its
gradient at the embeddings once, then embed each chunk again, now with its graph, and carry its part of that gradient back.

Batch normalisation sees one chunk at a time, the same in both passes; running statistics move in the second alone.
"""

import contextlib
from typing import Dict, Iterator, Optional, Tuple

import torch
from torch import Tensor, nn


def loss_and_gradients(
    model: nn.Module,
    global_view: Tensor,
    local_views: Tensor,
    context: contextlib.AbstractContextManager,
    micro_batch_size: Optional[int] = None,
    diagnose: bool = False,
) -> Tuple[Tensor, Dict[str, Tensor]]:
    """Loss of one batch; its gradients are added to the parameters' ``grad``.

    Args:
        model: the method (:class:`sdpn_k2.methods.sdpn.SDPN` or :class:`sdpn_k2.methods.dino.DINO`).
        global_view: normalised fbank ``(utterances, frames, bins)``.
        local_views: normalised fbank ``(views, utterances, frames, bins)``.
        context: autocast; may be entered repeatedly.
        micro_batch_size: utterances that go through the networks at once; None: all.
        diagnose: compute the statistics that wait for the device, too.

    Returns:
        the loss and its statistics, detached.
    """
    count = global_view.shape[0]
    chunks = [slice(start, start + (micro_batch_size or count)) for start in range(0, count, micro_batch_size or count)]

    def student(chunk: slice) -> Tuple[Tensor, Tensor]:
        views = local_views[:, chunk]
        with context:
            e, z = model.student(views.flatten(0, 1))
        return e.unflatten(0, views.shape[:2]), z.unflatten(0, views.shape[:2])

    with torch.no_grad(), context:
        z_teacher = torch.cat([model.teacher(global_view[chunk])[1] for chunk in chunks])

    if len(chunks) == 1:
        loss, statistics = model.loss(*student(chunks[0]), z_teacher, diagnose)
        loss.backward()
        return loss.detach(), statistics

    with torch.no_grad(), running_statistics_kept(model.student):
        e_student, z_student = (torch.cat(parts, dim=1) for parts in zip(*map(student, chunks)))
    e_student.requires_grad_()
    z_student.requires_grad_()
    loss, statistics = model.loss(e_student, z_student, z_teacher, diagnose)
    loss.backward()
    for chunk in chunks:
        e, z = student(chunk)
        surrogate = (z * z_student.grad[:, chunk]).sum()
        if e_student.grad is not None:
            surrogate = surrogate + (e * e_student.grad[:, chunk]).sum()
        surrogate.backward()
    return loss.detach(), statistics


@contextlib.contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch normalisation goes on using batch statistics in training mode, without moving its running ones."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
