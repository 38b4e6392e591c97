"""Score normalisation and k-means against plain float64 loops."""

import numpy as np
import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.scoring import cosine, kmeans, normalization
from sdpn_k2.scoring.embeddings import Embeddings
from sdpn_k2.scoring.kmeans import pseudo_speakers, spherical_kmeans
from sdpn_k2.scoring.normalization import METHODS, cohort_statistics, normalized_scores


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
