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
        lines: List[str] = [
            {True: "same speaker", False: "different speakers", None: "no decision"}[self.same_speaker],
            f"score        {self.score:.4f} ({self.scoring}{f', {self.backend}' if self.backend else ''})",
            f"threshold    {'none' if self.threshold is None else f'{self.threshold:.4f}'} ({self.threshold_source})",
        ]
        if self.probability is not None:
            lines.append(f"llr          {self.llr:.3f}")
            lines.append(f"probability  {self.probability:.4f} (prior {self.p_target:g})")
        return "\n".join(lines)


def judge(
    backend: Backend,
    enroll: np.ndarray,
    test: np.ndarray,
    *,
    calibration: Optional[Union[str, Path, Calibration]] = None,
    threshold: Optional[float] = None,
    p_target: Optional[float] = None,
) -> Verdict:
    """Score and decide a trial; the arguments are those of ``Embedder.verify``.

    Args:
        backend: how to score.
        enroll: embeddings of the speaker, ``(n, dim)``.
        test: embedding to compare with them, ``(dim,)``.
        calibration: calibration of scores of this kind.
        threshold: least score for "same speaker".
        p_target: prior probability of "same speaker".

    Raises:
        InputError: a prior outside 0 to 1, or one without a threshold; a calibration of several systems, of scores of
            another or unknown kind, or with a weight that is not positive; all that ``Backend.compare`` raises.
    """
    prior = CostModel(0.5 if p_target is None else p_target)  # raises InputError for an impossible prior
    name = "the calibration"
    if isinstance(calibration, (str, Path)):
        name, calibration = str(calibration), read_calibration(calibration)
    if calibration is not None:
        _check_calibration(calibration, name, backend.kind)
    if threshold is not None and not np.isfinite(threshold):
        raise InputError(f"the threshold is {threshold}; it must be finite")
    score = backend.compare(enroll, test)
    llr = probability = None
    chosen: Optional[Threshold] = None
    if calibration is not None:
        scores = np.array([score])
        llr = float(calibration.apply(scores)[0])
        probability = float(calibration.probability(scores, prior.p_target)[0])
        least = (prior.bayes_threshold - calibration.offset) / calibration.weights[0]
        chosen = Threshold(least, f"probability 0.5 at prior {prior.p_target:g}, {name}")
    if threshold is not None:
        chosen = Threshold(float(threshold), "as given")
    elif calibration is None:
        chosen = backend.threshold(p_target)
    return Verdict(
        same_speaker=None if chosen is None else score >= chosen.value,
        score=score,
        scoring=backend.scoring,
        backend=None if backend.folder is None else str(backend.folder),
        threshold=None if chosen is None else chosen.value,
        threshold_source=_why_none(backend) if chosen is None else chosen.source,
        llr=llr,
        probability=probability,
        p_target=prior.p_target,
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
