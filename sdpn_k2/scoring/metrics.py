"""Speaker-verification metrics: EER, minDCF, actDCF, Cllr and minCllr.

A trial asks whether two recordings have the same speaker. In a *target* trial they do, in a *nontarget* trial they do
not. A system gives each trial a score, and a higher score means more confidence in "same". A threshold t turns scores
into decisions, "same" when score >= t, and there are two kinds of error:

    miss rate         P_miss(t) = share of target trials with score < t
    false-alarm rate  P_fa(t)   = share of nontarget trials with score >= t

Equal scores always fall on the same side of a threshold, so ties need no rule of their own.

Everything here starts from one sort, held by ``ErrorRates``: O(n log n) once, then O(n) or less per metric. Arrays
keep their type, so that 10^8 float32 scores need about 0.5 GB in addition to the input.

References:
----------
[Martin97]   A. Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
[Brummer06]  N. Brümmer and J. du Preez, "Application-independent evaluation of speaker detection", CSL 20, 2006: Cllr.
[Brummer13]  N. Brümmer and E. de Villiers, "The BOSARIS toolkit", arXiv 1304.2865: ROC convex hull, minCllr.
[NIST]       NIST speaker recognition evaluation plans, 2008 to 2019: detection cost and its parameters.
[Kaldi]      src/ivectorbin/compute-eer.cc: the rule named "kaldi".
"""

from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Callable, List, NamedTuple, Tuple

import numpy as np
from numpy.typing import ArrayLike

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.eer import kaldi_eer

BLOCK = 1 << 22  # scores per pass where temporary arrays would otherwise be as long as the scores

EER_RULES = ("interpolated", "hull", "kaldi")


class OperatingPoint(NamedTuple):
    """A metric and the threshold at which the system reaches it (it accepts a trial when score >= threshold)."""

    value: float
    threshold: float


@dataclass(frozen=True)
class CostModel:
    """An application: prior probability of a target trial and the cost of each kind of error [NIST].

    Raises:
        InputError: unless 0 < p_target < 1 and both costs are positive and finite.
    """

    p_target: float
    c_miss: float = 1.0
    c_fa: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.p_target < 1.0:
            raise InputError(f"p_target must lie between 0 and 1, not {self.p_target:g}")
        if not (0.0 < self.c_miss < np.inf and 0.0 < self.c_fa < np.inf):
            raise InputError(f"c_miss and c_fa must be positive and finite, not {self.c_miss:g} and {self.c_fa:g}")

    @property
    def default_cost(self) -> float:
        """Cost of the better trivial system: accept everything, or reject everything."""
        return min(self.c_miss * self.p_target, self.c_fa * (1.0 - self.p_target))

    @property
    def bayes_threshold(self) -> float:
        """The threshold on natural-log likelihood ratios that minimises the expected cost."""
        return float(np.log(self.c_fa * (1.0 - self.p_target)) - np.log(self.c_miss * self.p_target))


# Applications of the NIST evaluations [NIST]: the primary cost is the mean of the normalised costs over them.
# SRE16 and later also average over partitions of the trials (language, gender ...): split the trial list for that.
NIST_SRE = {
    "sre08": (CostModel(0.01, c_miss=10.0),),
    "sre10": (CostModel(0.001),),
    "sre12": (CostModel(0.01), CostModel(0.001)),
    "sre16": (CostModel(0.01), CostModel(0.005)),
    "sre18-cts": (CostModel(0.01), CostModel(0.005)),
    "sre18-vast": (CostModel(0.05),),
    "sre19-cts": (CostModel(0.01), CostModel(0.005)),
    "sre19-av": (CostModel(0.05),),
}


