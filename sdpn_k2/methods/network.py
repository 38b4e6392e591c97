"""The architecture that student and teacher share, and the moving average that updates the teacher."""

from typing import List, Tuple

import torch
from torch import Tensor, nn

from sdpn_k2.config import Config
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.models.projection import ProjectionMLP


class Network(nn.Module):
    """Encoder and MLP."""

    def __init__(self, config: Config):
        super().__init__()
        self.encoder = EcapaTdnn(config.features.num_mel_bins, config.model)
        self.mlp = ProjectionMLP(config.model)

    def forward(self, fbank: Tensor) -> Tuple[Tensor, Tensor]:
        """Return the embeddings e ``(…, embedding_dim)`` and projections z ``(…, projection_dim)`` of a batch.

        Args:
            fbank: normalised fbank ``(…, frames, bins)``, in one or more batch dimensions.
        """
        embeddings = self.encoder(fbank.flatten(0, -3))
        projections = self.mlp(embeddings)
        return embeddings.unflatten(0, fbank.shape[:-2]), projections.unflatten(0, fbank.shape[:-2])


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Set the teacher's parameters to momentum · teacher + (1 − momentum) · student.

    BN running statistics stay the teacher's own, from its forward passes on clean global crops.
    """
    old: List[Tensor] = list(teacher.parameters())
    new: List[Tensor] = list(student.parameters())
    torch._foreach_mul_(old, momentum)
    torch._foreach_add_(old, new, alpha=1.0 - momentum)
