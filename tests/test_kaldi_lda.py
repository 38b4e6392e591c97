"""LDA and PCA against Kaldi's files and against explicit double-precision references."""

import kaldiio
import numpy as np
import pytest
from kaldi_support import speaker_stats

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.lda import SpeakerStats, compute_lda
from sdpn_k2.kaldi.backend.pca import pca_transform


def random_set(seed, num_speakers, dim, most=6, scale=1.0):
    """Vectors of speakers with 1 to ``most`` vectors each, in mixed order, far from the origin."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, most + 1, num_speakers)
    counts[0] = most
    speakers = rng.permutation(np.repeat(np.arange(num_speakers), counts))
    mixing = rng.normal(size=(dim, dim))
    centres = rng.normal(size=(num_speakers, dim)) * np.linspace(2, 0.1, dim)
    vectors = (centres[speakers] + 0.7 * rng.normal(size=(len(speakers), dim))) @ mixing * scale + 3.0
    return vectors.astype(np.float32), speakers


def covariances(vectors, speakers):
    """Total and within-speaker covariance by a loop over the vectors, both divided by their number."""
    vectors = vectors.astype(np.float64)
    mean = vectors.mean(axis=0)
    dim = vectors.shape[1]
    total, within = np.zeros((dim, dim)), np.zeros((dim, dim))
    for vector, speaker in zip(vectors, speakers):
        total += np.outer(vector - mean, vector - mean)
        own = vectors[speakers == speaker].mean(axis=0)
        within += np.outer(vector - own, vector - own)
    return total / len(vectors), within / len(vectors), mean


def assert_rows_match(ours, reference, bound=1e-5):
    """Rows up to sign, relative to their norm; the last column is an offset, compared as such."""
    linear, expected = ours[:, :-1], reference[:, :-1]
    signs = np.sign((linear * expected).sum(axis=1))[:, None]
    error = np.linalg.norm(signs * linear - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() <= bound
    assert abs(signs[:, 0] * ours[:, -1] - reference[:, -1]).max() <= bound


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed, num_speakers, dim, keep", [(1, 40, 12, 5), (2, 9, 6, 6), (3, 25, 30, 20)])
def test_lda_solves_the_generalised_eigenvalue_problem(seed, num_speakers, dim, keep, factor):
    vectors, speakers = random_set(seed, num_speakers, dim)
    total, within, mean = covariances(vectors, speakers)
    mixed = factor * total + (1 - factor) * within
    lda = compute_lda(speaker_stats(vectors, speakers), keep, factor)
    linear, offset = lda.transform[:, :-1], lda.transform[:, -1]
    assert lda.num_floored == 0
    np.testing.assert_allclose(linear @ mixed @ linear.T, np.eye(keep), atol=1e-8)
    np.testing.assert_allclose(linear @ (total - within) @ linear.T, np.diag(lda.eigenvalues[:keep]), atol=1e-8)
    np.testing.assert_allclose(linear @ mean + offset, 0, atol=1e-9)
    expected = np.sort(np.linalg.eigvals(np.linalg.solve(mixed, total - within)).real)[::-1]
    np.testing.assert_allclose(lda.eigenvalues, expected, rtol=1e-7, atol=1e-9)


def test_covariance_floor_is_relative_to_the_greatest_eigenvalue():
    vectors, speakers = random_set(4, 30, 8)
    _, within, _ = covariances(vectors, speakers)
    floor = np.linalg.eigvalsh(within)[3] / np.linalg.eigvalsh(within)[-1] * 1.0001
    lda = compute_lda(speaker_stats(vectors, speakers), 8, covariance_floor=floor)
    assert lda.num_floored == 4
    values, directions = np.linalg.eigh(within)
    floored = directions * np.maximum(values, floor * values[-1]) @ directions.T
    linear = lda.transform[:, :-1]
    np.testing.assert_allclose(linear @ floored @ linear.T, np.eye(8), atol=1e-8)


def test_statistics_do_not_depend_on_batches():
    vectors, speakers = random_set(5, 12, 7)
    whole, pieces = speaker_stats(vectors, speakers), SpeakerStats(7, 12)
    for start in range(0, len(vectors), 5):
        pieces.add(vectors[start : start + 5], speakers[start : start + 5])
    pieces.add(vectors[:0], speakers[:0])
    np.testing.assert_array_equal(pieces.counts, np.bincount(speakers))
    np.testing.assert_allclose(pieces.sums, [vectors[speakers == k].sum(axis=0, dtype=float) for k in range(12)])
    np.testing.assert_allclose(pieces.second_moment, whole.second_moment, rtol=1e-12)


@pytest.mark.parametrize(
    "name, factor, floor, keep, centre",
    [
        ("transform.mat", 0.0, 1e-6, 24, True),
        ("lda_t0.5.mat", 0.5, 1e-6, 24, True),
        ("lda_t1.txt", 1.0, 0.1, 10, False),
    ],
)
def test_lda_equals_kaldis(golden, name, factor, floor, keep, centre):
    table = dict(kaldiio.load_ark(str(golden / "train.ark")))
    speaker_of = dict(line.split() for line in (golden / "train.utt2spk").read_text().splitlines())
    names = sorted(set(speaker_of.values()))
    vectors = np.array(list(table.values()), np.float64)
    vectors -= centre * vectors.mean(axis=0)
    lda = compute_lda(speaker_stats(vectors, [names.index(speaker_of[key]) for key in table]), keep, factor, floor)
    assert_rows_match(lda.transform, kaldiio.load_mat(str(golden / name)))


@pytest.mark.parametrize(
    "vectors, speakers, dim, floor, complaint",
    [
        (np.eye(4)[:3], [0, 0, 1], 2, 1e-6, "3 vectors .* 4 dimensions"),
        (np.random.default_rng(0).normal(size=(6, 4)), range(6), 2, 1e-6, "6 vectors of 6 speakers"),
        (np.random.default_rng(0).normal(size=(6, 4)), [0, 0, 0, 1, 1, 1], 5, 1e-6, "--dim=1 to 4"),
        (np.random.default_rng(0).normal(size=(6, 4)), [0, 0, 0, 1, 1, 1], 0, 1e-6, "--dim=1 to 4"),
        (np.zeros((6, 4)), [0, 0, 0, 1, 1, 1], 2, 1e-6, "singular"),
        (np.random.default_rng(0).normal(size=(6, 4)) * [1, 1, 0, 1], [0, 0, 0, 1, 1, 1], 2, 0.0, "singular"),
    ],
)
def test_lda_refuses_insufficient_data(vectors, speakers, dim, floor, complaint):
    with pytest.raises(InputError, match=complaint):
        compute_lda(speaker_stats(vectors, list(speakers)), dim, covariance_floor=floor)


def test_a_singular_covariance_is_floored_by_default():
    vectors = np.random.default_rng(0).normal(size=(40, 4)) * [1, 1, 0, 1]
    lda = compute_lda(speaker_stats(vectors, [0, 1] * 20), 2)
    assert lda.num_floored == 1
    assert np.isfinite(lda.transform).all()


@pytest.mark.parametrize("normalize_variance", [False, True])
@pytest.mark.parametrize("seed, dim", [(1, 5), (2, 23)])
def test_pca_diagonalises_the_covariance(seed, dim, normalize_variance):
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(200, dim)) @ rng.normal(size=(dim, dim)) + 2.0
    mean, covariance = data.mean(axis=0), np.cov(data.T, bias=True)
    transform, variances = pca_transform(mean, covariance, normalize_variance, normalize_mean=True)
    assert (np.diff(variances) <= 0).all()
    output = data @ transform[:, :-1].T + transform[:, -1]
    np.testing.assert_allclose(output.mean(axis=0), 0, atol=1e-9)
    expected = np.eye(dim) if normalize_variance else np.diag(variances)
    np.testing.assert_allclose(np.cov(output.T, bias=True), expected, atol=1e-8 * variances[0])
    if not normalize_variance:
        np.testing.assert_allclose(transform[:, :-1] @ transform[:, :-1].T, np.eye(dim), atol=1e-10)
    np.testing.assert_array_equal(pca_transform(mean, covariance, normalize_variance)[0], transform[:, :-1])


def test_pca_treats_a_tiny_variance_as_the_smallest_allowed():
    transform, _ = pca_transform(np.zeros(3), np.diag([4.0, 1.0, 0.0]), normalize_variance=True)
    np.testing.assert_allclose(np.linalg.norm(transform, axis=1), [0.5, 1.0, 1e-15**-0.5])


def test_pca_equals_kaldis(golden):
    vectors = np.array([v for _, v in kaldiio.load_ark(str(golden / "train.ark"))], np.float64)
    transform, _ = pca_transform(vectors.mean(axis=0), np.cov(vectors.T, bias=True), True, True)
    assert_rows_match(transform, kaldiio.load_mat(str(golden / "pca_full.mat")))
    assert_rows_match(transform[:16], kaldiio.load_mat(str(golden / "pca16.mat")))
