"""Score normalisation against a cohort: Z-norm, T-norm, S-norm and adaptive S-norm.

A cohort is a set of embeddings of speakers who are not in the trials. It holds the training embeddings, or the centres
of their clusters where there are no labels. Scoring an embedding against the cohort gives a mean and a standard
deviation, which normalise the score of a trial:

    z-norm    (s - mean_e) / std_e                    by the enrolment side
    t-norm    (s - mean_t) / std_t                    by the test side
    s-norm    the mean of the two
    as-norm   s-norm with each side's statistics over the N cohort members that score highest against it

Given N, z-norm and t-norm are adaptive too. Standard deviations are those of the population (divided by N).

References:
----------
[Reynolds97]  D. Reynolds, "Comparison of background normalization methods", Eurospeech 1997: Z-norm.
[Auckenthaler00]  R. Auckenthaler et al., "Score normalization", Digital Signal Processing 10, 2000: T-norm.
[Kenny10]     P. Kenny, "Bayesian speaker verification with heavy-tailed priors", Odyssey 2010: S-norm.
[Matejka17]   P. Matějka et al., "Analysis of score normalization", Interspeech 2017: adaptive S-norm ("AS-norm1").
"""

from typing import Callable, List, NamedTuple, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.scoring.cosine import TrialRows, score_matrix, score_trials, trial_rows
from sdpn_k2.scoring.embeddings import Embeddings, vector_norms
from sdpn_k2.scoring.trial_arrays import Trials

METHODS = ("z-norm", "t-norm", "s-norm", "as-norm")
BLOCK_CELLS = 1 << 22  # scores against the cohort per block: 16 MB, which the selection finds in the cache
MIN_STD = 1e-6  # of cosines; anything smaller is the rounding of equal scores


class CohortStatistics(NamedTuple):
    """Mean and standard deviation of each embedding's scores against a cohort, float32, shape (n,) each."""

    mean: np.ndarray
    std: np.ndarray


def normalized_scores(
    enroll: Embeddings,
    test: Embeddings,
    trials: Optional[Trials],
    cohort: Embeddings,
    *,
    method: str = "as-norm",
    top_n: Optional[int] = 300,
) -> np.ndarray:
    """Return normalised cosine scores of trials.

    Args:
        enroll: embeddings of the enrolment ids.
        test: embeddings of the test ids; the same object is allowed.
        trials: the pairs; None for every enrolment with every test embedding.
        cohort: embeddings of the cohort, prepared (centred, whitened) like the others.
        method: one of ``METHODS``.
        top_n: size of the adaptive cohort; None for the whole one. ``as-norm`` requires it, ``s-norm`` ignores it.

    Returns:
        shape (len(trials),), or (len(enroll), len(test)) when ``trials`` is None; float32.

    Raises:
        InputError: an unknown method, a cohort smaller than ``top_n``, and all that ``score_trials`` raises.
    """
    if method not in METHODS:
        raise InputError(f"{method!r} is not a valid normalisation (use one of {', '.join(METHODS)})")
    if method == "as-norm" and top_n is None:
        raise InputError("as-norm requires a top-n, the number of cohort members to use")
    if method == "s-norm":
        top_n = None
    if trials is None:
        scores, rows = score_matrix(enroll, test), TrialRows(np.arange(len(enroll))[:, None], np.arange(len(test)))
    else:
        scores, rows = score_trials(enroll, test, trials), trial_rows(enroll, test, trials)
    sides: List[Tuple[Embeddings, np.ndarray]] = []
    if method != "t-norm":
        sides.append((enroll, rows.enroll))
    if method != "z-norm":
        sides.append((test, rows.test))
    if enroll is test:
        used = np.unique(np.concatenate([np.unique(rows) for _, rows in sides]))
        statistics = [cohort_statistics(enroll, cohort, top_n, used)] * len(sides)
    else:
        statistics = [cohort_statistics(side, cohort, top_n, np.unique(rows)) for side, rows in sides]
    normalized = np.zeros_like(scores)
    for (_, used), side in zip(sides, statistics):
        normalized += (scores - side.mean[used]) / side.std[used]
    normalized /= np.float32(len(sides))
    return normalized


def cohort_statistics(
    embeddings: Embeddings, cohort: Embeddings, top_n: Optional[int] = None, used: Optional[np.ndarray] = None
) -> CohortStatistics:
    """Compute mean and standard deviation of the cosine scores of embeddings against a cohort.

    Args:
        embeddings: n embeddings.
        cohort: m embeddings of the same dimension.
        top_n: number of highest scores that count for each embedding; None for all of them.
        used: rows to compute, all by default; the other rows of the result are NaN.

    Raises:
        InputError: different dimensions, fewer than two cohort members, a cohort smaller than ``top_n``, a ``top_n``
            below two, zero norms, or equal scores against the whole cohort.
    """
    if cohort.dim != embeddings.dim:
        raise InputError(
            f"the cohort ({cohort.source}) has {cohort.dim} dimensions, but the embeddings ({embeddings.source}) "
            f"have {embeddings.dim}"
        )
    if top_n is not None and top_n < 2:
        raise InputError(f"top-n must be at least 2, not {top_n}")
    if len(cohort) < (top_n or 2):
        raise InputError(
            f"the cohort ({cohort.source}) has {len(cohort)} embeddings, but at least {top_n or 2} are needed: use a "
            "larger cohort or a smaller top-n"
        )
    used = np.arange(len(embeddings)) if used is None else used
    norms = vector_norms(embeddings, used)
    members = cohort.vectors / vector_norms(cohort)[:, None]
    mean, std = np.full((2, len(embeddings)), np.nan, np.float32)
    if top_n is None or top_n == len(cohort):
        block_statistics, block = _whole_cohort(members), 1 << 14
    else:
        block_statistics, block = _top_of_cohort(members, top_n), max(1, BLOCK_CELLS // len(cohort))
    for start in range(0, len(used), block):
        rows = used[start : start + block]
        mean[rows], std[rows] = block_statistics(embeddings.vectors[rows] / norms[rows, None])
    flat = np.flatnonzero(~(std[used] > MIN_STD))
    if len(flat):
        raise InputError(
            f"all scores of {embeddings.ids[used[flat[0]]]} against the cohort ({cohort.source}) are equal; this "
            f"affects {len(flat)} of {len(used)} embeddings"
        )
    return CohortStatistics(mean, std)


# Statistics of a block of unit vectors x, shape (n, dim): mean and standard deviation, shape (n,) each.
_Statistics = Callable[[np.ndarray], Tuple[np.ndarray, np.ndarray]]


def _whole_cohort(members: np.ndarray) -> _Statistics:
    """Compute statistics over all members m without scores: the mean is x . mean(m), the variance x' cov(m) x."""
    centre = members.mean(axis=0, dtype=np.float64)
    centred = members - centre.astype(np.float32)
    covariance = (centred.T @ centred) / np.float32(len(members))
    centre = centre.astype(np.float32)

    def statistics(vectors: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        variance = np.einsum("ij,ij->i", vectors @ covariance, vectors)
        return vectors @ centre, np.sqrt(np.maximum(variance, 0.0))

    return statistics


def _top_of_cohort(members: np.ndarray, top_n: int) -> _Statistics:
    columns = members.T

    def statistics(vectors: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        scores = vectors @ columns
        scores.partition(len(members) - top_n, axis=1)
        top = scores[:, -top_n:]
        return top.mean(axis=1), top.std(axis=1)

    return statistics
