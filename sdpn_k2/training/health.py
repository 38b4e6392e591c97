"""Signs of collapse in the statistics of a training step."""

from __future__ import annotations

import logging
from typing import Dict, List, Mapping, NamedTuple

from sdpn_k2.config import Config

log = logging.getLogger(__name__)

# Healthy runs are far from these: early on, nearly all prototypes are in use and embeddings have tens of dimensions.
MIN_PROTOTYPE_SHARE = 0.05
MIN_EFFECTIVE_RANK = 3.0
MAX_MEAN_COSINE = 0.9


class Limit(NamedTuple):
    """The least value of a metric in a healthy run, or the greatest (``is_least`` false)."""

    value: float
    is_least: bool
    sign: str  # of collapse, as a message with the metric's value

    def is_crossed_by(self, value: float) -> bool:
        """Return whether a value is a sign of collapse; NaN is not."""
        return value < self.value if self.is_least else value > self.value


def num_outputs(config: Config) -> int:
    """Return the number of prototypes, or of DINO's outputs."""
    return config.objective.num_prototypes if config.method == "sdpn" else config.dino.num_outputs


def limits(config: Config) -> Dict[str, Limit]:
    """Return the limits of a run by metric."""
    outputs = num_outputs(config)
    # A batch cannot use more prototypes than it has utterances.
    least = MIN_PROTOTYPE_SHARE * min(outputs, config.train.batch_size)
    return {
        "prototypes_in_use": Limit(least, True, f"only {{:.1f}} of {outputs} prototypes are in use"),
        "effective_rank": Limit(MIN_EFFECTIVE_RANK, True, "the effective rank of the embeddings is {:.1f}"),
        "mean_cosine": Limit(MAX_MEAN_COSINE, False, "the mean cosine of different utterances is {:.2f}"),
    }


def warn_of_collapse(step: int, statistics: Mapping[str, float], config: Config) -> List[str]:
    """Log a warning for each sign of collapse in the statistics of a step, and return the warnings."""
    signs = [
        limit.sign.format(statistics[metric])
        for metric, limit in limits(config).items()
        if metric in statistics and limit.is_crossed_by(statistics[metric])
    ]
    for sign in signs:
        log.warning("step %d: possible collapse: %s", step, sign)
    return signs
