"""Every figure for one score file, for ``sdpn-k2 eval``."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Union

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.scoring import metrics
from sdpn_k2.scoring.confidence import Intervals, bootstrap_intervals, trial_speakers
from sdpn_k2.scoring.trial_list import check_labels_agree, match_scores, read_scores, read_trials


@dataclass(frozen=True)
class Cost:
    """Detection costs at one application; ``threshold`` is where minDCF is reached, in the scores' units."""

    p_target: float
    c_miss: float
    c_fa: float
    min_dcf: float
    threshold: float
    actual_dcf: float


@dataclass(frozen=True)
class Summary:
    """What the scores of one system on one trial list come to; error rates in 0..1, Cllr in bits."""

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
        """The same as plain values, for JSON, which has no infinity: None for the threshold that rejects everything."""
        values = asdict(self)
        if self.intervals:
            values["intervals"] = self.intervals._asdict()
        return _finite(values)

    def table(self) -> str:
        """The same as lines of text, rates in percent."""
        rows = [
            ("targets", str(self.n_targets)),
            ("nontargets", str(self.n_nontargets)),
            ("EER %", f"{100 * self.eer:.3f}"),
            ("EER threshold", f"{self.eer_threshold:.6g}"),
            ("EER % (ROC convex hull)", f"{100 * self.eer_hull:.3f}"),
            ("EER % (Kaldi's compute-eer)", f"{100 * self.eer_kaldi:.3f}"),
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
                for name, (low, high), scale, digits in self._interval_rows()
            ]
        width = max(len(name) for name, _ in rows)
        return "".join(f"{name.ljust(width)}  {value}\n" for name, value in rows)

    def _interval_rows(self):
        speakers = f"95 %, {self.intervals.n_speakers} speakers"
        yield f"EER % ({speakers})", self.intervals.eer, 100, 3
        for p_target, interval in self.intervals.min_dcf.items():
            yield f"minDCF (p_target {p_target:g}; {speakers})", interval, 1, 4
            yield f"actDCF (p_target {p_target:g}; {speakers})", self.intervals.actual_dcf[p_target], 1, 4
        for name, primary in self.intervals.nist.items():
            yield f"{name} min ({speakers})", primary["min"], 1, 4
            yield f"{name} act ({speakers})", primary["actual"], 1, 4
        yield f"Cllr ({speakers})", self.intervals.cllr, 1, 4


def _finite(value):
    """``value`` with None for every number in it that is infinite."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summarise(
    scores: Union[str, Path],
    trials: Union[str, Path],
    p_targets: Sequence[float] = (0.01, 0.05),
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    evaluations: Sequence[str] = (),
    utt2spk: Optional[Union[str, Path]] = None,
) -> Summary:
    """Measures a score file against a trial list.

    Args:
        scores: score file, ``-`` for the standard input.
        trials: labelled trial list, ``-`` for the standard input.
        p_targets: the priors at which costs are wanted.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        evaluations: keys of ``metrics.NIST_SRE`` whose primary costs are wanted too.
        utt2spk: Kaldi's table of speakers, for 95 % intervals of EER, minDCF, actDCF and Cllr.

    Raises:
        InputError: anything wrong in the files, or a parameter outside its range.
    """
    for p_target in p_targets:
        metrics.CostModel(p_target, c_miss, c_fa).check()
    wanted = read_trials(trials)
    check_labels_agree(wanted)
    values = match_scores(read_scores(scores), wanted)
    try:
        rates = metrics.ErrorRates.from_scores(values, wanted.labels())
    except InputError as error:
        raise InputError(f"{scores}: {error}") from error
    summary = summarise_rates(rates, p_targets, c_miss, c_fa, evaluations)
    if utt2spk is None:
        return summary
    speakers = trial_speakers(wanted, read_map(utt2spk))
    return replace(
        summary, intervals=bootstrap_intervals(values, wanted.labels(), speakers, p_targets, c_miss, c_fa, evaluations)
    )


def summarise_rates(
    rates: metrics.ErrorRates,
    p_targets: Sequence[float] = (0.01, 0.05),
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    evaluations: Sequence[str] = (),
) -> Summary:
    """The same for scores already sorted."""
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
    return Summary(
        len(rates.targets),
        len(rates.nontargets),
        eer.value,
        eer.threshold,
        metrics.eer(rates, "hull").value,
        metrics.eer(rates, "kaldi").value,
        costs,
        nist,
        metrics.cllr(rates),
        metrics.min_cllr(rates),
    )
