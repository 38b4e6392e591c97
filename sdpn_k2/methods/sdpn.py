"""SDPN: the Self-Distillation Prototypes Network (Chen et al., arXiv 2308.02774).

A teacher sees one clean global crop of every utterance, a student several augmented local crops. Both say how the
utterance is spread over K shared prototypes; the student learns to say what the teacher says. The teacher is an
exponential moving average of the student. Nobody sees a speaker label.

    p_s = softmax(z_s · Cᵀ / tau)
    p_t = Sinkhorn(sharpen(softmax(z_t · Cᵀ / tau), T))          no gradient
    L   = L_CE(p_t, p_s) + me_weight · L_ME(p_s) + mu · L_DR(e_s)

Local views are laid out view by view: ``(views, utterances, …)``.
"""

import copy
import math
from typing import Dict, List, Tuple

import torch
from torch import Tensor, nn

from sdpn_k2.config import Config, ObjectiveConfig
from sdpn_k2.methods.collectives import gather
from sdpn_k2.methods.network import Branch, follow
from sdpn_k2.methods.regularisation import DIMENSION_REGULARISATIONS, embedding_statistics
from sdpn_k2.models.projection import Prototypes


class SDPN(nn.Module):
    """Student, teacher, prototypes and objective."""

    def __init__(self, config: Config):
        super().__init__()
        self.student = Branch(config)
        self.teacher = copy.deepcopy(self.student)
        self.teacher.requires_grad_(False)
        self.prototypes = Prototypes(config.objective.num_prototypes, config.model.projection_dim)
        self.config = config.objective

    def loss(
        self, e_student: Tensor, z_student: Tensor, z_teacher: Tensor, diagnose: bool = False
    ) -> Tuple[Tensor, Dict[str, Tensor]]:
        """The objective over the batches of all processes, in float32 whatever the networks ran in.

        Args:
            e_student: embeddings of the local views, ``(views, utterances, embedding_dim)``.
            z_student: their projections, ``(views, utterances, dim)``.
            z_teacher: projections of the global views, ``(utterances, dim)``, without gradient.
            diagnose: also compute :func:`embedding_statistics`, which waits for the device.

        Returns:
            the loss (scalar) and its statistics (detached scalars; see :func:`objective`).
        """
        e_student, z_student, z_teacher = gather(e_student, dim=1), gather(z_student, dim=1), gather(z_teacher)
        with torch.autocast(z_student.device.type, enabled=False):
            loss, statistics = objective(
                e_student, self.prototypes(z_student), self.prototypes(z_teacher).detach(), self.config
            )
            if diagnose:
                statistics.update(embedding_statistics(e_student[0].detach()))
        return loss, statistics

    def update_teacher(self, momentum: float) -> None:
        """The teacher follows the student (:func:`sdpn_k2.methods.network.follow`)."""
        follow(self.teacher, self.student, momentum)

    def own_rate_parameters(self) -> List[nn.Parameter]:
        """Parameters outside the student: they learn at their own rate, without weight decay and clipping."""
        return list(self.prototypes.parameters())

    def frozen_parameters(self, epoch: int) -> List[nn.Parameter]:
        """Parameters that do not learn in ``epoch``: none, ever."""
        return []


def objective(
    e_student: Tensor, student_similarity: Tensor, teacher_similarity: Tensor, config: ObjectiveConfig
) -> Tuple[Tensor, Dict[str, Tensor]]:
    """SDPN's loss from embeddings and prototype similarities.

    Args:
        e_student: ``(views, utterances, embedding_dim)``.
        student_similarity: z_s · Cᵀ, ``(views, utterances, K)``.
        teacher_similarity: z_t · Cᵀ, ``(utterances, K)``.

    Returns:
        the loss and a dict of detached scalars: each loss term, the student's and teacher's mean entropies (nats) and
        the effective number of prototypes in use (exp of the entropy of the student's mean p).
    """
    log_p_student = torch.log_softmax(student_similarity / config.temperature, dim=-1)
    log_p_teacher = sharpen(torch.log_softmax(teacher_similarity / config.temperature, dim=-1), config.sharpening)
    log_p_teacher = sinkhorn(log_p_teacher, config.sinkhorn_iterations)
    p_student, p_teacher = log_p_student.exp(), log_p_teacher.exp()

    cross_entropy = cross_entropy_loss(p_teacher, log_p_student)
    mean_entropy = mean_entropy_loss(p_student)
    dimension = DIMENSION_REGULARISATIONS[config.dim_reg](e_student)
    loss = cross_entropy + config.me_weight * mean_entropy + config.dr_weight * dimension

    with torch.no_grad():
        statistics = {
            "loss": loss,
            "loss_ce": cross_entropy,
            "loss_me": mean_entropy,
            "loss_dr": dimension,
            "student_entropy": -(p_student * log_p_student).sum(dim=-1).mean(),
            "teacher_entropy": -(p_teacher * log_p_teacher).sum(dim=-1).mean(),
            "prototypes_in_use": torch.exp(math.log(p_student.shape[-1]) - mean_entropy),
        }
    return loss, {name: value.detach() for name, value in statistics.items()}


def sharpen(log_p: Tensor, temperature: float) -> Tensor:
    """Log of p^(1/T), renormalised over the last dimension."""
    return torch.log_softmax(log_p / temperature, dim=-1)


def sinkhorn(log_p: Tensor, iterations: int) -> Tensor:
    """Sinkhorn-Knopp in the log domain: ``(utterances, K)`` log probabilities, made to use all prototypes alike.

    Each iteration scales every prototype to a total of 1/K, then every utterance to a total of 1/B; at the end utterances are
    scaled to 1. Only the utterance sums are therefore exact; prototype sums are so in the limit.
    """
    for _ in range(iterations):
        log_p = log_p - torch.logsumexp(log_p, dim=0, keepdim=True)
        log_p = torch.log_softmax(log_p, dim=1)
    return log_p


def cross_entropy_loss(p_teacher: Tensor, log_p_student: Tensor) -> Tensor:
    """L_CE: mean over local views and utterances of −Σ_k p_t[k] log p_s[k]."""
    return -(p_teacher * log_p_student).sum(dim=-1).mean()


def mean_entropy_loss(p_student: Tensor) -> Tensor:
    """L_ME = log K − H(mean p_s), the mean over every local view of every utterance. Zero when all K are used alike."""
    mean = p_student.flatten(0, -2).mean(dim=0)
    return math.log(mean.numel()) + torch.xlogy(mean, mean).sum()
