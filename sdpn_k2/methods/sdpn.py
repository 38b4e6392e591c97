"""SDPN: the Self-Distillation Prototypes Network (Chen et al., arXiv 2308.02774).

The teacher sees one clean global crop of each utterance, the student several augmented local crops. Both assign the
utterance to K shared prototypes, and the student learns to predict the teacher's assignment. The teacher is an
exponential moving average of the student. No speaker label is used.

    p_s = softmax(z_s · Cᵀ / tau)
    p_t = Sinkhorn(sharpen(softmax(z_t · Cᵀ / tau), T))          no gradient
    L   = L_CE(p_t, p_s) + me_weight · L_ME(p_s) + mu · L_DR(e_s)
"""

import copy
import math
from typing import Dict, List, Tuple

import torch
from torch import Tensor, nn

from sdpn_k2.config import Config
from sdpn_k2.methods.collectives import gather
from sdpn_k2.methods.network import Network, ema_update
from sdpn_k2.methods.regularisation import DIMENSION_REGULARISATIONS, embedding_statistics
from sdpn_k2.models.projection import Prototypes


class SDPN(nn.Module):
    """Student, teacher, prototypes and objective."""

    def __init__(self, config: Config):
        super().__init__()
        self.student = Network(config)
        self.teacher = copy.deepcopy(self.student)
        self.teacher.requires_grad_(False)
        self.prototypes = Prototypes(config.objective.num_prototypes, config.model.projection_dim)
        self.config = config.objective

    def forward(
        self, global_view: Tensor, local_views: Tensor, diagnose: bool = False
    ) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Return the loss of one batch, and its statistics (see :meth:`loss`).

        Args:
            global_view: normalised fbank for the teacher, ``(utterances, frames, bins)``.
            local_views: normalised fbank for the student, ``(views, utterances, frames, bins)``.
            diagnose: also compute :func:`embedding_statistics`, which wait for the device.
        """
        with torch.no_grad():
            _, z_teacher = self.teacher(global_view)
        e_student, z_student = self.student(local_views)
        return self.loss(e_student, z_student, z_teacher, diagnose)

    def loss(
        self, e_student: Tensor, z_student: Tensor, z_teacher: Tensor, diagnose: bool = False
    ) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Return the objective over the batches of all processes, in float32 whatever the networks' precision.

        Args:
            e_student: embeddings of the local views, ``(views, utterances, embedding_dim)``.
            z_student: projections of the local views, ``(views, utterances, dim)``.
            z_teacher: projections of the global views, ``(utterances, dim)``, without gradient.
            diagnose: as in :meth:`forward`.

        Returns:
            the loss (scalar) and a dict of detached scalars: each loss term, the mean entropies of student and teacher
            (nats), and the effective number of prototypes in use. The last is exp of the entropy of the student's
            mean p.
        """
        config = self.config
        e_student, z_student, z_teacher = gather(e_student, dim=1), gather(z_student, dim=1), gather(z_teacher)
        with torch.autocast(z_student.device.type, enabled=False):
            log_p_student = torch.log_softmax(self.prototypes(z_student) / config.temperature, dim=-1)
            with torch.no_grad():
                log_p_teacher = torch.log_softmax(self.prototypes(z_teacher) / config.temperature, dim=-1)
                log_p_teacher = sharpen(log_p_teacher, config.sharpening)
                log_p_teacher = sinkhorn(log_p_teacher, config.sinkhorn_iterations)
            p_student, p_teacher = log_p_student.exp(), log_p_teacher.exp()

            cross_entropy = cross_entropy_loss(p_teacher, log_p_student)
            mean_entropy = mean_entropy_loss(p_student)
            dimension = DIMENSION_REGULARISATIONS[config.dim_reg](e_student)
            loss = cross_entropy + config.me_weight * mean_entropy + config.dr_weight * dimension

            with torch.no_grad():
                statistics = {
                    "loss": loss.detach(),
                    "loss_ce": cross_entropy.detach(),
                    "loss_me": mean_entropy.detach(),
                    "loss_dr": dimension.detach(),
                    "student_entropy": -(p_student * log_p_student).sum(dim=-1).mean(),
                    "teacher_entropy": -(p_teacher * log_p_teacher).sum(dim=-1).mean(),
                    "prototypes_in_use": torch.exp(math.log(p_student.shape[-1]) - mean_entropy),
                }
                if diagnose:
                    statistics.update(embedding_statistics(e_student[0]))
        return loss, statistics

    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student (:func:`sdpn_k2.methods.network.ema_update`)."""
        ema_update(self.teacher, self.student, momentum)

    def own_rate_parameters(self) -> List[nn.Parameter]:
        """Return the parameters outside the student. They learn at their own rate, without weight decay or clipping."""
        return list(self.prototypes.parameters())

    def frozen_parameters(self, epoch: int) -> List[nn.Parameter]:
        """Return the parameters that do not learn in ``epoch``: none."""
        return []


def sharpen(log_p: Tensor, temperature: float) -> Tensor:
    """Return the log of p^(1/T), renormalised over the last dimension."""
    return torch.log_softmax(log_p / temperature, dim=-1)


def sinkhorn(log_p: Tensor, iterations: int) -> Tensor:
    """Balance log probabilities ``(utterances, K)`` over the prototypes by Sinkhorn-Knopp, in the log domain.

    Each iteration scales every prototype to a total of 1/K, then every utterance to a total of 1/B; in the end every
    utterance is scaled to 1. Only the utterance sums are therefore exact; prototype sums are exact in the limit.
    """
    for _ in range(iterations):
        log_p = log_p - torch.logsumexp(log_p, dim=0, keepdim=True)
        log_p = torch.log_softmax(log_p, dim=1)
    return log_p


def cross_entropy_loss(p_teacher: Tensor, log_p_student: Tensor) -> Tensor:
    """Return L_CE, the mean over local views and utterances of −Σ_k p_t[k] log p_s[k]."""
    return -(p_teacher * log_p_student).sum(dim=-1).mean()


def mean_entropy_loss(p_student: Tensor) -> Tensor:
    """Return L_ME = log K − H(mean p_s), the mean over every local view of every utterance.

    It is zero when all K prototypes are used alike.
    """
    mean = p_student.flatten(0, -2).mean(dim=0)
    return math.log(mean.numel()) + torch.xlogy(mean, mean).sum()
