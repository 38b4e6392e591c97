"""Verification of a speaker: the score of two recordings and, with a calibration, the probability of one speaker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.inference.embedder import Audio, Embedder
from sdpn_k2.scoring import cosine
from sdpn_k2.scoring.calibration import Calibration
from sdpn_k2.scoring.embeddings import Embeddings, enroll_models, subtract_mean
from sdpn_k2.scoring.metrics import CostModel


@dataclass(frozen=True)
class Verdict:
    """The outcome of a trial.

    Attributes:
        score: cosine of the two embeddings.
        llr: natural log-likelihood ratio of "same speaker" to "different speakers"; None without calibration.
        probability: posterior probability of "same speaker"; None without calibration.
        p_target: prior probability of "same speaker".
    """

    score: float
    llr: Optional[float]
    probability: Optional[float]
    p_target: float


def verify(
    embedder: Embedder,
    enroll: Union[str, Path, Sequence[Audio]],
    test: Audio,
    *,
    mean: Optional[np.ndarray] = None,
    calibration: Optional[Calibration] = None,
    p_target: float = 0.5,
    channel: int = 0,
) -> Verdict:
    """Compare a recording with an enrolled speaker.

    Args:
        embedder: the model.
        enroll: recordings of the speaker, or one file; several embeddings are scaled to unit length and averaged.
        test: recording to compare with them.
        mean: vector ``(dim,)`` to subtract from every embedding.
        calibration: calibration of such scores (``sdpn-k2 calibrate``).
        p_target: prior probability of "same speaker".
        channel: channel to use in files with several (0-based).

    Raises:
        InputError: no enrolment recording; a prior outside 0 to 1; a calibration of several systems; all that
            ``Embedder.embed`` raises.
    """
    CostModel(p_target)  # raises InputError for an impossible prior
    if isinstance(enroll, (str, Path)):
        enroll = [enroll]
    if not len(enroll):
        raise InputError("no enrolment recordings; give at least one")
    names = [f"enrolment recording {i}" for i in range(1, len(enroll) + 1)]
    vectors = [embedder.embed(audio, channel=channel) for audio in enroll]
    enrolled = Embeddings(names, np.stack(vectors), "the enrolment")
    tested = Embeddings(["test"], embedder.embed(test, channel=channel)[None], "the test recording")
    if mean is not None:
        enrolled, tested = subtract_mean(enrolled, mean), subtract_mean(tested, mean)
    enrolled = enroll_models(enrolled, {"speaker": names})
    score = float(cosine.score_matrix(enrolled, tested)[0, 0])
    if calibration is None:
        return Verdict(score, None, None, p_target)
    scores = np.array([score])
    llr, probability = calibration.apply(scores)[0], calibration.probability(scores, p_target)[0]
    return Verdict(score, float(llr), float(probability), p_target)
