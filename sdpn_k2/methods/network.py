"""What teacher and student both are, and how the one follows the other."""

from typing import Tuple

import torch
from torch import Tensor, nn

from sdpn_k2.config import Config
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.models.projection import ProjectionMLP


class Branch(nn.Module):
    """Encoder and MLP."""

    def __init__(self, config: Config):
        super().__init__()
        self.encoder = EcapaTdnn(config.features.num_mel_bins, config.model)
        self.mlp = ProjectionMLP(config.model)

    def forward(self, fbank: Tensor) -> Tuple[Tensor, Tensor]:
        """Normalised fbank ``(batch, frames, bins)`` → embeddings e ``(batch, embedding_dim)``, projections z ``(batch, dim)``."""
        embeddings = self.encoder(fbank)
        return embeddings, self.mlp(embeddings)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Teacher ← momentum · teacher + (1 − momentum) · student, parameters only.

    BN running statistics stay the teacher's own, from its forward passes on clean global crops.
    """
    parameters = list(teacher.parameters())
    torch._foreach_mul_(parameters, momentum)
    torch._foreach_add_(parameters, list(student.parameters()), alpha=1.0 - momentum)
