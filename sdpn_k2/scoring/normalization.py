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

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.scoring.cosine import TrialRows, distinct_rows, score_matrix, score_trials, trial_rows
from sdpn_k2.scoring.embeddings import Embeddings, vector_norms
from sdpn_k2.scoring.trial_arrays import Trials

METHODS = ("z-norm", "t-norm", "s-norm", "as-norm")
BLOCK_CELLS = 1 << 22  # scores against the cohort per block: 16 MB, which the selection finds in the cache
MIN_STD = 1e-6  # anything smaller is the rounding of equal scores


class CohortStatistics(NamedTuple):
    """Mean and standard deviation of each embedding's scores against a cohort, shape (n,) each; float32 of cosines."""

    mean: np.ndarray
    std: np.ndarray


class Comparison(NamedTuple):
    """Two tables to compare, and the scores of trials between them (None: all pairs)."""

    enroll: Embeddings
    test: Embeddings
    scores: Callable[[Optional[Trials]], np.ndarray]


class Normalizer:
    """Compute normalised scores, of a trial list as a whole or in blocks: of cosines, or see :meth:`of_dot_products`.

    Each embedding is compared with the cohort when a trial first needs it, and once only.

    Args:
        enroll: embeddings of the enrolment ids.
        test: embeddings of the test ids; the same object is allowed.
        cohort: embeddings of the cohort, prepared (centred, whitened) like the others.
        method: one of ``METHODS``.
        top_n: size of the adaptive cohort; None for the whole one. ``as-norm`` requires it, ``s-norm`` ignores it.

    Raises:
        InputError: an unknown method, or an unusable cohort: see :func:`cohort_statistics`.
    """

    def __init__(
        self,
        enroll: Embeddings,
        test: Embeddings,
        cohort: Embeddings,
        method: str = "as-norm",
        top_n: Optional[int] = 300,
    ) -> None:
        def cosines(trials: Optional[Trials]) -> np.ndarray:
            return score_matrix(enroll, test) if trials is None else score_trials(enroll, test, trials)

        prepared = _Cohort(cohort, _check_method(method, top_n))
        of_enroll = _Side(enroll, prepared)
        of_test = of_enroll if enroll is test else _Side(test, prepared)
        self._use(Comparison(enroll, test, cosines), of_enroll, of_test, method)

    @classmethod
    def of_dot_products(
        cls,
        trials: Comparison,
        with_cohort: Tuple[Embeddings, Embeddings],
        cohort_with: Tuple[Embeddings, Embeddings],
        method: str = "as-norm",
        top_n: Optional[int] = 300,
    ) -> Normalizer:
        """Normalise scores that are dot products of rows, such as those of a PLDA.

        Args:
            trials: how the trials are scored.
            with_cohort: rows of the enrolment ids, and of the cohort as test side.
            cohort_with: rows of the cohort as enrolments, and of the test ids.
            method: one of ``METHODS``.
            top_n: as above.

        Raises:
            InputError: as above.
        """
        size = _check_method(method, top_n)
        normalizer = cls.__new__(cls)
        of_enroll = _Side(with_cohort[0], _Cohort(with_cohort[1], size, unit=False))
        of_test = _Side(cohort_with[1], _Cohort(cohort_with[0], size, unit=False))
        normalizer._use(trials, of_enroll, of_test, method)
        return normalizer

    def _use(self, trials: Comparison, of_enroll: _Side, of_test: _Side, method: str) -> None:
        self.comparison = trials
        self._sides = None if method == "t-norm" else of_enroll, None if method == "z-norm" else of_test

    def scores(self, trials: Optional[Trials]) -> np.ndarray:
        """Return the scores of trials, shape (len(trials),), or of all pairs, shape (len(enroll), len(test)).

        Raises:
            InputError: all that ``score_trials`` and :func:`cohort_statistics` raise.
        """
        enroll, test = self.comparison.enroll, self.comparison.test
        scores = self.comparison.scores(trials)
        if trials is None:
            rows = TrialRows(np.arange(len(enroll))[:, None], np.arange(len(test)))
        else:
            rows = trial_rows(enroll, test, trials)
        sides = [(side, used) for side, used in zip(self._sides, rows) if side is not None]
        normalized: np.ndarray = np.zeros_like(scores)
        for side, used in sides:
            mean, std = side.statistics(distinct_rows(used, len(side.mean)))
            normalized += (scores - mean[used]) / std[used]
        normalized /= np.float32(len(sides))
        return normalized


