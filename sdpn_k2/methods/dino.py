"""DINO (Caron et al., ICCV 2021) on SDPN's views, encoder and MLP: the baseline of SDPN's Figure 2.

Each network has its own linear layer to K outputs, with weights of unit norm. The student's is frozen in the first
epoch.

    p_s = softmax(W_s z_s / 0.1),   p_t = softmax((W_t z_t − centre) / 0.04)         no gradient
    L   = mean over utterances and local views of −Σ_k p_t[k] log p_s[k]

It has no shared prototypes, no L_ME and no L_DR.
"""

import copy
from typing import Dict, List, Tuple

import torch
from torch import Tensor, nn

from sdpn_k2.config import Config
from sdpn_k2.methods.collectives import gather
from sdpn_k2.methods.network import Network, ema_update
from sdpn_k2.methods.regularisation import embedding_statistics
from sdpn_k2.methods.sdpn import cross_entropy_loss
from sdpn_k2.models.projection import Prototypes


class DINO(nn.Module):
    """Student, teacher, centre and objective; the same interface as :class:`sdpn_k2.methods.sdpn.SDPN`."""

    centre: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.config = config.dino
        self.student = DinoNetwork(config)
        self.teacher = copy.deepcopy(self.student)
        self.teacher.requires_grad_(False)
        self.register_buffer("centre", torch.zeros(self.config.num_outputs))

    def forward(
        self, global_view: Tensor, local_views: Tensor, diagnose: bool = False
    ) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Return loss and statistics of one batch. See :meth:`sdpn_k2.methods.sdpn.SDPN.forward`."""
        with torch.no_grad():
            _, z_teacher = self.teacher(global_view)
        e_student, z_student = self.student(local_views)
        return self.loss(e_student, z_student, z_teacher, diagnose)

    def loss(
        self, e_student: Tensor, z_student: Tensor, z_teacher: Tensor, diagnose: bool = False
    ) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Return loss and statistics of projections, and then move the centre to the batch's mean teacher output.

        See :meth:`sdpn_k2.methods.sdpn.SDPN.loss` for the arguments.
        """
        config = self.config
        e_student, z_student, z_teacher = gather(e_student, dim=1), gather(z_student, dim=1), gather(z_teacher)
        with torch.autocast(z_student.device.type, enabled=False):
            log_p_student = torch.log_softmax(self.student.output(z_student) / config.student_temperature, dim=-1)
            with torch.no_grad():
                outputs = self.teacher.output(z_teacher)
                log_p_teacher = torch.log_softmax((outputs - self.centre) / config.teacher_temperature, dim=-1)
                p_teacher = log_p_teacher.exp()
                self.centre.lerp_(outputs.mean(dim=0), 1 - config.centre_momentum)

            loss = cross_entropy_loss(p_teacher, log_p_student)

            with torch.no_grad():
                p_student = log_p_student.exp()
                mean = p_student.flatten(0, 1).mean(dim=0)
                statistics = {
                    "loss": loss.detach(),
                    "student_entropy": -(p_student * log_p_student).sum(dim=-1).mean(),
                    "teacher_entropy": -(p_teacher * log_p_teacher).sum(dim=-1).mean(),
                    "prototypes_in_use": torch.exp(-torch.xlogy(mean, mean).sum()),
                }
                if diagnose:
                    statistics.update(embedding_statistics(e_student[0]))
        return loss, statistics

    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student (:func:`sdpn_k2.methods.network.ema_update`)."""
        ema_update(self.teacher, self.student, momentum)

    def own_rate_parameters(self) -> List[nn.Parameter]:
        """Return the parameters outside the student: none."""
        return []

    def frozen_parameters(self, epoch: int) -> List[nn.Parameter]:
        """Return the parameters that do not learn in ``epoch``: the output layer's, in the first epochs."""
        return list(self.student.output.parameters()) if epoch < self.config.frozen_epochs else []


class DinoNetwork(Network):
    """Encoder, MLP and output layer."""

    def __init__(self, config: Config):
        super().__init__(config)
        # Cosines with unit-norm rows are the outputs of a linear layer with weights v/‖v‖ and no gain.
        self.output = Prototypes(config.dino.num_outputs, config.model.projection_dim)
