"""Equal error rate and minimum detection cost by the rules of Kaldi's compute-eer and sid/compute_min_dcf.py.

Recipes use these rules to print the digits that Kaldi prints. They are coarser than `sdpn_k2.scoring.metrics`: they
do not interpolate, treat tied scores one by one, and have no operating point that accepts everything.
"""

from __future__ import annotations

import numpy as np

from sdpn_k2.errors import InputError


def kaldi_eer(target: np.ndarray, nontarget: np.ndarray) -> tuple[float, float]:
    """Compute the equal error rate by compute-eer's rule.

    A threshold at position ``p`` of the ``T`` sorted target scores rejects the share ``p / T`` of the targets. The rate
    is this share at the first position whose target score exceeds the nontarget score with the same share of
    nontargets above it.

    Args:
        target: target scores in any order, at least one. Scores are compared in single precision, as in Kaldi.
        nontarget: nontarget scores in any order, at least one.

    Returns:
        ``(eer, threshold)``, the rate between 0 and 1.

    Raises:
        InputError: there are no target or no nontarget scores, or a score is NaN.
    """
    target, nontarget = (np.sort(np.asarray(scores, np.float32)) for scores in (target, nontarget))
    for name, scores in (("target", target), ("nontarget", nontarget)):
        if not len(scores):
            raise InputError(f"there are no {name} scores; the equal error rate needs both kinds")
        if np.isnan(scores[-1]):
            raise InputError(f"a {name} score is NaN")
    positions = np.arange(len(target) - 1)
    accepted = (len(nontarget) * positions / len(target)).astype(np.int64)
    crossed = nontarget[np.maximum(len(nontarget) - 1 - accepted, 0)] < target[positions]
    position = int(crossed.argmax()) if crossed.any() else len(target) - 1
    return float(np.float32(position / len(target))), float(target[position])


def kaldi_min_dcf(
    scores: np.ndarray, is_target: np.ndarray, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0
) -> tuple[float, float]:
    """Compute the minimum normalised detection cost by compute_min_dcf.py's rule.

    Each score serves as a threshold at which it and all lower scores are rejected. The lowest cost
    ``c_miss * p_target * P_miss + c_fa * (1 - p_target) * P_fa`` is divided by the cost of the better fixed decision.

    Args:
        scores: ``(n,)``.
        is_target: ``(n,)`` bool.
        p_target: prior probability of a target trial.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.

    Returns:
        ``(min_dcf, threshold)``.

    Raises:
        InputError: there are no target or no nontarget trials, or a score is NaN.
    """
    scores, is_target = np.asarray(scores, np.float64), np.asarray(is_target, bool)
    num_target = int(is_target.sum())
    if num_target == 0 or num_target == len(is_target):
        raise InputError(
            f"the detection cost needs both targets and nontargets, but {num_target} of {len(is_target)} trials "
            "are targets"
        )
    if np.isnan(scores).any():
        raise InputError(f"score {int(np.isnan(scores).argmax()) + 1} is NaN")
    order = np.argsort(scores, kind="stable")
    misses = np.cumsum(is_target[order]) / num_target
    false_alarms = 1 - np.cumsum(~is_target[order]) / (len(is_target) - num_target)
    costs = c_miss * misses * p_target + c_fa * false_alarms * (1 - p_target)
    best = int(costs.argmin())
    return float(costs[best] / min(c_miss * p_target, c_fa * (1 - p_target))), float(scores[order[best]])