@dataclass(frozen=True, eq=False)
class ErrorRates:
    """The sorted scores of a system, which give both error rates at every threshold.

    Build it with ``from_scores`` or ``from_split``, which check the scores.

    Attributes:
        targets: scores of the target trials, ascending, shape (n_targets,), a float type.
        nontargets: scores of the nontarget trials, ascending, shape (n_nontargets,), the same type.
    """

    targets: np.ndarray
    nontargets: np.ndarray

    @classmethod
    def from_scores(cls, scores: np.ndarray, is_target: np.ndarray) -> "ErrorRates":
        """Sort the scores of labelled trials.

        Args:
            scores: shape (n,), any real type; float32 stays float32.
            is_target: shape (n,), True (or 1) for target trials.

        Raises:
            InputError: see ``from_split``; also different lengths, or labels that are neither 0 nor 1.

        Examples:
            >>> rates = ErrorRates.from_scores([0.8, 0.4, 0.5, 0.1], [1, 1, 0, 0])
            >>> float(rates.miss_rate(0.5)), float(rates.false_alarm_rate(0.5))
            (0.5, 0.5)
        """
        scores = np.asarray(scores)
        is_target = np.asarray(is_target)
        if scores.ndim != 1 or is_target.shape != scores.shape:
            raise InputError(
                f"scores and labels must be lists of equal length, not of shapes {scores.shape} and {is_target.shape}"
            )
        if is_target.dtype != bool:
            if not np.isin(is_target, (0, 1)).all():
                raise InputError("labels must be 1 (target) or 0 (nontarget)")
            is_target = is_target.astype(bool)
        return cls.from_split(scores[is_target], scores[~is_target])

    @classmethod
    def from_split(cls, target_scores: np.ndarray, nontarget_scores: np.ndarray) -> "ErrorRates":
        """Sort the scores of target trials and those of nontarget trials.

        Args:
            target_scores: shape (n_targets,).
            nontarget_scores: shape (n_nontargets,).

        Raises:
            InputError: one of the two is empty or not a list, a score is NaN or infinite, or all scores are equal.
        """
        target_scores, nontarget_scores = np.asarray(target_scores), np.asarray(nontarget_scores)
        if target_scores.ndim != 1 or nontarget_scores.ndim != 1:
            raise InputError(
                f"target and nontarget scores must be lists, not of shapes {target_scores.shape} and "
                f"{nontarget_scores.shape}"
            )
        dtype = np.result_type(target_scores, nontarget_scores, np.float32)
        targets = np.sort(np.asarray(target_scores, dtype))
        nontargets = np.sort(np.asarray(nontarget_scores, dtype))
        for here, there, kind, other in (
            (targets, nontargets, "target", "nontarget"),
            (nontargets, targets, "nontarget", "target"),
        ):
            if not len(here):
                raise InputError(f"no {kind} trials, but {len(there)} {other} trials: error rates need both kinds")
            # Sorting puts NaN at the end and infinities at both ends.
            if not (np.isfinite(here[0]) and np.isfinite(here[-1])):
                bad = len(here) - np.count_nonzero(np.isfinite(here))
                raise InputError(f"{bad} of {len(here)} {kind} scores are NaN or infinite")
        if targets[0] == targets[-1] == nontargets[0] == nontargets[-1]:
            raise InputError(
                f"all {len(targets) + len(nontargets)} scores are {targets[0]:g}, so they say nothing about the trials"
            )
        for scores in (targets, nontargets):
            scores.flags.writeable = False
        return cls(targets, nontargets)

    def misses(self, thresholds: ArrayLike) -> np.ndarray:
        """Count the target scores below each threshold; the result has the shape of ``thresholds``."""
        return np.asarray(np.searchsorted(self.targets, np.asarray(thresholds, self.targets.dtype), side="left"))

    def false_alarms(self, thresholds: ArrayLike) -> np.ndarray:
        """Count the nontarget scores at or above each threshold; the result has the shape of ``thresholds``."""
        at = np.asarray(thresholds, self.nontargets.dtype)
        return np.asarray(len(self.nontargets) - np.searchsorted(self.nontargets, at, side="left"))

    def miss_rate(self, thresholds: ArrayLike) -> np.ndarray:
        """Return P_miss at each threshold."""
        rate: np.ndarray = self.misses(thresholds) / len(self.targets)
        return rate

    def false_alarm_rate(self, thresholds: ArrayLike) -> np.ndarray:
        """Return P_fa at each threshold."""
        rate: np.ndarray = self.false_alarms(thresholds) / len(self.nontargets)
        return rate

    @cached_property
    def corners(self) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The thresholds at which no other threshold is better in one error and as good in the other, ascending.

        Raising a threshold to the next target score adds no miss, so only target scores are candidates. Of those with
        equal false alarms, only the lowest is a corner. +inf, which rejects everything, comes last. Every linear cost
        has its minimum at a corner, and the convex hull of the ROC has its vertices there.

        Returns:
            thresholds (k,), misses (k,) and false alarms (k,): int64 counts, strictly rising and strictly falling.
        """
        pieces: List[Tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        last_false_alarms = -1
        for start in range(0, len(self.targets), BLOCK):
            block = self.targets[start : start + BLOCK]
            previous = self.targets[start - 1] if start else -np.inf
            misses = np.flatnonzero(np.concatenate(([block[0] != previous], block[1:] != block[:-1])))
            thresholds = block[misses]
            false_alarms = self.false_alarms(thresholds)
            keep = np.flatnonzero(np.diff(false_alarms, prepend=last_false_alarms))
            if len(keep):
                last_false_alarms = false_alarms[-1]
                pieces.append((thresholds[keep], misses[keep] + start, false_alarms[keep]))
        if last_false_alarms > 0:
            pieces.append((np.array([np.inf], self.targets.dtype), np.array([len(self.targets)]), np.array([0])))
        thresholds, misses, false_alarms = (np.concatenate(column) for column in zip(*pieces))
        return thresholds, misses, false_alarms

    @cached_property
    def hull(self) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The vertices of the convex hull of the ROC, from (no miss, all false alarms) to (all misses, no false alarm).

        Pooling adjacent violators over the corners finds it: the groups are the edges of the hull [Brummer13].

        Returns:
            thresholds (k,), misses (k,) and false alarms (k,), as in ``corners``; thresholds[0] is -inf.
        """
        from scipy.optimize import isotonic_regression

        thresholds, misses, false_alarms = self.corners
        # Between two neighbouring corners lie some targets and some nontargets. The shares of targets, made monotone
        # with the numbers of trials as weights, are the slopes of the hull.
        before = np.concatenate(([-np.inf], thresholds))
        misses = np.concatenate(([0], misses))
        false_alarms = np.concatenate(([len(self.nontargets)], false_alarms))
        if misses[-1] < len(self.targets):
            before = np.append(before, np.inf)
            misses = np.append(misses, len(self.targets))
            false_alarms = np.append(false_alarms, 0)
        targets = np.diff(misses)
        trials = targets - np.diff(false_alarms)
        distinct = trials > 0  # the first corner accepts everything when a target has the lowest score
        steps = np.flatnonzero(distinct)
        groups = isotonic_regression(targets[steps] / trials[steps], weights=trials[steps]).blocks
        ends = np.append(steps[groups[1:-1] - 1], len(trials) - 1) + 1
        vertices = np.concatenate(([0], ends))
        return before[vertices], misses[vertices], false_alarms[vertices]


