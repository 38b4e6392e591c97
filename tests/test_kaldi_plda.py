"""PLDA: estimation against a slow EM in the original space, scores against joint Gaussians, files against Kaldi's."""

import re

import kaldiio
import numpy as np
import pytest
from kaldi_support import speaker_stats

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.lda import SpeakerStats
from sdpn_k2.kaldi.backend.plda import Plda, diagonalize, estimate_plda, score_recording


def random_set(seed, dim, num_speakers=40, most=7):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, most + 1, num_speakers)
    counts[0] = most
    mixing = rng.normal(size=(dim, dim))
    groups = [(rng.normal(size=dim) * 2 + rng.normal(size=(n, dim))) @ mixing + 5.0 for n in counts]
    stats = SpeakerStats(dim, num_speakers + 1)  # one speaker never turns up
    for speaker, group in enumerate(groups):
        stats.add(group, [speaker] * len(group))
    return groups, stats


def slow_em(groups, num_iters):
    """EM of the two-covariance model, one speaker and one inversion at a time, in the space of the vectors."""
    dim = groups[0].shape[1]
    means = [group.mean(axis=0) for group in groups]
    centre = np.mean(means, axis=0)
    scatter = sum(np.outer(x - m, x - m) for group, m in zip(groups, means) for x in group)
    within, between = np.eye(dim), np.eye(dim)
    for _ in range(num_iters):
        within_sum, between_sum = scatter.copy(), np.zeros((dim, dim))
        for group, mean in zip(groups, means):
            n, m = len(group), mean - centre
            posterior = np.linalg.inv(np.linalg.inv(between) + n * np.linalg.inv(within))
            w = posterior @ (n * np.linalg.inv(within) @ m)
            between_sum += posterior + np.outer(w, w)
            within_sum += n * (posterior + np.outer(m - w, m - w))
        # Kaldi's counts: (utterances - speakers) from the scatter and one for each speaker; one for each speaker.
        within = within_sum / (sum(map(len, groups)) - len(groups) + len(groups))
        between = between_sum / len(groups)
    return centre, within, between


def random_model(seed, dim):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(2, dim, 2 * dim))
    within, between = (factor @ factor.T / dim for factor in factors)
    return Plda.from_covariances(rng.normal(size=dim), within, between), within, between


def log_gaussian(x, covariance):
    sign, logdet = np.linalg.slogdet(covariance)
    assert sign == 1
    return -0.5 * (len(x) * np.log(2 * np.pi) + logdet + x @ np.linalg.solve(covariance, x))


def joint_ratio(enroll, n, test, mean, within, between):
    """log p(enroll, test | one speaker) - log p(enroll) - log p(test), enroll being the mean of n vectors."""
    enroll, test = enroll - mean, test - mean
    of_enroll, of_test = between + within / n, between + within
    both, joint = np.concatenate([enroll, test]), np.block([[of_enroll, between], [between, of_test]])
    return log_gaussian(both, joint) - log_gaussian(enroll, of_enroll) - log_gaussian(test, of_test)


def read_text_plda(path):
    mean, transform, psi = (np.array(block.split(), float) for block in re.findall(r"\[([^]]*)]", path.read_text()))
    return Plda(mean, transform.reshape(len(mean), -1), psi)


def golden_vectors(golden, name):
    return dict(kaldiio.load_ark(str(golden / name)))


def back_end(golden, vectors):
    """What the recipe does between extraction and PLDA: centre, project, normalise the length."""
    mean = np.array((golden / "mean.vec").read_text().split()[1:-1], float)
    transform = kaldiio.load_mat(str(golden / "transform.mat")).astype(float)
    projected = (vectors - mean) @ transform[:, :-1].T + transform[:, -1]
    return projected * np.sqrt(projected.shape[1]) / np.linalg.norm(projected, axis=1, keepdims=True)


