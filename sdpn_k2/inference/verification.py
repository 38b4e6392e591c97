"""Verification of a speaker: the score of two recordings, and the decision that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.scoring.backend import Backend
from sdpn_k2.scoring.calibration import Calibration, read_calibration
from sdpn_k2.scoring.metrics import CostModel
from sdpn_k2.scoring.thresholds import Threshold

ANSWERS = {True: "same speaker", False: "different speakers", None: "no decision"}


@dataclass(frozen=True)
class Verdict:
    """The outcome of a trial; ``print`` shows it in lines.

    Attributes:
        same_speaker: the decision, ``score >= threshold``; None without a threshold.
        score: cosine, or log-likelihood ratio of the PLDA.
        scoring: ``cosine``, ``cosine_mean`` or ``plda``.
        backend: folder of the mean, LDA and PLDA; None for plain cosines.
        threshold: least score for "same speaker"; None if none is known.
        threshold_source: where the threshold comes from, or why there is none.
        llr: natural log-likelihood ratio of "same speaker" to "different speakers"; None without a calibration.
        probability: posterior probability of "same speaker"; None without a calibration.
        p_target: prior probability of "same speaker".
    """

    same_speaker: Optional[bool]
    score: float
    scoring: str
    backend: Optional[str]
    threshold: Optional[float]
    threshold_source: str
    llr: Optional[float]
    probability: Optional[float]
    p_target: float

    def __str__(self) -> str:
        return "\n".join([ANSWERS[self.same_speaker], *self.grounds()])

    def grounds(self) -> List[str]:
        """Return lines of what the decision rests on: score, threshold, and likelihood ratio if there is one."""
        lines = [
            f"score        {self.score:.4f} ({self.scoring}{f', {self.backend}' if self.backend else ''})",
            f"threshold    {'none' if self.threshold is None else f'{self.threshold:.4f}'} ({self.threshold_source})",
        ]
        if self.probability is not None:
            lines.append(f"llr          {self.llr:.3f}")
            lines.append(f"probability  {self.probability:.4f} (prior {self.p_target:g})")
        return lines


class DecisionRule:
    """How scores of a back end become decisions: one rule for any number of trials.

    Attributes:
        backend: how to score.
        threshold: least score for "same speaker", and where it comes from; None if none is known.
        calibration: calibration of scores of this kind, if any.
        p_target: prior probability of "same speaker".
    """

    def __init__(
        self,
        backend: Backend,
        *,
        calibration: Optional[Union[str, Path, Calibration]] = None,
        threshold: Optional[float] = None,
        p_target: Optional[float] = None,
    ) -> None:
        """Find the threshold; the arguments are those of ``Embedder.verify``.

        Raises:
            InputError: a prior outside 0 to 1, or one without a threshold; a calibration of several systems, of scores
                of another or unknown kind, or with a weight that is not positive.
        """
        prior = CostModel(0.5 if p_target is None else p_target)  # raises InputError for an impossible prior
        name = "the calibration"
        if isinstance(calibration, (str, Path)):
            name, calibration = str(calibration), read_calibration(calibration)
        if calibration is not None:
            _check_calibration(calibration, name, backend.kind)
        if threshold is not None and not np.isfinite(threshold):
            raise InputError(f"the threshold is {threshold}; it must be finite")
        self.backend = backend
        self.calibration = calibration
        self.p_target = prior.p_target
        self.threshold: Optional[Threshold]
        if threshold is not None:
            self.threshold = Threshold(float(threshold), "as given")
        elif calibration is not None:
            least = (prior.bayes_threshold - calibration.offset) / calibration.weights[0]
            self.threshold = Threshold(least, f"probability 0.5 at prior {prior.p_target:g}, {name}")
        else:
            self.threshold = backend.threshold(p_target)

    def verdict(self, score: float) -> Verdict:
        """Decide on a trial with this score."""
        llr = probability = None
        if self.calibration is not None:
            scores = np.array([score])
            llr = float(self.calibration.apply(scores)[0])
            probability = float(self.calibration.probability(scores, self.p_target)[0])
        return Verdict(
            same_speaker=None if self.threshold is None else bool(score >= self.threshold.value),
            score=float(score),
            scoring=self.backend.scoring,
            backend=None if self.backend.folder is None else str(self.backend.folder),
            threshold=None if self.threshold is None else self.threshold.value,
            threshold_source=_why_none(self.backend) if self.threshold is None else self.threshold.source,
            llr=llr,
            probability=probability,
            p_target=self.p_target,
        )


def _check_calibration(calibration: Calibration, name: str, kind: str) -> None:
    if len(calibration.weights) != 1:
        raise InputError(f"{name}: a fusion of {len(calibration.weights)} systems; this score comes from one")
    if not calibration.weights[0] > 0:
        raise InputError(f"{name}: the weight {calibration.weights[0]:g} is not positive, so it cannot decide")
    if not calibration.kinds or calibration.kinds[0] is None:
        raise InputError(
            f"{name}: it does not say which kind of scores it was trained on; train it again with "
            f"--scoring {kind.split()[0]}" + (" --backend FOLDER" if " " in kind else "")
        )
    if calibration.kinds[0] != kind:
        raise InputError(f"{name}: it was trained on {calibration.kinds[0]} scores, but this is a {kind} score")


def _why_none(backend: Backend) -> str:
    if backend.results is None:
        return "no experiment measured one; give a threshold or a calibration"
    return f"{backend.results} has none for {backend.scoring}; sdpn-k2 results measures it"
