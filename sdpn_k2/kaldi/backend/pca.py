"""Principal component analysis as Kaldi's est-pca estimates it."""

from __future__ import annotations

import numpy as np

#: Floor for the variances that --normalize-variance divides by (est-pca's constant).
MIN_VARIANCE = 1.0e-15


def principal_components(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(variances, directions)`` of a covariance ``(dim, dim)``: largest variance first, directions as rows."""
    variances, directions = np.linalg.eigh(covariance)
    order = np.argsort(-variances, kind="stable")
    return variances[order], directions[:, order].T


def pca_transform(
    mean: np.ndarray, covariance: np.ndarray, normalize_variance: bool = False, normalize_mean: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the full PCA matrix; its first ``k`` rows reduce to ``k`` dimensions.

    Args:
        mean: mean of the data, ``(dim,)``.
        covariance: centred covariance of the data, ``(dim, dim)``.
        normalize_variance: scale each row to an output variance of one.
        normalize_mean: append the offset column that maps the mean to zero.

    Returns:
        ``(transform, variances)``: ``(dim, dim)`` or ``(dim, dim + 1)`` float64, and ``(dim,)``.
    """
    variances, transform = principal_components(covariance)
    if normalize_variance:
        transform = transform / np.sqrt(np.maximum(variances, MIN_VARIANCE))[:, None]
    if normalize_mean:
        transform = np.column_stack([transform, -transform @ mean])
    return transform, variances
