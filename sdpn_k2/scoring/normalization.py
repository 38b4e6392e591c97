"""Score normalisation against a cohort: Z-norm, T-norm, S-norm and adaptive S-norm.

A cohort is a set of embeddings of speakers who are not in the trials: the training embeddings, or the centres of their
clusters where there are no labels. The scores of an embedding against the cohort have a mean and a standard deviation,
and a trial score is seen relative to them:

    z-norm    (s - mean_e) / std_e                    by the enrolment side
    t-norm    (s - mean_t) / std_t                    by the test side
    s-norm    the mean of the two
    as-norm   s-norm with each side's statistics over the N cohort members that score highest against it

With N given, z-norm and t-norm are adaptive too. Standard deviations are those of the population (divided by N).

References:
----------
[Reynolds97]  D. Reynolds, "Comparison of background normalization methods", Eurospeech 1997: Z-norm.
[Auckenthaler00]  R. Auckenthaler et al., "Score normalization", Digital Signal Processing 10, 2000: T-norm.
[Kenny10]     P. Kenny, "Bayesian speaker verification with heavy-tailed priors", Odyssey 2010: S-norm.
[Matejka17]   P. Matějka et al., "Analysis of score normalization", Interspeech 2017: adaptive S-norm ("AS-norm1").
"""

from typing import NamedTuple, Optional

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.scoring.cosine import TrialRows, score_matrix, score_trials, trial_rows
from sdpn_k2.scoring.embeddings import Embeddings, vector_norms
from sdpn_k2.scoring.trial_list import Trials

METHODS = ("z-norm", "t-norm", "s-norm", "as-norm")
BLOCK_CELLS = 1 << 22  # scores against the cohort at a time: 16 MB, so that the selection finds them in the cache
MIN_STD = 1e-6  # of cosines: what lies below is the rounding of equal ones


class CohortStatistics(NamedTuple):
    """Mean and standard deviation of each embedding's scores against a cohort, float32, shape (n,) each."""

    mean: np.ndarray
    std: np.ndarray


def normalized_scores(
    enroll: Embeddings,
    test: Embeddings,
    trials: Optional[Trials],
    cohort: Embeddings,
    method: str = "as-norm",
    top_n: Optional[int] = 300,
) -> np.ndarray:
    """Cosine scores of trials, normalised.

    Args:
        enroll: embeddings of the enrolment ids.
        test: embeddings of the test ids; may be the same object.
        trials: the pairs; None for every enrolment with every test embedding.
        cohort: the cohort's embeddings, treated (centred, whitened) as the others were.
        method: one of ``METHODS``.
        top_n: size of the adaptive cohort; None for the whole one. ``as-norm`` needs it, ``s-norm`` has none.

    Returns:
        shape (len(trials),), or (len(enroll), len(test)) when ``trials`` is None; float32.

    Raises:
        InputError: an unknown method, a cohort smaller than ``top_n``, and all that ``score_trials`` raises.
    """
    if method not in METHODS:
        raise InputError(f"unknown normalisation {method!r}: choose one of {', '.join(METHODS)}")
    if method == "as-norm" and top_n is None:
        raise InputError("as-norm needs the number of cohort members to use (top-n)")
    if method == "s-norm":
        top_n = None
    if trials is None:
        scores, rows = score_matrix(enroll, test), TrialRows(np.arange(len(enroll))[:, None], np.arange(len(test)))
    else:
        scores, rows = score_trials(enroll, test, trials), trial_rows(enroll, test, trials)
    by_enroll, by_test = method != "t-norm", method != "z-norm"
    if enroll is test:
        used = [np.unique(rows.enroll)] * by_enroll + [np.unique(rows.test)] * by_test
        statistics = cohort_statistics(enroll, cohort, top_n, np.unique(np.concatenate(used)))
        sides = [statistics] * 2
    else:
        sides = [
            cohort_statistics(side, cohort, top_n, np.unique(used)) if wanted else None
            for side, used, wanted in ((enroll, rows.enroll, by_enroll), (test, rows.test, by_test))
        ]
    normalized = [
        (scores - side.mean[used]) / side.std[used]
        for side, used, wanted in zip(sides, rows, (by_enroll, by_test))
        if wanted
    ]
    return sum(normalized) / np.float32(len(normalized))


def cohort_statistics(
    embeddings: Embeddings, cohort: Embeddings, top_n: Optional[int] = None, used: Optional[np.ndarray] = None
) -> CohortStatistics:
    """Mean and standard deviation of the cosine scores of embeddings against a cohort.

    Args:
        embeddings: n embeddings.
        cohort: m embeddings of the same dimension.
        top_n: only the ``top_n`` highest scores of each embedding count; None for all of them.
        used: the rows wanted; the other rows of the result are NaN. All by default.

    Raises:
        InputError: dimensions differ, fewer than two cohort members, a cohort smaller than ``top_n``, a ``top_n`` below
            two, zero norms, or scores against the cohort that are all equal.
    """
    if cohort.dim != embeddings.dim:
        raise InputError(
            f"the cohort ({cohort.source}) has {cohort.dim} dimensions, the embeddings "
            f"({embeddings.source}) have {embeddings.dim}"
        )
    if top_n is not None and top_n < 2:
        raise InputError(f"top-n must be 2 or more, is {top_n}")
    if len(cohort) < (top_n or 2):
        raise InputError(
            f"the cohort ({cohort.source}) has {len(cohort)} embeddings, fewer than the {top_n or 2} "
            "asked for: give a larger cohort or a smaller top-n"
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
            f"all scores of {embeddings.ids[used[flat[0]]]} against the cohort ({cohort.source}) are "
            f"equal; so they are for {len(flat)} of {len(used)} embeddings"
        )
    return CohortStatistics(mean, std)


def _whole_cohort(members: np.ndarray):
    """Statistics over all members m need no scores: the mean is x . mean(m), the variance x' cov(m) x."""
    centre = members.mean(axis=0, dtype=np.float64)
    centred = members - centre.astype(np.float32)
    covariance = (centred.T @ centred) / np.float32(len(members))
    centre = centre.astype(np.float32)

    def statistics(vectors: np.ndarray):
        variance = np.einsum("ij,ij->i", vectors @ covariance, vectors)
        return vectors @ centre, np.sqrt(np.maximum(variance, 0.0))

    return statistics


def _top_of_cohort(members: np.ndarray, top_n: int):
    columns = members.T

    def statistics(vectors: np.ndarray):
        scores = vectors @ columns
        scores.partition(len(members) - top_n, axis=1)
        top = scores[:, -top_n:]
        return top.mean(axis=1), top.std(axis=1)

    return statistics
