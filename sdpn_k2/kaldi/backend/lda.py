"""Linear discriminant analysis as Kaldi's ivector-compute-lda estimates it, and the statistics it shares with PLDA.

With the vectors ``x``, ``m_k`` the mean of the ``n_k`` vectors of speaker ``k`` and ``m`` the mean of all ``N``:

    total   = 1/N sum_x (x - m)(x - m)'
    between = 1/N sum_k n_k (m_k - m)(m_k - m)'
    within  = total - between

The affine transform maps ``f * total + (1 - f) * within`` (f: the total covariance factor) to the identity,
``between`` to a diagonal matrix, and ``m`` to zero.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.vectors import SpeakerSums


class SpeakerStats(SpeakerSums):
    """Collect in one pass the sums that LDA and PLDA need.

    Attributes:
        second_moment: ``(dim, dim)`` float64, sum of the outer products of all vectors with themselves.
    """

    def __init__(self, dim: int, num_speakers: int):
        super().__init__(dim, num_speakers)
        self.second_moment = np.zeros((dim, dim))

    def add(self, vectors: np.ndarray, speakers: Sequence[int]) -> None:
        """Add ``vectors`` ``(n, dim)``; ``speakers`` ``(n,)`` holds the number of each one's speaker."""
        vectors = np.asarray(vectors, np.float64)
        super().add(vectors, speakers)
        self.second_moment += vectors.T @ vectors


class Lda(NamedTuple):
    """An affine transform and facts about its estimation."""

    transform: np.ndarray  # (dim_out, dim_in + 1) float64; the last column is the offset
    eigenvalues: np.ndarray  # (dim_in,) of the between-speaker covariance after normalisation, largest first
    num_floored: int  # eigenvalues of the normalised covariance that were raised to the floor


def compute_lda(
    stats: SpeakerStats, dim: int, total_covariance_factor: float = 0.0, covariance_floor: float = 1.0e-6
) -> Lda:
    """Estimate the affine LDA transform to ``dim`` dimensions.

    Args:
        stats: statistics of the training vectors.
        dim: dimension to keep, at most that of the vectors.
        total_covariance_factor: 0 normalises the within-speaker covariance, 1 the total covariance, and values in
            between a mixture of both.
        covariance_floor: floor for the eigenvalues of that covariance, relative to the largest.

    Raises:
        InputError: there are fewer vectors than dimensions, no speaker has two vectors, ``dim`` is out of range, or the
            covariance is singular.
    """
    num = stats.num_vectors
    if not 0 < dim <= stats.dim:
        raise InputError(f"LDA cannot reduce {stats.dim} dimensions to {dim}: use --dim=1 to {stats.dim}")
    if num < stats.dim:
        raise InputError(
            f"LDA needs at least as many vectors as dimensions, got {num} vectors of {stats.dim} dimensions"
        )
    means, counts = stats.means()
    if num == len(counts):
        raise InputError(f"LDA needs a speaker with at least two vectors, got {num} vectors of {num} speakers")

    mean = stats.sums.sum(axis=0) / num
    total = stats.second_moment / num - np.outer(mean, mean)
    centred = means - mean
    between = (centred * counts[:, None]).T @ centred / num
    mixed = total - (1.0 - total_covariance_factor) * between

    variances, directions = np.linalg.eigh(mixed)
    floor = covariance_floor * variances.max()
    num_floored = int((variances < floor).sum())
    variances = np.maximum(variances, floor)
    if variances.min() <= variances.max() * stats.dim * np.finfo(np.float64).eps:
        raise InputError("LDA: the covariance of the vectors is singular; use fewer dimensions or --covariance-floor")
    whiten = directions.T / np.sqrt(variances)[:, None]
    eigenvalues, rotation = np.linalg.eigh(whiten @ between @ whiten.T)
    eigenvalues, rotation = eigenvalues[::-1], rotation[:, ::-1]
    linear = rotation[:, :dim].T @ whiten
    return Lda(np.column_stack([linear, -linear @ mean]), eigenvalues, num_floored)
