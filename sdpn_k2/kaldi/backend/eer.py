"""Equal error rate and minimum detection cost by the rules of Kaldi's compute-eer and sid/compute_min_dcf.py.

Both rules are coarse next to `sdpn_k2.scoring` (no interpolation, tied scores taken one by one, no operating point that
accepts everything); they are here so that a recipe prints the digits that Kaldi prints.
"""

from __future__ import annotations

import numpy as np

from sdpn_k2.errors import InputError


def kaldi_eer(target: np.ndarray, nontarget: np.ndarray) -> tuple[float, float]:
    """Equal error rate by compute-eer's rule.

    Walk up the sorted target scores. At position ``p`` of ``T`` a share ``p / T`` of the targets is rejected; stop at
    the first where the nontarget score with the same share of nontargets above it lies below the target score.

    Args:
        target, nontarget: scores, any order, at least one each. They are compared in single precision, as in Kaldi.

    Returns:
        ``(eer, threshold)``, the rate between 0 and 1.

    Raises:
        InputError: one of the two is empty, or a score is NaN.
    """
    target, nontarget = (np.sort(np.asarray(scores, np.float32)) for scores in (target, nontarget))
    for name, scores in (("target", target), ("nontarget", nontarget)):
        if not len(scores):
            raise InputError(f"no {name} scores: the equal error rate needs both kinds")
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
    """Minimum normalised detection cost by compute_min_dcf.py's rule.

    Every score in ascending order is a threshold at which it and all below it are rejected; the least cost
    ``c_miss * p_target * P_miss + c_fa * (1 - p_target) * P_fa`` is divided by that of the better fixed decision.

    Args:
        scores: ``(n,)``.
        is_target: ``(n,)`` bool.

    Returns:
        ``(min_dcf, threshold)``.

    Raises:
        InputError: no target or no nontarget among the trials, or a NaN among the scores.
    """
    scores, is_target = np.asarray(scores, np.float64), np.asarray(is_target, bool)
    num_target = int(is_target.sum())
    if num_target == 0 or num_target == len(is_target):
        raise InputError(
            f"the detection cost needs both targets and nontargets: {num_target} of {len(is_target)} trials are targets"
        )
    if np.isnan(scores).any():
        raise InputError(f"score {int(np.isnan(scores).argmax()) + 1} is NaN")
    order = np.argsort(scores, kind="stable")
    misses = np.cumsum(is_target[order]) / num_target
    false_alarms = 1 - np.cumsum(~is_target[order]) / (len(is_target) - num_target)
    costs = c_miss * misses * p_target + c_fa * false_alarms * (1 - p_target)
    best = int(costs.argmin())
    return float(costs[best] / min(c_miss * p_target, c_fa * (1 - p_target))), float(scores[order[best]])