def eer(rates: ErrorRates, rule: str = "interpolated") -> OperatingPoint:
    """Return the equal error rate, where P_miss = P_fa, in 0..1, and its threshold.

    Args:
        rates: the sorted scores.
        rule: how to treat two step functions that need not meet; tools differ.
            ``interpolated``: the line through the points of the ROC (one per distinct score) crosses P_miss = P_fa.
            This is the common choice, also with scikit-learn's ROC.
            ``hull``: the same on the convex hull of the ROC, never larger [Brummer13].
            ``kaldi``: the share of targets below a target score, by the rule of compute-eer [Kaldi].

    Raises:
        InputError: unknown rule.

    Examples:
        >>> rates = ErrorRates.from_split([0.4, 0.6, 0.8, 0.9], [0.1, 0.2, 0.3, 0.5])
        >>> eer(rates).value
        0.25
        >>> eer(rates, "hull").value
        0.125
    """
    if rule == "interpolated":
        return _interpolated_eer(rates)
    if rule == "hull":
        return _hull_eer(rates)
    if rule == "kaldi":
        return OperatingPoint(*kaldi_eer(rates.targets, rates.nontargets))
    raise InputError(f"unknown EER rule {rule!r}: choose one of {', '.join(EER_RULES)}")


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """Return the smallest i in 0..count-1 for which ``holds``, which stays true once it is; count if none."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def crossing(miss: np.ndarray, fa: np.ndarray) -> Tuple[float, int]:
    """Find where the line through the points (fa, miss) has miss = fa.

    Args:
        miss: rising from 0, shape (k,).
        fa: falling to 0, shape (k,).

    Returns:
        the rate, and the number of the first point with miss >= fa.
    """
    after = int(np.searchsorted(miss - fa, 0.0))
    gap_before, gap_after = fa[after - 1] - miss[after - 1], miss[after] - fa[after]
    share = gap_before / (gap_before + gap_after)
    return float(miss[after - 1] + share * (miss[after] - miss[after - 1])), after


def _interpolated_eer(rates: ErrorRates) -> OperatingPoint:
    def crossed(scores: np.ndarray) -> Callable[[int], bool]:
        return lambda i: bool(rates.miss_rate(scores[i]) >= rates.false_alarm_rate(scores[i]))

    # The first distinct score at which misses outweigh false alarms, and the one before it.
    both = (rates.targets, rates.nontargets)
    first = [_first(len(scores), crossed(scores)) for scores in both]
    after = min(scores[i] if i < len(scores) else np.inf for scores, i in zip(both, first))
    places = [np.searchsorted(scores, after, side="left") for scores in both]
    before = max(scores[i - 1] for scores, i in zip(both, places) if i > 0)
    ends = np.array([before, after])
    value, _ = crossing(rates.miss_rate(ends), rates.false_alarm_rate(ends))
    return OperatingPoint(value, float(after if np.isfinite(after) else before))


def _hull_eer(rates: ErrorRates) -> OperatingPoint:
    thresholds, misses, false_alarms = rates.hull
    value, i = crossing(misses / len(rates.targets), false_alarms / len(rates.nontargets))
    threshold = thresholds[i] if np.isfinite(thresholds[i]) else thresholds[i - 1]
    return OperatingPoint(value, float(threshold))


def min_dcf(rates: ErrorRates, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> OperatingPoint:
    """Return the minimum normalised detection cost over all thresholds; one of them rejects everything.

    C(t) = c_miss p_target P_miss(t) + c_fa (1 - p_target) P_fa(t), divided by
    min(c_miss p_target, c_fa (1 - p_target)), so that the better trivial system costs 1 [NIST].

    Args:
        rates: the sorted scores.
        p_target: prior probability of a target trial, between 0 and 1.
        c_miss: cost of a miss, positive.
        c_fa: cost of a false alarm, positive.

    Raises:
        InputError: a parameter outside its range.

    Examples:
        >>> rates = ErrorRates.from_split([0.4, 0.6, 0.8, 0.9], [0.1, 0.2, 0.3, 0.5])
        >>> min_dcf(rates, p_target=0.01)
        OperatingPoint(value=0.25, threshold=0.6)
    """
    cost = CostModel(p_target, c_miss, c_fa)
    thresholds, misses, false_alarms = rates.corners
    costs = misses * (cost.c_miss * cost.p_target / (len(rates.targets) * cost.default_cost))
    costs += false_alarms * (cost.c_fa * (1.0 - cost.p_target) / (len(rates.nontargets) * cost.default_cost))
    best = int(np.argmin(costs))
    # The lowest corner is at least as good as accepting everything, which needs no candidate of its own.
    return OperatingPoint(float(costs[best]), float(thresholds[best]))


def actual_dcf(rates: ErrorRates, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> OperatingPoint:
    """Return the normalised detection cost at the Bayes threshold, for scores that are natural-log likelihood ratios.

    The threshold is log(c_fa (1 - p_target)) - log(c_miss p_target); arguments and errors are those of ``min_dcf``.
    """
    cost = CostModel(p_target, c_miss, c_fa)
    threshold = cost.bayes_threshold
    value = (
        cost.c_miss * cost.p_target * rates.miss_rate(threshold)
        + cost.c_fa * (1.0 - cost.p_target) * rates.false_alarm_rate(threshold)
    ) / cost.default_cost
    return OperatingPoint(float(value), threshold)


def nist_cost(rates: ErrorRates, evaluation: str, actual: bool = False) -> float:
    """Return the primary cost of a NIST evaluation: the mean of minDCF (or actDCF) over its applications.

    Args:
        rates: the sorted scores.
        evaluation: a key of ``NIST_SRE``, such as ``"sre16"``.
        actual: use actDCF instead of minDCF.

    Raises:
        InputError: unknown evaluation.
    """
    if evaluation not in NIST_SRE:
        raise InputError(f"unknown evaluation {evaluation!r}: choose one of {', '.join(NIST_SRE)}")
    dcf = actual_dcf if actual else min_dcf
    return float(np.mean([dcf(rates, *astuple(cost)).value for cost in NIST_SRE[evaluation]]))


def cllr(rates: ErrorRates) -> float:
    """Return the cost of log-likelihood ratios in bits [Brummer06]: 0 is perfect, a constant score of 0 costs 1.

    Cllr = (mean over targets of log2(1 + e^-s) + mean over nontargets of log2(1 + e^s)) / 2, for scores s that are
    natural-log likelihood ratios.

    Examples:
        >>> round(cllr(ErrorRates.from_split([2.0, 3.0], [-2.0, 1.0])), 4)
        0.5827
    """

    def mean_softplus(scores: np.ndarray, sign: float) -> float:
        total = 0.0
        for start in range(0, len(scores), BLOCK):
            total += np.logaddexp(0.0, sign * scores[start : start + BLOCK].astype(np.float64)).sum()
        return total / len(scores)

    return float((mean_softplus(rates.targets, -1.0) + mean_softplus(rates.nontargets, 1.0)) / (2.0 * np.log(2.0)))


def min_cllr(rates: ErrorRates) -> float:
    """Return Cllr after the best monotone recalibration of the scores, when only their order counts [Brummer06].

    Pooling adjacent violators gives every trial on one edge of the ROC's convex hull the same likelihood ratio, the
    edge's slope [Brummer13]. The sum therefore runs over edges instead of trials.
    """
    _, misses, false_alarms = rates.hull
    target_share = np.diff(misses) / len(rates.targets)
    nontarget_share = -np.diff(false_alarms) / len(rates.nontargets)
    both = (target_share > 0) & (nontarget_share > 0)  # an edge of one kind costs nothing: its ratio is 0 or inf
    t, n = target_share[both], nontarget_share[both]
    return float((t * np.log2(1.0 + n / t) + n * np.log2(1.0 + t / n)).sum() / 2.0)
