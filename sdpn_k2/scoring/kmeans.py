"""Spherical k-means: clusters of embeddings by cosine, for a cohort or for PLDA where there are no labels."""

from typing import NamedTuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.scoring.embeddings import Embeddings, vector_norms

BLOCK_CELLS = 1 << 23


class Clusters(NamedTuple):
    """Clusters of n embeddings.

    Attributes:
        centres: shape (k, dim), float32, unit length.
        labels: the cluster of each embedding, int64, shape (n,); every cluster has members.
    """

    centres: np.ndarray
    labels: np.ndarray


def spherical_kmeans(embeddings: Embeddings, n_clusters: int, seed: int = 0, max_iterations: int = 50) -> Clusters:
    """Clusters embeddings by cosine (I. Dhillon and D. Modha, Machine Learning 42, 2001).

    Starts from randomly chosen embeddings, ends when no embedding changes its cluster or after ``max_iterations``. A
    cluster that loses all members starts again from the embedding that fits its own centre worst.

    Args:
        embeddings: n embeddings; only their directions count.
        n_clusters: the number of clusters, at least 1 and at most n.
        seed: of the random start. The same seed gives the same clusters.
        max_iterations: upper limit.

    Raises:
        InputError: more clusters than embeddings, or an embedding of zero norm.
    """
    if not 1 <= n_clusters <= len(embeddings):
        raise InputError(f"{embeddings.source}: cannot make {n_clusters} clusters of {len(embeddings)} embeddings")
    points = embeddings.vectors / vector_norms(embeddings)[:, None]
    rng = np.random.default_rng(seed)
    centres = points[rng.choice(len(points), n_clusters, replace=False)]
    labels = np.full(len(points), -1)
    for _ in range(max_iterations):
        nearest, similarity = _assign(points, centres)
        _fill_empty(nearest, similarity, n_clusters)
        if (nearest == labels).all():
            break
        labels = nearest
        centres = _mean_directions(points, labels, n_clusters, centres)
    return Clusters(centres, labels)


def _assign(points: np.ndarray, centres: np.ndarray):
    """The centre with the largest cosine for every point, and that cosine."""
    nearest = np.empty(len(points), np.int64)
    similarity = np.empty(len(points), np.float32)
    block = max(1, BLOCK_CELLS // len(centres))
    for start in range(0, len(points), block):
        scores = points[start : start + block] @ centres.T
        best = scores.argmax(axis=1)
        nearest[start : start + block] = best
        similarity[start : start + block] = scores[np.arange(len(scores)), best]
    return nearest, similarity


def _fill_empty(nearest: np.ndarray, similarity: np.ndarray, n_clusters: int) -> None:
    """Moves the worst-fitting point of a cluster with several members into each empty cluster, in place."""
    counts = np.bincount(nearest, minlength=n_clusters)
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return
    worst = iter(np.argsort(similarity, kind="stable"))
    for cluster in empty:
        point = next(point for point in worst if counts[nearest[point]] > 1)
        counts[nearest[point]] -= 1
        nearest[point] = cluster


def _mean_directions(points: np.ndarray, labels: np.ndarray, n_clusters: int, previous: np.ndarray) -> np.ndarray:
    from scipy.sparse import csr_matrix

    ones = np.ones(len(points), np.float32)
    sums = csr_matrix((ones, (labels, np.arange(len(points)))), shape=(n_clusters, len(points))) @ points
    norms = np.linalg.norm(sums, axis=1)
    # Members that cancel out leave no direction: such a centre stays where it was.
    centres = np.where(norms[:, None] > 1e-6, sums, previous)
    return centres / np.linalg.norm(centres, axis=1)[:, None]