def normalized_scores(
    enroll: Embeddings,
    test: Embeddings,
    trials: Optional[Trials],
    cohort: Embeddings,
    *,
    method: str = "as-norm",
    top_n: Optional[int] = 300,
) -> np.ndarray:
    """Return normalised cosine scores of trials, or of every enrolment with every test embedding (None).

    See :class:`Normalizer` for the other arguments, the shapes and the errors; the scores are float32.
    """
    return Normalizer(enroll, test, cohort, method, top_n).scores(trials)


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
    return _Side(embeddings, _Cohort(cohort, top_n)).statistics(np.arange(len(embeddings)) if used is None else used)


def _check_method(method: str, top_n: Optional[int]) -> Optional[int]:
    """Return the size of the adaptive cohort, None for the whole one; raise InputError for an unknown method."""
    if method not in METHODS:
        raise InputError(f"{method!r} is not a valid normalisation (use one of {', '.join(METHODS)})")
    if method == "as-norm" and top_n is None:
        raise InputError("as-norm requires a top-n, the number of cohort members to use")
    return None if method == "s-norm" else top_n


class _Cohort:
    """A cohort, ready to be scored against: by cosine (``unit``), or by dot products of its rows."""

    def __init__(self, cohort: Embeddings, top_n: Optional[int], unit: bool = True) -> None:
        if top_n is not None and top_n < 2:
            raise InputError(f"top-n must be at least 2, not {top_n}")
        if len(cohort) < (top_n or 2):
            raise InputError(
                f"the cohort ({cohort.source}) has {len(cohort)} embeddings, but at least {top_n or 2} are needed: use "
                "a larger cohort or a smaller top-n"
            )
        self.dim, self.source, self.unit = cohort.dim, cohort.source, unit
        members = cohort.vectors / vector_norms(cohort)[:, None] if unit else cohort.vectors
        if top_n is None or top_n == len(cohort):
            self.statistics, self.block = _whole_cohort(members), 1 << 14
        else:
            self.statistics, self.block = _top_of_cohort(members, top_n), max(1, BLOCK_CELLS // len(cohort))


class _Side:
    """The statistics of the embeddings on one side of the trials, NaN where no trial has needed them yet."""

    def __init__(self, embeddings: Embeddings, cohort: _Cohort) -> None:
        if cohort.dim != embeddings.dim:
            raise InputError(
                f"the cohort ({cohort.source}) has {cohort.dim} dimensions, but the embeddings ({embeddings.source}) "
                f"have {embeddings.dim}"
            )
        self._embeddings, self._cohort = embeddings, cohort
        self.mean, self.std = np.full((2, len(embeddings)), np.nan, np.float32 if cohort.unit else np.float64)

    def statistics(self, used: np.ndarray) -> CohortStatistics:
        """Compute the rows ``used`` that are not known yet; return all that is known."""
        new = used[np.isnan(self.std[used])]
        if not len(new):
            return CohortStatistics(self.mean, self.std)
        embeddings, cohort = self._embeddings, self._cohort
        norms = vector_norms(embeddings, new) if cohort.unit else None
        for start in range(0, len(new), cohort.block):
            rows = new[start : start + cohort.block]
            vectors = embeddings.vectors[rows] if norms is None else embeddings.vectors[rows] / norms[rows, None]
            self.mean[rows], self.std[rows] = cohort.statistics(vectors)
        flat = np.flatnonzero(~(self.std[new] > MIN_STD))
        if len(flat):
            raise InputError(
                f"all scores of {embeddings.ids[new[flat[0]]]} against the cohort ({cohort.source}) are equal; this "
                f"affects {len(flat)} of {len(new)} embeddings"
            )
        return CohortStatistics(self.mean, self.std)


# Statistics of a block of unit vectors x, shape (n, dim): mean and standard deviation, shape (n,) each.
_Statistics = Callable[[np.ndarray], Tuple[np.ndarray, np.ndarray]]


def _whole_cohort(members: np.ndarray) -> _Statistics:
    """Compute statistics over all members m without scores: the mean is x . mean(m), the variance x' cov(m) x."""
    centre = members.mean(axis=0, dtype=np.float64)
    centre = centre.astype(members.dtype)
    centred = members - centre
    covariance = (centred.T @ centred) / members.dtype.type(len(members))

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
