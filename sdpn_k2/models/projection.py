"""The layers on top of the encoder that only training uses: the projection MLP and the prototypes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdpn_k2.config import ModelConfig


class ProjectionMLP(nn.Sequential):
    """Linear, BN, GELU, Linear, BN, GELU, Linear, then L2 normalisation.

    Weights start from a truncated normal of standard deviation 0.02, biases from zero.
    """

    def __init__(self, config: ModelConfig):
        hidden = config.mlp_hidden_dim
        super().__init__(
            nn.Linear(config.embedding_dim, hidden),
            nn.BatchNorm1d(hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.GELU(),
            nn.Linear(hidden, config.projection_dim),
        )
        for module in self:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map embeddings ``(batch, embedding_dim)`` to unit-norm projections ``(batch, projection_dim)``, float32."""
        return F.normalize(super().forward(embeddings).float(), dim=1)


class Prototypes(nn.Module):
    """K prototypes of ``dim`` dimensions, initially uniform(-1/sqrt(dim), 1/sqrt(dim)), used with unit norm."""

    def __init__(self, num_prototypes: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_prototypes, dim).uniform_(-(dim**-0.5), dim**-0.5))

    def forward(self, z: Tensor) -> Tensor:
        """Return cosine similarities ``(…, K)`` of unit-norm projections ``(…, dim)`` with every prototype."""
        return z @ F.normalize(self.weight, dim=1).t()
