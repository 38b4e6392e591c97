"""Score normalisation and k-means against plain float64 loops."""

import numpy as np
import pytest
import torch
from operation_count import count_calls
from sklearn.metrics import adjusted_mutual_info_score

from sdpn_k2.errors import InputError
from sdpn_k2.scoring import cosine, kmeans, normalization
from sdpn_k2.scoring.embeddings import Embeddings
from sdpn_k2.scoring.kmeans import pseudo_speakers, spherical_kmeans
from sdpn_k2.scoring.normalization import METHODS, Normalizer, cohort_statistics, normalized_scores
from sdpn_k2.scoring.trial_arrays import Trials


def make(n, dim=16, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32) + 0.3
    return Embeddings([f"u{i}" for i in range(n)], vectors, "u.scp")


def unit(embeddings):
    vectors = embeddings.vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1)[:, None]


def expected(enroll, test, cohort, method, top_n):
    """The definition, one pair at a time."""
    e, t, c = unit(enroll), unit(test), unit(cohort)
    scores = np.empty((len(e), len(t)))
    for i in range(len(e)):
        for j in range(len(t)):
            sides = []
            for wanted, vector in ((method != "t-norm", e[i]), (method != "z-norm", t[j])):
                against = np.sort(c @ vector)[-top_n:] if top_n else c @ vector
                if wanted:
                    sides.append((e[i] @ t[j] - against.mean()) / against.std())
            scores[i, j] = np.mean(sides)
    return scores.ravel()


