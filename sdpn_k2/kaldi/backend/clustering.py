"""Agglomerative hierarchical clustering with average linkage, as in Kaldi's agglomerative-cluster.

The cost of merging two clusters is the mean cost over their pairs of points. The pair with the lowest cost is merged
repeatedly, until every cost exceeds the threshold or a given number of clusters is reached. As in Kaldi, sums and means
are computed in single precision, and ties are broken by the numbers of the clusters.
"""

from __future__ import annotations

import math
from typing import List, NamedTuple

import numpy as np

from sdpn_k2.errors import InputError

#: Kaldi's default for --first-pass-max-utterances.
FIRST_PASS_MAX_POINTS = 32767


class _Clusters(NamedTuple):
    """Clusters in ascending order of their numbers."""

    members: List[List[int]]  # points of each cluster
    sums: np.ndarray  # (n, n) float32, summed costs of the pairs of points of two clusters


def agglomerative_cluster(
    costs: np.ndarray,
    threshold: float = math.inf,
    min_clusters: int = 1,
    max_cluster_fraction: float = 1.0,
    first_pass_max_points: int = FIRST_PASS_MAX_POINTS,
) -> np.ndarray:
    """Cluster points by their pairwise costs.

    Args:
        costs: ``(n, n)``. Only the upper triangle is used, except between subsets of the first pass.
        threshold: highest cost at which clusters are merged.
        min_clusters: number of clusters at which merging stops.
        max_cluster_fraction: largest share of all points in one cluster, rounded up to whole points.
        first_pass_max_points: if there are more points, contiguous subsets of at most this size are clustered first,
            down to ``10 * min_clusters`` clusters each. A second pass merges these clusters.

    Returns:
        ``(n,)`` int32 labels from 1, in the order in which the clusters were completed.

    Raises:
        InputError: the costs are not a square matrix or contain NaN, or the limits contradict each other.
    """
    costs = np.asarray(costs, np.float32)
    if costs.ndim != 2 or costs.shape[0] != costs.shape[1]:
        raise InputError(f"clustering needs a square matrix of scores, got {' x '.join(map(str, costs.shape))}")
    if np.isnan(costs).any():
        raise InputError("clustering: the scores contain NaN")
    if min_clusters < 1 or first_pass_max_points < 1 or max_cluster_fraction < 1.0 / min_clusters:
        raise InputError(
            f"cannot cluster into {min_clusters} clusters with at most {max_cluster_fraction:g} of all points each "
            f"and {first_pass_max_points} points in the first pass"
        )
    num = len(costs)
    labels = np.zeros(num, np.int32)
    if not num:
        return labels
    limit = np.float32(threshold)
    max_size = math.ceil(num * np.float32(max_cluster_fraction))
    if num <= first_pass_max_points:
        clusters = _merge(_singletons(costs, 0, num), limit, min_clusters, max_size)
    else:
        num_subsets = math.ceil(num / first_pass_max_points)
        subset_size = math.ceil(num / num_subsets)
        subsets = [
            _merge(_singletons(costs, first, min(first + subset_size, num)), limit, 10 * min_clusters, max_size)
            for first in range(0, num, subset_size)
        ]
        clusters = _merge(_join(subsets, costs), limit, min_clusters, max_size)
    for label, members in enumerate(clusters.members, 1):
        labels[members] = label
    return labels


def _singletons(costs: np.ndarray, first: int, last: int) -> _Clusters:
    upper = np.triu(costs[first:last, first:last], 1)
    return _Clusters([[point] for point in range(first, last)], upper + upper.T)


def _join(subsets: List[_Clusters], costs: np.ndarray) -> _Clusters:
    """Join the clusters of all subsets, and fill in the summed costs between clusters of different subsets."""
    members = [cluster for subset in subsets for cluster in subset.members]
    sums = np.zeros((len(members), len(members)), np.float32)
    start = 0
    for subset in subsets:
        stop = start + len(subset.members)
        sums[start:stop, start:stop] = subset.sums
        for later in range(start, stop):
            for earlier in range(start):
                # cumsum adds one by one, as Kaldi does; sum adds pairwise and rounds differently.
                total = costs[np.ix_(members[later], members[earlier])].ravel().cumsum(dtype=np.float32)[-1]
                sums[later, earlier] = sums[earlier, later] = total
        start = stop
    return _Clusters(members, sums)


def _merge(clusters: _Clusters, threshold: np.float32, min_clusters: int, max_size: int) -> _Clusters:
    """Merge clusters until the threshold or ``min_clusters`` is reached.

    Each slot of the matrices holds one cluster. A merged cluster uses the slot of its first part and gets a new, higher
    number. The lowest cost of each slot is cached, so the time of a merge is proportional to the number of clusters.
    """
    members, sums = list(clusters.members), clusters.sums.copy()
    num = len(members)
    sizes = np.array([len(points) for points in members], np.int64)
    numbers = np.arange(num)
    active = np.ones(num, bool)

    def mean_costs(slots: np.ndarray) -> np.ndarray:
        """Return costs ``(len(slots), num)``, infinite where two clusters must not be merged."""
        norms = sizes[slots, None] * sizes
        means: np.ndarray = sums[slots] / np.where(norms, norms, 1).astype(np.float32)
        allowed = active & (sizes[slots, None] + sizes <= max_size) & (means <= threshold)
        allowed[np.arange(len(slots)), slots] = False
        means[~allowed] = np.inf
        return means

    means = np.concatenate([mean_costs(np.arange(i, min(i + 256, num))) for i in range(0, num, 256)])
    nearest = means.argmin(axis=1)
    least = means[np.arange(num), nearest]
    remaining = num
    while remaining > min_clusters:
        cost = least.min()
        if cost == np.inf:
            break
        # Among equal costs Kaldi chooses the pair with the lowest numbers, comparing the lower of the two first.
        rows, columns = np.nonzero(means[least == cost] == cost)
        rows = np.flatnonzero(least == cost)[rows]
        low, high = np.minimum(numbers[rows], numbers[columns]), np.maximum(numbers[rows], numbers[columns])
        pair = np.lexsort((high, low))[0]
        kept, dropped = sorted((int(rows[pair]), int(columns[pair])), key=lambda slot: numbers[slot])

        members[kept] = members[kept] + members[dropped]
        sizes[kept] += sizes[dropped]
        numbers[kept] = num + (num - remaining)
        active[dropped], least[dropped], remaining = False, np.inf, remaining - 1
        sums[kept] += sums[dropped]
        sums[:, kept] = sums[kept]
        means[dropped], means[:, dropped] = np.inf, np.inf
        means[kept] = mean_costs(np.array([kept]))[0]
        means[:, kept] = means[kept]

        # Slots whose nearest was one of the two search again. For the others, only the new cluster can be nearer.
        nearer = means[kept] < least
        nearest[nearer], least[nearer] = kept, means[kept, nearer]
        stale = np.flatnonzero(active & ((nearest == kept) | (nearest == dropped)) & ~nearer)
        stale = np.union1d(stale, kept)
        nearest[stale] = means[stale].argmin(axis=1)
        least[stale] = means[stale, nearest[stale]]

    order = np.flatnonzero(active)
    order = order[np.argsort(numbers[order])]
    return _Clusters([members[slot] for slot in order], sums[np.ix_(order, order)])
