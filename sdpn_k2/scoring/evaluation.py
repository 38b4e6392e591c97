"""From a trial list and a score file to error rates, and all figures of ``sdpn-k2 eval``."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from sdpn_k2.errors import error_context
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.scoring import metrics
from sdpn_k2.scoring.confidence import Interval, Intervals, bootstrap_intervals, trial_speakers
from sdpn_k2.scoring.trial_arrays import (
    Trials,
    check_labels_agree,
    check_not_swapped,
    match_scores,
    read_scores,
    read_trials,
)


class ScoredTrials(NamedTuple):
    """Scores in the order of the trials, shape (n,), and the error rates that follow from them."""

    scores: np.ndarray
    rates: metrics.ErrorRates


def read_labelled_trials(path: Union[str, Path]) -> Trials:
    """Read a trial list whose labels are complete and consistent.

    Raises:
        InputError: as ``read_trials``; no labels, or a pair that is both target and nontarget.
    """
    trials = read_trials(path)
    check_labels_agree(trials)
    return trials


def read_scored_trials(path: Union[str, Path], trials: Trials) -> ScoredTrials:
    """Read the scores of labelled trials from a score file.

    Raises:
        InputError: an unusable file, a trial without a score, or scores without error rates; the message names the
            file.
    """
    scores = match_scores(read_scores(path), trials)
    return ScoredTrials(scores, error_rates(scores, trials, path))


def error_rates(scores: np.ndarray, trials: Trials, source: object) -> metrics.ErrorRates:
    """Return the error rates of the scores of labelled trials.

    Args:
        scores: scores in the order of the trials, shape (n,).
        trials: the trials.
        source: origin of the scores, which messages name.

    Raises:
        InputError: trials of one kind only, scores that are not finite, or equal scores only.
    """
    labels = trials.labels()
    with error_context(source):
        return metrics.ErrorRates.from_scores(scores, labels)


@dataclass(frozen=True)
class Cost:
    """Detection costs in one application; ``threshold`` is that of minDCF, in the units of the scores."""

    p_target: float
    c_miss: float
    c_fa: float
    min_dcf: float
    threshold: float
    actual_dcf: float


@dataclass(frozen=True)
class Evaluation:
    """All figures of one system on one trial list: error rates in 0..1, Cllr in bits."""

    n_targets: int
    n_nontargets: int
    eer: float
    eer_threshold: float
    eer_hull: float
    eer_kaldi: float
    costs: List[Cost]
    nist: Dict[str, Dict[str, float]]
    cllr: float
    min_cllr: float
    intervals: Optional[Intervals] = None

    def as_dict(self) -> Dict[str, object]:
        """Return plain values for JSON, which has no infinity: None for the threshold that rejects everything.

        ``quote`` names the EER to quote.
        """
        values: Dict[str, object] = {"quote": "eer", **asdict(self)}
        if self.intervals:
            values["intervals"] = self.intervals._asdict()
        return {name: _finite(value) for name, value in values.items()}

    def table(self) -> str:
        """Return lines of text, with rates in percent."""
        rows = [
            ("targets", str(self.n_targets)),
            ("nontargets", str(self.n_nontargets)),
            ("EER %", f"{100 * self.eer:.3f}  (quote this one)"),
            ("EER threshold", f"{self.eer_threshold:.6g}"),
            ("EER % (ROC convex hull)", f"{100 * self.eer_hull:.3f}  (to compare with BOSARIS)"),
            ("EER % (Kaldi's compute-eer)", f"{100 * self.eer_kaldi:.3f}  (to compare with Kaldi)"),
        ]
        for cost in self.costs:
            name = f"p_target {cost.p_target:g}"
            if (cost.c_miss, cost.c_fa) != (1.0, 1.0):
                name += f", C_miss {cost.c_miss:g}, C_fa {cost.c_fa:g}"
            rows += [(f"minDCF ({name})", f"{cost.min_dcf:.4f}"), (f"actDCF ({name})", f"{cost.actual_dcf:.4f}")]
        for name, primary in self.nist.items():
            rows += [(f"{name} min", f"{primary['min']:.4f}"), (f"{name} act", f"{primary['actual']:.4f}")]
        rows += [("Cllr", f"{self.cllr:.4f}"), ("minCllr", f"{self.min_cllr:.4f}")]
        if self.intervals:
            rows += [
                (name, f"{scale * low:.{digits}f} .. {scale * high:.{digits}f}")
                for name, (low, high), scale, digits in _interval_rows(self.intervals)
            ]
        width = max(len(name) for name, _ in rows)
        return "".join(f"{name.ljust(width)}  {value}\n" for name, value in rows)


def _interval_rows(intervals: Intervals) -> Iterator[Tuple[str, Interval, int, int]]:
    """Yield name, interval, scale and number of digits."""
    speakers = f"95 %, {intervals.n_speakers} speakers"
    yield f"EER % ({speakers})", intervals.eer, 100, 3
    for p_target, interval in intervals.min_dcf.items():
        yield f"minDCF (p_target {p_target:g}; {speakers})", interval, 1, 4
        yield f"actDCF (p_target {p_target:g}; {speakers})", intervals.actual_dcf[p_target], 1, 4
    for name, primary in intervals.nist.items():
        yield f"{name} min ({speakers})", primary["min"], 1, 4
        yield f"{name} act ({speakers})", primary["actual"], 1, 4
    yield f"Cllr ({speakers})", intervals.cllr, 1, 4


def _finite(value: object) -> object:
    """Return ``value`` with None in place of every infinite number in it."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate_scores(
    scores: Union[str, Path],
    trials: Union[str, Path],
    *,
    p_targets: Sequence[float] = (0.01, 0.05),
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    evaluations: Sequence[str] = (),
    utt2spk: Optional[Union[str, Path]] = None,
) -> Evaluation:
    """Measure a score file on a trial list.

    Args:
        scores: score file, ``-`` for the standard input.
        trials: labelled trial list, ``-`` for the standard input.
        p_targets: priors of the detection costs.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        evaluations: keys of ``metrics.NIST_SRE``, for their primary costs.
        utt2spk: Kaldi's table of speakers, for 95 % intervals of EER, minDCF, actDCF and Cllr.

    Raises:
        InputError: unusable files, or a parameter outside its range.
    """
    for p_target in p_targets:
        metrics.CostModel(p_target, c_miss, c_fa)  # before the files are read
    check_not_swapped(trials, scores)
    labelled = read_labelled_trials(trials)
    scored = read_scored_trials(scores, labelled)
    evaluation = evaluate_rates(scored.rates, p_targets=p_targets, c_miss=c_miss, c_fa=c_fa, evaluations=evaluations)
    if utt2spk is None:
        return evaluation
    intervals = bootstrap_intervals(
        scored.scores,
        labelled.labels(),
        trial_speakers(labelled, read_map(utt2spk)),
        p_targets=p_targets,
        c_miss=c_miss,
        c_fa=c_fa,
        evaluations=evaluations,
    )
    return replace(evaluation, intervals=intervals)


def evaluate_rates(
    rates: metrics.ErrorRates,
    *,
    p_targets: Sequence[float] = (0.01, 0.05),
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    evaluations: Sequence[str] = (),
) -> Evaluation:
    """Measure sorted scores; arguments are those of :func:`evaluate_scores`."""
    costs = []
    for p_target in p_targets:
        least = metrics.min_dcf(rates, p_target, c_miss, c_fa)
        actual = metrics.actual_dcf(rates, p_target, c_miss, c_fa)
        costs.append(Cost(p_target, c_miss, c_fa, least.value, least.threshold, actual.value))
    nist = {
        name: {"min": metrics.nist_cost(rates, name), "actual": metrics.nist_cost(rates, name, actual=True)}
        for name in evaluations
    }
    eer = metrics.eer(rates)
    return Evaluation(
        n_targets=len(rates.targets),
        n_nontargets=len(rates.nontargets),
        eer=eer.value,
        eer_threshold=eer.threshold,
        eer_hull=metrics.eer(rates, "hull").value,
        eer_kaldi=metrics.eer(rates, "kaldi").value,
        costs=costs,
        nist=nist,
        cllr=metrics.cllr(rates),
        min_cllr=metrics.min_cllr(rates),
    )