@pytest.mark.parametrize("num_iters", [0, 1, 10])
@pytest.mark.parametrize("seed, dim", [(1, 3), (2, 11), (3, 24)])
def test_estimation_equals_the_slow_em(seed, dim, num_iters):
    groups, stats = random_set(seed, dim)
    mean, within, between = slow_em(groups, num_iters)
    plda = estimate_plda(stats, num_iters)
    np.testing.assert_allclose(plda.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(plda.covariances()[0], within, rtol=0, atol=1e-9 * np.trace(within))
    np.testing.assert_allclose(plda.covariances()[1], between, rtol=0, atol=1e-9 * np.trace(between))
    np.testing.assert_allclose(plda.transform @ within @ plda.transform.T, np.eye(dim), atol=1e-8)
    np.testing.assert_allclose(plda.transform @ between @ plda.transform.T, np.diag(plda.psi), atol=1e-8 * plda.psi[0])
    assert (np.diff(plda.psi) <= 0).all()


def test_em_raises_the_likelihood_of_the_training_vectors():
    groups, stats = random_set(4, 6)

    def likelihood(plda):
        within, between = plda.covariances()
        total = 0.0
        for group in groups:
            n = len(group)
            covariance = np.kron(np.eye(n), within) + np.kron(np.ones((n, n)), between)
            total += log_gaussian((group - plda.mean).ravel(), covariance)
        return total

    assert (np.diff([likelihood(estimate_plda(stats, iters)) for iters in range(6)]) > 0).all()


@pytest.mark.parametrize(
    "make, complaint",
    [
        (lambda: SpeakerStats(3, 2), "no vectors"),
        (lambda: speaker_stats(np.random.default_rng(0).normal(size=(5, 3)), [0, 1, 2, 3, 4]), "speaker"),
        (lambda: speaker_stats(np.random.default_rng(0).normal(size=(3, 3)), [0, 0, 1]), "3 of 3 dimensions"),
    ],
)
def test_too_little_data_is_refused(make, complaint):
    with pytest.raises(InputError, match=complaint):
        estimate_plda(make())


def test_singular_within_covariance_is_refused():
    with pytest.raises(InputError, match="singular"):
        diagonalize(np.diag([1.0, 0.0]), np.eye(2))


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("seed, dim", [(1, 2), (2, 10), (3, 25)])
def test_scores_are_the_ratio_of_joint_gaussians(seed, dim, several):
    plda, within, between = random_model(seed, dim)
    rng = np.random.default_rng(seed)
    enroll, test = rng.normal(size=(5, dim)) * 2, rng.normal(size=(4, dim)) * 2
    num_utts = np.array([1, 2, 3, 2, 9]) if several else 4
    left, _ = plda.transform_vectors(enroll, num_utts, normalize_length=False)
    right, _ = plda.transform_vectors(test, normalize_length=False)
    expected = [
        [joint_ratio(e, n, t, plda.mean, within, between) for t in test]
        for e, n in zip(enroll, np.broadcast_to(num_utts, 5))
    ]
    np.testing.assert_allclose(plda.log_likelihood_ratios(left, num_utts, right), expected, rtol=1e-7, atol=1e-8)


def test_scores_after_projection_are_those_of_the_projected_gaussians():
    plda, within, between = random_model(5, 9)
    rng = np.random.default_rng(5)
    projection = rng.normal(size=(4, 9))
    vectors = rng.normal(size=(6, 9)) @ projection.T
    small = plda.project(projection)
    transformed, _ = small.transform_vectors(vectors, normalize_length=False)
    covariances = [projection @ covariance @ projection.T for covariance in (within, between)]
    expected = [[joint_ratio(a, 1, b, projection @ plda.mean, *covariances) for b in vectors] for a in vectors]
    np.testing.assert_allclose(small.log_likelihood_ratios(transformed, 1, transformed), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("energy, kept", [(0.0, 2), (0.5, 3), (0.85, 5), (1.0, 6)])
def test_scores_of_a_recording_are_those_of_its_principal_components(energy, kept):
    plda, within, between = random_model(5, 6)
    rng = np.random.default_rng(5)
    directions, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    scores = np.linalg.qr(np.column_stack([np.ones(20), rng.normal(size=(20, 6))]))[0][:, 1:]  # centred, uncorrelated
    vectors = scores * np.sqrt([40, 30, 12, 9, 6, 3]) @ directions.T + rng.normal(size=6)  # shares 0.4, 0.3, 0.12, …
    projection = directions[:, :kept].T
    models = plda.project(projection), *(projection @ covariance @ projection.T for covariance in (within, between))
    expected = [
        [joint_ratio(a, 1, b, models[0].mean, *models[1:]) for b in vectors @ projection.T]
        for a in vectors @ projection.T
    ]
    ours = score_recording(plda, vectors, energy, normalize_length=False)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


def test_length_normalisation():
    plda, within, between = random_model(6, 8)
    rng = np.random.default_rng(6)
    vectors, num_utts = rng.normal(size=(5, 8)) * 3, np.array([1, 4, 4, 2, 7])
    plain, factors = plda.transform_vectors(vectors, num_utts, normalize_length=False)
    scaled, same = plda.transform_vectors(vectors, num_utts)
    np.testing.assert_array_equal(factors, same)
    np.testing.assert_allclose(scaled, plain * factors[:, None])
    for vector, x, n, factor in zip(scaled, vectors, num_utts, factors):
        assert vector @ (vector / (plda.psi + 1 / n)) == pytest.approx(8)
        expected = (x - plda.mean) @ np.linalg.solve(between + within / n, x - plda.mean)
        assert factor == pytest.approx(np.sqrt(8 / expected))
    assert not plda.transform_vectors(plda.mean[None])[0].any()
    simple, _ = plda.transform_vectors(vectors, num_utts, simple_length_norm=True)
    np.testing.assert_allclose(np.linalg.norm(simple, axis=1), np.sqrt(8))


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0])
def test_smoothing_adds_between_to_within(factor):
    plda, within, between = random_model(7, 6)
    smooth = plda.smooth(factor)
    np.testing.assert_allclose(smooth.covariances()[0], within + factor * between, atol=1e-9)
    np.testing.assert_allclose(smooth.covariances()[1], between, atol=1e-9)
    with pytest.raises(InputError, match="1.5"):
        plda.smooth(1.5)