@pytest.mark.parametrize(
    "method, top_n",
    [
        ("z-norm", None),
        ("z-norm", 7),
        ("t-norm", None),
        ("t-norm", 7),
        ("s-norm", None),
        ("as-norm", 2),
        ("as-norm", 7),
        ("as-norm", 40),
    ],
)
def test_normalised_scores_follow_the_definition(method, top_n, monkeypatch):
    monkeypatch.setattr(normalization, "BLOCK_CELLS", 150)  # several blocks
    enroll, test, cohort = make(6), make(9, seed=1), make(40, seed=2)
    scores = normalized_scores(enroll, test, cosine.all_pairs(enroll, test), cohort, method=method, top_n=top_n)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected(enroll, test, cohort, method, top_n), rtol=2e-4, atol=2e-4)
    matrix = normalized_scores(enroll, test, None, cohort, method=method, top_n=top_n)
    assert matrix.shape == (6, 9) and matrix.dtype == np.float32
    np.testing.assert_allclose(matrix.ravel(), scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_table_can_serve_both_sides(method):
    embeddings, cohort = make(8), make(40, seed=2)
    pairs = cosine.all_pairs(embeddings, embeddings)
    once = normalized_scores(embeddings, embeddings, pairs, cohort, method=method, top_n=10)
    again = normalized_scores(embeddings, make(8), pairs, cohort, method=method, top_n=10)
    np.testing.assert_allclose(once, again, rtol=1e-5, atol=1e-5)
    matrix = normalized_scores(embeddings, embeddings, None, cohort, method=method, top_n=10)
    np.testing.assert_allclose(matrix.ravel(), once, rtol=1e-5, atol=1e-5)


def test_whole_cohort_statistics_need_no_scores():
    embeddings, cohort = make(20), make(300, seed=3)
    scores = unit(embeddings) @ unit(cohort).T
    statistics = cohort_statistics(embeddings, cohort)
    np.testing.assert_allclose(statistics.mean, scores.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(statistics.std, scores.std(axis=1), rtol=1e-5)


def test_rows_that_are_not_used_may_be_unusable():
    embeddings = make(4)
    embeddings.vectors[2] = 0.0
    statistics = cohort_statistics(embeddings, make(10, seed=1), 3, np.array([0, 3]))
    assert np.isfinite(statistics.mean[[0, 3]]).all() and np.isnan(statistics.mean[[1, 2]]).all()
    with pytest.raises(InputError, match="u2 .*zero norm"):
        cohort_statistics(embeddings, make(10, seed=1), 3)


@pytest.mark.parametrize(
    "cohort, method, top_n, message",
    [
        (make(9), "as-norm", 10, r"u.scp.* 9 .* 10 "),
        (make(1), "s-norm", None, r"u.scp.* 1 .* 2 "),
        (make(9), "as-norm", 1, "top-n .*2.* 1"),
        (make(9), "as-norm", None, "as-norm .*top-n"),
        (make(9), "b-norm", 3, "'b-norm' .*z-norm, t-norm, s-norm, as-norm"),
        (make(9, dim=5), "as-norm", 3, " 5 dimensions.* 16"),
        (
            Embeddings(["a", "b"], np.tile(make(1).vectors, (2, 1)), "same"),
            "as-norm",
            2,
            "same.*equal.* 3 of 3",
        ),
    ],
)
def test_unusable_cohorts_are_refused(cohort, method, top_n, message):
    embeddings = make(3, seed=5)
    with pytest.raises(InputError, match=message):
        normalized_scores(
            embeddings, embeddings, cosine.all_pairs(embeddings, embeddings), cohort, method=method, top_n=top_n
        )


@pytest.mark.parametrize("top_n", [None, 5])
@pytest.mark.parametrize("seed", range(3))
def test_a_cohort_of_one_member_repeated_is_refused(top_n, seed):
    """Rounding makes the scores differ a little."""
    cohort = Embeddings([str(i) for i in range(8)], np.tile(make(1, 512, seed).vectors, (8, 1)), "same")
    with pytest.raises(InputError, match=r"same.*equal.* 50 of 50"):
        cohort_statistics(make(50, 512, seed + 10), cohort, top_n)


@pytest.mark.parametrize("method", METHODS)
def test_blocks_of_trials_meet_the_cohort_once(method, monkeypatch):
    enroll, test, cohort = make(6), make(9, seed=1), make(40, seed=2)
    whole = cosine.all_pairs(enroll, test)
    compared = []
    prepare = normalization._top_of_cohort if method != "s-norm" else normalization._whole_cohort

    def counted(*arguments):
        statistics = prepare(*arguments)

        def record(vectors):
            compared.append(len(vectors))
            return statistics(vectors)

        return record

    monkeypatch.setattr(normalization, prepare.__name__, counted)
    normalizer = Normalizer(enroll, test, cohort, method, 7)
    blocks = [
        Trials(whole.enroll_ids, whole.test_ids, whole.enroll[start : start + 10], whole.test[start : start + 10])
        for start in range(0, len(whole), 10)
    ]
    scores = np.concatenate([normalizer.scores(block) for block in blocks])
    assert sum(compared) == {"z-norm": 6, "t-norm": 9}.get(method, 15)
    expected = normalized_scores(enroll, test, whole, cohort, method=method, top_n=7)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def blobs(n_blobs=12, members=15, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((dim, dim)))[0][:n_blobs]
    vectors = np.repeat(centres, members, axis=0) + 0.05 * rng.standard_normal((n_blobs * members, dim))
    vectors *= rng.uniform(0.1, 10.0, (len(vectors), 1))  # lengths must not matter
    ids = [f"u{i}" for i in range(len(vectors))]
    return Embeddings(ids, vectors.astype(np.float32)), np.repeat(np.arange(n_blobs), members)


def test_kmeans_ends_where_both_steps_agree(monkeypatch):
    monkeypatch.setattr(kmeans, "BLOCK_CELLS", 100)
    embeddings, _ = blobs()
    centres, labels = spherical_kmeans(embeddings, 12, seed=3)
    points = unit(embeddings)
    assert (labels == (points @ centres.T.astype(np.float64)).argmax(axis=1)).all()
    for k, centre in enumerate(centres):
        mean = points[labels == k].mean(axis=0)
        np.testing.assert_allclose(centre, mean / np.linalg.norm(mean), atol=1e-5)


def test_kmeans_finds_clusters_from_a_good_start():
    """With as many starts as it takes, one of them separates the blobs."""
    embeddings, truth = blobs(n_blobs=4)
    found = [spherical_kmeans(embeddings, 4, seed).labels for seed in range(10)]
    assert any(len(set(zip(labels, truth))) == 4 for labels in found)


def test_kmeans_is_reproducible_and_leaves_no_cluster_empty():
    embeddings = make(30)
    twins = Embeddings(embeddings.ids * 2, np.tile(embeddings.vectors, (2, 1)))  # many starts on equal points
    for seed in range(5):
        clusters = spherical_kmeans(twins, 45, seed)
        assert len(set(clusters.labels)) == 45
        np.testing.assert_array_equal(clusters.labels, spherical_kmeans(twins, 45, seed).labels)


@pytest.fixture
def large(monkeypatch):
    """Let every number of embeddings be large."""
    monkeypatch.setattr(kmeans, "EXACT_CELLS", 0)
    monkeypatch.setattr(kmeans, "_gpu", lambda: None)
    monkeypatch.setattr(kmeans, "NEARBY", 16)
    monkeypatch.setattr(kmeans, "BLOCK_CELLS", 1000)  # several blocks


def speakers(n, n_speakers, dim=12, seed=0):
    """Overlapping speakers of equal size, and the speaker of each embedding."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % n_speakers
    vectors = rng.standard_normal((n_speakers, dim))[truth] + 0.5 * rng.standard_normal((n, dim))
    return Embeddings([f"u{i}" for i in range(n)], vectors.astype(np.float32)), truth


def test_kmeans_of_many_embeddings_is_as_good_as_lloyds(large, monkeypatch):
    embeddings, truth = speakers(4000, 80)
    found = {"large": spherical_kmeans(embeddings, 80, seed=1)}
    monkeypatch.setattr(kmeans, "EXACT_CELLS", 1 << 28)
    found["exact"] = spherical_kmeans(embeddings, 80, seed=1)
    cosine, information = (
        {name: measure(*each) for name, each in found.items()}
        for measure in (
            lambda centres, labels: np.einsum("ij,ij->i", unit(embeddings), centres[labels]).mean(),
            lambda centres, labels: adjusted_mutual_info_score(truth, labels),
        )
    )
    assert cosine["large"] > 0.99 * cosine["exact"]
    assert information["large"] > 0.95 * information["exact"]  # starts differ by some per cent
    assert len(set(found["large"].labels)) == 80


def test_near_centres_that_are_all_centres_give_the_nearest(large, monkeypatch):
    monkeypatch.setattr(kmeans, "NEARBY", 50)
    points = unit(make(300)).astype(np.float32)
    centres, labels = points[:50], np.random.default_rng(0).integers(0, 50, 300)
    nearest, similarity = kmeans._assign_nearby(points, centres, labels)
    np.testing.assert_array_equal(nearest, (points @ centres.T).argmax(axis=1))
    np.testing.assert_allclose(similarity, (points @ centres.T).max(axis=1), atol=1e-6)


def test_only_clusters_near_its_own_are_open_to_an_embedding(large, monkeypatch):
    monkeypatch.setattr(kmeans, "NEARBY", 3)
    points = unit(make(300)).astype(np.float32)
    centres, labels = points[:50], np.random.default_rng(0).integers(0, 50, 300)
    open_to = np.argsort(-(centres @ centres.T), axis=1)[:, :3][labels]
    scores = np.take_along_axis(points @ centres.T, open_to, axis=1)
    nearest, _ = kmeans._assign_nearby(points, centres, labels)
    np.testing.assert_array_equal(nearest, open_to[np.arange(300), scores.argmax(axis=1)])


def test_large_kmeans_leaves_no_cluster_empty(large):
    embeddings = make(30)
    twins = Embeddings(embeddings.ids * 2, np.tile(embeddings.vectors, (2, 1)))
    for n_clusters in (1, 45, 60):
        assert len(set(spherical_kmeans(twins, n_clusters, 3).labels)) == n_clusters


def test_a_device_gives_the_clusters_of_lloyds_algorithm(large, monkeypatch):
    """A device that every machine has stands for the GPU."""
    embeddings, _ = blobs()
    monkeypatch.setattr(kmeans, "_gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(kmeans, "GPU_BLOCK_CELLS", 100)
    on_device = spherical_kmeans(embeddings, 12, seed=3)
    monkeypatch.setattr(kmeans, "EXACT_CELLS", 1 << 28)
    exact = spherical_kmeans(embeddings, 12, seed=3)
    np.testing.assert_array_equal(on_device.labels, exact.labels)
    np.testing.assert_allclose(on_device.centres, exact.centres, atol=1e-5)


def test_large_kmeans_needs_twice_the_operations_for_twice_the_embeddings(large, monkeypatch):
    monkeypatch.setattr(kmeans, "BLOCK_CELLS", 20_000)
    few, many = (count_calls(lambda n=n: pseudo_speakers(speakers(n, 100)[0], 100)) for n in (2000, 4000))
    assert many <= 2.2 * few


@pytest.mark.parametrize("n_clusters", [0, 31])
def test_kmeans_refuses_impossible_numbers(n_clusters):
    with pytest.raises(InputError, match=f"{n_clusters} clusters .*30"):
        spherical_kmeans(make(30), n_clusters)


def test_pseudo_speakers_are_the_clusters_of_centred_embeddings():
    embeddings, truth = blobs(n_blobs=4)
    speakers = pseudo_speakers(embeddings, 4, seed=1)
    centred = Embeddings(embeddings.ids, embeddings.vectors - embeddings.vectors.mean(axis=0))
    labels = spherical_kmeans(centred, 4, seed=1).labels
    assert list(speakers.items()) == [(name, f"cluster{label:05d}") for name, label in zip(embeddings.ids, labels)]
    assert len(set(pseudo_speakers(embeddings).values())) == len(truth) // 8  # the default
