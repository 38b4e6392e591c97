"""Spherical k-means: clusters of embeddings by cosine, for a cohort, or for LDA and PLDA without speaker labels."""

from typing import Dict, NamedTuple, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.scoring.embeddings import Embeddings, subtract_mean, vector_norms

BLOCK_CELLS = 1 << 23  # similarities per block
UTTERANCES_PER_CLUSTER = 8
MAX_CLUSTERS = 7500


class Clusters(NamedTuple):
    """Clusters of n embeddings.

    Attributes:
        centres: shape (k, dim), float32, unit length.
        labels: cluster of each embedding, int64, shape (n,); no cluster is empty.
    """

    centres: np.ndarray
    labels: np.ndarray


def pseudo_speakers(embeddings: Embeddings, n_clusters: Optional[int] = None, seed: int = 0) -> Dict[str, str]:
    """Cluster training embeddings, centred by their mean, and return the cluster of each id as its speaker.

    Args:
        embeddings: embeddings of the training set.
        n_clusters: number of clusters; by default one for every ``UTTERANCES_PER_CLUSTER`` embeddings, at least 2 and
            at most ``MAX_CLUSTERS``.
        seed: random seed of the start.

    Raises:
        InputError: as :func:`spherical_kmeans`.
    """
    if n_clusters is None:
        n_clusters = min(MAX_CLUSTERS, max(2, len(embeddings) // UTTERANCES_PER_CLUSTER))
    centred = subtract_mean(embeddings, embeddings.vectors.mean(axis=0))
    labels = spherical_kmeans(centred, n_clusters, seed).labels
    return {name: f"cluster{label:05d}" for name, label in zip(embeddings.ids, labels)}


def spherical_kmeans(embeddings: Embeddings, n_clusters: int, seed: int = 0, max_iterations: int = 50) -> Clusters:
    """Cluster embeddings by cosine (I. Dhillon and D. Modha, Machine Learning 42, 2001).

    Start from randomly chosen embeddings, and stop when no embedding changes its cluster or after ``max_iterations``. A
    cluster that loses all members restarts from the embedding that fits its own centre worst.

    Args:
        embeddings: n embeddings; only their directions count.
        n_clusters: the number of clusters, at least 1 and at most n.
        seed: random seed of the start.
        max_iterations: upper limit.

    Raises:
        InputError: no clusters, more clusters than embeddings, or an embedding of zero norm.
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


def _assign(points: np.ndarray, centres: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return the nearest centre of every point, and the cosine with it."""
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
    """Move the worst-fitting point of a cluster with several members into each empty cluster, in place."""
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
    # Members that cancel out have no direction: such a centre stays where it was.
    centres: np.ndarray = np.where(norms[:, None] > 1e-6, sums, previous)
    centres /= np.linalg.norm(centres, axis=1)[:, None]
    return centres