@pytest.mark.parametrize("scales", [(1.0, 0.3, 0.7), (0.0, 0.75, 0.25)])
@pytest.mark.parametrize("seed", [8, 9])
def test_adaptation_distributes_the_excess_variance(seed, scales):
    plda, within, between = random_model(seed, 7)
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(50, 7)) @ rng.normal(size=(7, 7)) + 1.0
    mean, covariance = data.mean(axis=0), np.cov(data.T, bias=True)
    adapted = plda.adapt(mean, covariance, *scales)

    # Independently: generalised eigenvectors v of (covariance, within + between) with v' (within + between) v = 1.
    covariance = covariance + scales[0] * np.outer(mean - plda.mean, mean - plda.mean)
    total = within + between
    root = np.linalg.cholesky(total)
    values, vectors = np.linalg.eigh(np.linalg.solve(root, np.linalg.solve(root, covariance).T))
    back = root @ vectors  # columns: directions of the data, scaled to unit total covariance
    excess = sum(max(value - 1, 0) * np.outer(b, b) for value, b in zip(values, back.T))
    assert np.trace(excess) > 0
    np.testing.assert_allclose(adapted.mean, mean)
    np.testing.assert_allclose(adapted.covariances()[0], within + scales[1] * excess, atol=1e-8)
    np.testing.assert_allclose(adapted.covariances()[1], between + scales[2] * excess, atol=1e-8)
    assert (np.diff(adapted.psi) <= 0).all()


@pytest.mark.parametrize("name, num_iters", [("plda.txt", 10), ("plda_full_it3.txt", 3)])
def test_estimates_equal_kaldis(golden, name, num_iters):
    table = golden_vectors(golden, "train.ark")
    vectors = np.array(list(table.values()), np.float64)
    if name == "plda.txt":
        vectors = back_end(golden, vectors)
    speaker_of = dict(line.split() for line in (golden / "train.utt2spk").read_text().splitlines())
    names = sorted(set(speaker_of.values()))
    ours = estimate_plda(speaker_stats(vectors, [names.index(speaker_of[key]) for key in table]), num_iters)
    kaldis = read_text_plda(golden / name)
    np.testing.assert_allclose(ours.psi, kaldis.psi, rtol=1e-5)
    signs = np.sign((ours.transform * kaldis.transform).sum(axis=1))[:, None]
    error = np.linalg.norm(signs * ours.transform - kaldis.transform, axis=1)
    assert (error / np.linalg.norm(kaldis.transform, axis=1)).max() <= 5e-4


@pytest.mark.parametrize("name, mean_diff_scale", [("plda_adapt.txt", 1.0), ("plda_adapt_nomd.txt", 0.0)])
def test_adaptation_equals_kaldis(golden, name, mean_diff_scale):
    vectors = back_end(golden, np.array(list(golden_vectors(golden, "test.ark").values()), np.float64))
    plda = read_text_plda(golden / "plda.txt")
    ours = plda.adapt(vectors.mean(axis=0), np.cov(vectors.T, bias=True), mean_diff_scale, 0.75, 0.25)
    kaldis = read_text_plda(golden / name)
    for covariance, expected in zip(ours.covariances(), kaldis.covariances()):
        np.testing.assert_allclose(covariance, expected, atol=1e-5 * abs(expected).max())


def test_smoothing_equals_kaldis(golden):
    ours, kaldis = read_text_plda(golden / "plda.txt").smooth(0.1), read_text_plda(golden / "plda_smooth0.1.txt")
    np.testing.assert_allclose(ours.psi, kaldis.psi, rtol=1e-6)
    np.testing.assert_allclose(ours.transform, kaldis.transform, atol=2e-6)
