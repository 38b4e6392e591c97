"""Confidence intervals of error rates by resampling speakers.

Trials that share a speaker are not independent, so resampling trials gives intervals that are far too narrow. Instead,
each draw picks speakers with replacement. The target trials of a speaker drawn c times count c times. A nontarget trial
between speakers drawn c and d times counts c d times [Poh07]. The interval holds the middle part of the metric's values
over the draws (percentile bootstrap).

References:
----------
[Poh07]  N. Poh and S. Bengio, "Performance generalization in biometric authentication using joint user-specific and
         sample bootstraps", IEEE TPAMI 29, 2007.
"""

from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.scoring.metrics import NIST_SRE, CostModel, crossing
from sdpn_k2.scoring.trial_arrays import Trials


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval."""

    low: float
    high: float


class Intervals(NamedTuple):
    """Intervals of the metrics of one system.

    Attributes:
        eer: interval of the interpolated EER.
        min_dcf: intervals of minDCF, by p_target.
        actual_dcf: intervals of actDCF, by p_target.
        nist: intervals of the primary costs of NIST evaluations, ``{"sre16": {"min": …, "actual": …}}``.
        cllr: interval of Cllr.
        n_speakers: number of speakers to draw from.
    """

    eer: Interval
    min_dcf: Dict[float, Interval]
    actual_dcf: Dict[float, Interval]
    nist: Dict[str, Dict[str, Interval]]
    cllr: Interval
    n_speakers: int


class TrialSpeakers(NamedTuple):
    """Speakers as numbers 0..n-1 on both sides of each trial, int64, shape (n_trials,) each."""

    enroll: np.ndarray
    test: np.ndarray


def trial_speakers(trials: Trials, utt2spk: Mapping[str, str]) -> TrialSpeakers:
    """Find the speakers of every trial. An id may also name a speaker (an enrolled model).

    Raises:
        InputError: an id that is neither an utterance nor a speaker, a target trial between two speakers, or a
            nontarget trial within one speaker.
    """
    numbers = {speaker: i for i, speaker in enumerate(sorted(set(utt2spk.values())))}

    def speakers(ids: Sequence[str]) -> np.ndarray:
        found = np.fromiter((numbers.get(utt2spk.get(name, name), -1) for name in ids), np.int64, len(ids))
        if (found < 0).any():
            raise InputError(
                f"{trials.source}: the speaker of {ids[int(np.argmin(found))]} is unknown; "
                f"{np.count_nonzero(found < 0)} ids have no speaker"
            )
        return found

    enroll, test = speakers(trials.enroll_ids)[trials.enroll], speakers(trials.test_ids)[trials.test]
    wrong = np.flatnonzero(trials.labels() != (enroll == test))
    if len(wrong):
        label = "target" if trials.labels()[wrong[0]] else "nontarget"
        raise InputError(
            f"{trials.source}: {trials.pair(wrong[0])} is a {label} trial, but its speakers say otherwise; "
            f"{len(wrong)} trials disagree"
        )
    return TrialSpeakers(enroll, test)


def bootstrap_intervals(
    scores: np.ndarray,
    is_target: np.ndarray,
    speakers: TrialSpeakers,
    *,
    p_targets: Sequence[float] = (0.01, 0.05),
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    evaluations: Sequence[str] = (),
    level: float = 0.95,
    n_draws: int = 1000,
    seed: int = 0,
) -> Intervals:
    """Compute percentile intervals of the interpolated EER, of detection costs and of Cllr.

    Args:
        scores: shape (n,).
        is_target: bool, shape (n,).
        speakers: speakers of the trials (:func:`trial_speakers`).
        p_targets: priors for minDCF and actDCF.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        evaluations: keys of ``metrics.NIST_SRE``, for intervals of their primary costs.
        level: share of the draws within an interval.
        n_draws: number of draws; each needs a few passes over the scores.
        seed: random seed of the draws.

    Raises:
        InputError: fewer than two speakers, a level outside 0..1, or an impossible prior.
    """
    if not 0.0 < level < 1.0:
        raise InputError(f"the level of an interval must lie between 0 and 1, not {level:g}")
    applications: Dict[Union[float, str], Tuple[CostModel, ...]] = {
        p_target: (CostModel(p_target, c_miss, c_fa),) for p_target in p_targets
    }
    applications.update((name, NIST_SRE[name]) for name in evaluations)
    costs = list(dict.fromkeys(cost for of_one in applications.values() for cost in of_one))
    present = np.unique(np.concatenate((speakers.enroll, speakers.test)))
    if len(present) < 2:
        raise InputError("intervals need trials of at least 2 speakers")
    trials = _SortedTrials(scores, is_target, speakers, costs)
    rng = np.random.default_rng(seed)
    draws: List[_Draw] = []
    while len(draws) < n_draws:
        draw = trials.draw(np.bincount(present[rng.integers(0, len(present), len(present))], minlength=present[-1] + 1))
        if draw is not None:
            draws.append(draw)
    least, actual = np.array([draw.min_dcf for draw in draws]), np.array([draw.actual_dcf for draw in draws])
    tails = np.array([(1.0 - level) / 2.0, (1.0 + level) / 2.0])

    def interval(values: Sequence[float]) -> Interval:
        return Interval(*map(float, np.quantile(values, tails)))

    def dcf_interval(values: np.ndarray, application: Union[float, str]) -> Interval:
        return interval(values[:, [costs.index(cost) for cost in applications[application]]].mean(axis=1))

    return Intervals(
        interval([draw.eer for draw in draws]),
        {p_target: dcf_interval(least, p_target) for p_target in p_targets},
        {p_target: dcf_interval(actual, p_target) for p_target in p_targets},
        {name: {"min": dcf_interval(least, name), "actual": dcf_interval(actual, name)} for name in evaluations},
        interval([draw.cllr for draw in draws]),
        len(present),
    )


class _Draw(NamedTuple):
    """Metrics of one draw; the costs have the order of the cost models, shape (n_costs,) each."""

    eer: float
    cllr: float
    min_dcf: np.ndarray
    actual_dcf: np.ndarray


class _SortedTrials:
    """Trials in the order of their scores, for metrics in which a trial counts as often as its speakers are drawn."""

    def __init__(
        self, scores: np.ndarray, is_target: np.ndarray, speakers: TrialSpeakers, costs: Sequence[CostModel]
    ) -> None:
        order = np.argsort(scores, kind="stable")
        ordered, target = scores[order], is_target[order]
        # Trials below each distinct score, and below +inf: where the error rates change.
        ends = np.append(np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))), len(ordered))
        targets, nontargets = np.flatnonzero(target), np.flatnonzero(~target)
        self.target_ends, self.nontarget_ends = np.searchsorted(targets, ends), np.searchsorted(nontargets, ends)
        self.target_speakers = speakers.enroll[order[targets]]
        self.nontarget_speakers = [side[order[nontargets]] for side in speakers]
        # Contribution of each trial to Cllr, in bits.
        self.target_bits = np.logaddexp(0.0, -ordered[targets].astype(np.float64)) / np.log(2.0)
        self.nontarget_bits = np.logaddexp(0.0, ordered[nontargets].astype(np.float64)) / np.log(2.0)
        self.costs = costs
        self.bayes = np.searchsorted(ends, [np.searchsorted(ordered, cost.bayes_threshold) for cost in costs])

    def draw(self, counts: np.ndarray) -> Optional[_Draw]:
        """Return the metrics when each speaker counts ``counts`` times, shape (n_speakers,).

        Return None without targets or without nontargets: one speaker only, or only speakers without target trials.
        """
        counts = counts.astype(np.float64)
        target_times = counts[self.target_speakers]
        nontarget_times = counts[self.nontarget_speakers[0]] * counts[self.nontarget_speakers[1]]
        miss = _cumulative(target_times)[self.target_ends]
        fa = _cumulative(nontarget_times)[self.nontarget_ends]
        if miss[-1] == 0.0 or fa[-1] == 0.0:
            return None
        cllr = (target_times @ self.target_bits / miss[-1] + nontarget_times @ self.nontarget_bits / fa[-1]) / 2.0
        miss /= miss[-1]
        fa = 1.0 - fa / fa[-1]
        least, actual = np.empty((2, len(self.costs)))
        for i, cost in enumerate(self.costs):
            dcf = cost.c_miss * cost.p_target * miss + cost.c_fa * (1.0 - cost.p_target) * fa
            least[i], actual[i] = dcf.min() / cost.default_cost, dcf[self.bayes[i]] / cost.default_cost
        return _Draw(crossing(miss, fa)[0], float(cllr), least, actual)


def _cumulative(weights: np.ndarray) -> np.ndarray:
    """Return the sums of the first 0, 1, 2 ... weights."""
    sums = np.empty(len(weights) + 1)
    sums[0] = 0.0
    np.cumsum(weights, out=sums[1:])
    return sums
