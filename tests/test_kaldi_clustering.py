"""Agglomerative clustering against a plain priority queue, as Kaldi uses, and against Kaldi's labels."""

import heapq
import math

import kaldiio
import numpy as np
import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.clustering import agglomerative_cluster


class Queue:
    """Kaldi's bookkeeping: costs of pairs of numbered clusters, and a queue of those that may merge."""

    def __init__(self, threshold, max_size, count=0):
        self.threshold, self.max_size, self.count = np.float32(threshold), max_size, count
        self.members, self.costs, self.queue = {}, {}, []

    def add_pair(self, a, b, summed):
        a, b = min(a, b), max(a, b)
        self.costs[a, b] = np.float32(summed)
        mean = np.float32(summed) / np.float32(len(self.members[a]) * len(self.members[b]))
        if mean <= self.threshold:
            heapq.heappush(self.queue, (mean, a, b))

    def cost(self, a, b):
        return self.costs[min(a, b), max(a, b)]

    def run(self, min_clusters):
        while len(self.members) > min_clusters and self.queue:
            _, a, b = heapq.heappop(self.queue)
            if a not in self.members or b not in self.members:
                continue
            if len(self.members[a]) + len(self.members[b]) > self.max_size:
                continue
            others = [c for c in sorted(self.members) if c not in (a, b)]
            self.count += 1
            self.members[self.count] = self.members[a] + self.members[b]
            for other in others:
                self.add_pair(other, self.count, self.cost(other, a) + self.cost(other, b))
            del self.members[a], self.members[b]


def reference(costs, threshold, min_clusters=1, max_fraction=1.0, first_pass_max=10**9):
    costs = np.asarray(costs, np.float32)
    num = len(costs)
    max_size = math.ceil(num * np.float32(max_fraction))
    size = math.ceil(num / math.ceil(num / first_pass_max))
    passes = []
    for first in range(0, num, size):
        queue = Queue(threshold, max_size, count=num)
        last = min(first + size, num)
        queue.members = {i + 1: [i] for i in range(first, last)}
        for i in range(first, last):
            for j in range(i + 1, last):
                queue.add_pair(i + 1, j + 1, costs[i, j])
        queue.run(min_clusters if size >= num else 10 * min_clusters)
        passes.append(queue)
    final = passes[0]
    if len(passes) > 1:
        final = Queue(threshold, max_size)
        for queue in passes:
            before, renumbered = list(final.members), {}
            for cluster in sorted(queue.members):
                final.count += 1
                number = final.count
                final.members[number] = queue.members[cluster]
                for earlier in before:
                    total = np.float32(0)
                    for i in final.members[number]:
                        for j in final.members[earlier]:
                            total = np.float32(total + costs[i, j])
                    final.add_pair(number, earlier, total)
                for old, new in renumbered.items():
                    final.add_pair(number, new, queue.cost(old, cluster))
                renumbered[cluster] = number
        final.run(min_clusters)
    labels = np.zeros(num, int)
    for label, cluster in enumerate(sorted(final.members), 1):
        labels[final.members[cluster]] = label
    return labels


def random_costs(rng, num, ties):
    costs = rng.integers(-3, 4, (num, num)) if ties else rng.normal(size=(num, num))
    return ((costs + costs.T) / 2).astype(np.float32)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_one_pass_equals_the_queue(seed, ties):
    rng = np.random.default_rng(seed)
    costs = random_costs(rng, int(rng.integers(1, 30)), ties)
    threshold = rng.choice([-1.0, -0.2, 0.0, 0.3, 1e9])
    min_clusters = int(rng.integers(1, 4))
    fraction = max(1 / min_clusters, float(rng.choice([0.34, 0.5, 1.0])))
    np.testing.assert_array_equal(
        agglomerative_cluster(costs, threshold, min_clusters, fraction),
        reference(costs, threshold, min_clusters, fraction),
    )


@pytest.mark.parametrize("seed", range(20))
def test_two_passes_equal_the_queues(seed):
    rng = np.random.default_rng(seed)
    costs = rng.normal(size=(60, 60)).astype(np.float32)  # not symmetric: which triangle counts matters
    threshold = rng.choice([-0.3, 0.0, 1e9])
    first_pass_max = int(rng.integers(11, 59))
    ours = agglomerative_cluster(costs, threshold, 1, 1.0, first_pass_max)
    np.testing.assert_array_equal(ours, reference(costs, threshold, 1, 1.0, first_pass_max))


def test_clear_clusters_are_found_in_any_order():
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat(np.arange(5), 20))
    points = rng.normal(size=(5, 8))[truth] * 10 + rng.normal(size=(100, 8))
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    labels = agglomerative_cluster(distances, min_clusters=5)
    assert sorted(set(labels)) == [1, 2, 3, 4, 5]
    assert len(set(zip(labels, truth))) == 5


def test_threshold_is_inclusive():
    costs = np.array([[0, 2], [2, 0]])
    assert list(agglomerative_cluster(costs, 2.0)) == [1, 1]
    assert list(agglomerative_cluster(costs, 1.999)) == [1, 2]


def test_no_cluster_exceeds_its_share():
    labels = agglomerative_cluster(np.zeros((10, 10)), min_clusters=3, max_cluster_fraction=0.4)
    assert np.bincount(labels)[1:].max() == 4


def test_an_empty_matrix_has_no_labels():
    assert agglomerative_cluster(np.zeros((0, 0))).tolist() == []


@pytest.mark.parametrize(
    "costs, options, complaint",
    [
        (np.zeros((2, 3)), {}, "2 x 3"),
        (np.full((3, 3), np.nan), {}, "NaN"),
        (np.zeros((3, 3)), {"min_clusters": 0}, "0 clusters"),
        (np.zeros((3, 3)), {"min_clusters": 2, "max_cluster_fraction": 0.3}, r"\b0\.3\b"),
    ],
)
def test_invalid_requests_are_refused(costs, options, complaint):
    with pytest.raises(InputError, match=complaint):
        agglomerative_cluster(costs, **options)


def test_labels_equal_kaldis(golden):
    labels = dict(line.split() for line in (golden / "cluster_labels.txt").read_text().splitlines())
    scores = dict(kaldiio.load_ark(str(golden / "scores_dense.txt")))
    recordings = [line.split() for line in (golden / "reco2utt").read_text().splitlines()]
    assert recordings
    for recording, *utterances in recordings:
        ours = agglomerative_cluster(-scores[recording], 0.0)
        assert [str(label) for label in ours] == [labels[utterance] for utterance in utterances]
