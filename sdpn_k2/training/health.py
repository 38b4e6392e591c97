"""Signs of collapse in the statistics of a training step."""

from __future__ import annotations

import logging
from typing import Dict, List

import numpy as np

log = logging.getLogger(__name__)

# Healthy runs are far from these: early on, nearly all prototypes are in use and embeddings have tens of dimensions.
MIN_PROTOTYPE_SHARE = 0.05
MIN_EFFECTIVE_RANK = 3.0
MAX_MEAN_COSINE = 0.9


def warn_of_collapse(step: int, statistics: Dict[str, float], num_prototypes: int, batch_size: int) -> List[str]:
    """Log a warning for each sign of collapse in the statistics of a step, and return the warnings."""
    signs = []
    # A batch cannot use more prototypes than it has utterances.
    if statistics.get("prototypes_in_use", np.inf) < MIN_PROTOTYPE_SHARE * min(num_prototypes, batch_size):
        signs.append(f"only {statistics['prototypes_in_use']:.1f} of {num_prototypes} prototypes are in use")
    if statistics.get("effective_rank", np.inf) < MIN_EFFECTIVE_RANK:
        signs.append(f"the effective rank of the embeddings is {statistics['effective_rank']:.1f}")
    if statistics.get("mean_cosine", -1.0) > MAX_MEAN_COSINE:
        signs.append(f"the mean cosine of different utterances is {statistics['mean_cosine']:.2f}")
    for sign in signs:
        log.warning("step %d: possible collapse: %s", step, sign)
    return signs
