"""The settings of a run of seconds, which tests share."""

from typing import Iterable, List

TINY_MODEL = [
    "model.channels=16",
    "model.attention_channels=4",
    "model.se_channels=4",
    "model.embedding_dim=8",
    "model.mlp_hidden_dim=16",
    "model.projection_dim=6",
    "objective.num_prototypes=5",
    "dino.num_outputs=9",
]
TINY = [
    *TINY_MODEL,
    "crops.global_seconds=1",
    "crops.local_seconds=0.5",
    "crops.min_seconds=0.4",
    "train.batch_size=6",
    "train.steps=8",
    "train.workers=0",
    "train.log_every=2",
    "train.checkpoint_every=2",
    "train.precision=float32",
    "train.ema_momentum=[0.9, 1.0]",
]


def set_options(settings: Iterable[str]) -> List[str]:
    """Return the settings as command-line options."""
    return [word for setting in settings for word in ("--set", setting)]
