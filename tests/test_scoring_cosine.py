"""Embeddings and cosine scores against float64 NumPy and numbers that Kaldi wrote."""

import numpy as np
import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.tables import read_object
from sdpn_k2.scoring import cosine
from sdpn_k2.scoring.embeddings import (
    Embeddings,
    enroll_models,
    estimate_whitening,
    subtract_mean,
    transform,
    whiten,
)
from sdpn_k2.scoring.trial_arrays import Trials, match_scores, read_scores, read_trials
from sdpn_k2.scoring.vector_files import read_embeddings


def make(n, dim=16, seed=0, prefix="u"):
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32) + 0.5
    return Embeddings([f"{prefix}{i}" for i in range(n)], vectors, f"{prefix}.scp")


def random_trials(enroll, test, n, seed=0):
    rng = np.random.default_rng(seed)
    return Trials(
        enroll.ids[::-1],
        test.ids,
        rng.integers(0, len(enroll), n).astype(np.int32),
        rng.integers(0, len(test), n).astype(np.int32),
    )


def expected_cosines(enroll, test, trials):
    e, t = (dict(zip(side.ids, side.vectors.astype(np.float64))) for side in (enroll, test))
    pairs = [trials.pair(i).split() for i in range(len(trials))]
    return np.array([e[a] @ t[b] / np.sqrt((e[a] @ e[a]) * (t[b] @ t[b])) for a, b in pairs])


@pytest.mark.parametrize("n_trials", [1, 100, 3000])
def test_gathered_and_dense_scores_are_cosines(n_trials, monkeypatch):
    enroll, test = make(60, prefix="e"), make(70, seed=1, prefix="t")
    trials = random_trials(enroll, test, n_trials)
    expected = expected_cosines(enroll, test, trials)
    for dense, cells in ((0.0, 1 << 24), (0.0, 500), (np.inf, 0)):
        monkeypatch.setattr(cosine, "DENSE", dense)
        monkeypatch.setattr(cosine, "PRODUCT_BLOCK", cells)
        scores = cosine.score_trials(enroll, test, trials)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_all_pairs_are_the_score_matrix():
    enroll, test = make(5, prefix="e"), make(7, seed=1, prefix="t")
    scores = cosine.score_matrix(enroll, test)
    e, t = (side.vectors / np.linalg.norm(side.vectors, axis=1)[:, None] for side in (enroll, test))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, e @ t.T, atol=1e-6)
    pairs = cosine.all_pairs(enroll, test)
    np.testing.assert_allclose(cosine.score_trials(enroll, test, pairs), scores.ravel(), atol=1e-6)


def test_kaldi_cosine_scores(golden):
    embeddings = read_embeddings(f"ark:{golden / 'test.ark'}")
    trials = read_trials(golden / "trials")
    expected = match_scores(read_scores(golden / "scores_cosine"), trials)
    np.testing.assert_allclose(cosine.score_trials(embeddings, embeddings, trials), expected, atol=1e-6)


def test_mean_and_transform_are_kaldis(golden):
    embeddings = read_embeddings(f"ark:{golden / 'test.ark'}")
    of_training = read_object(str(golden / "mean.vec"), "vector")
    matrix = read_object(str(golden / "transform.mat"), "matrix")
    ours = transform(subtract_mean(embeddings, of_training), matrix)
    theirs = read_embeddings(f"ark:{golden / 'test_lda.txt'}")
    assert ours.ids == theirs.ids
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=2e-5)


def test_transform_with_offset():
    embeddings = make(4, dim=3)
    matrix = np.random.default_rng(1).standard_normal((2, 4))
    np.testing.assert_allclose(
        transform(embeddings, matrix).vectors, np.hstack([embeddings.vectors, np.ones((4, 1))]) @ matrix.T, rtol=1e-5
    )


def test_whitening_gives_zero_mean_and_unit_covariance():
    mixing = np.random.default_rng(2).standard_normal((8, 8))
    source = make(5000, dim=8)
    embeddings = Embeddings(source.ids, (source.vectors @ mixing).astype(np.float32))
    white = whiten(embeddings, estimate_whitening(embeddings)).vectors.astype(np.float64)
    np.testing.assert_allclose(white.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(8), atol=1e-3)


def test_whitening_of_degenerate_embeddings_stays_finite():
    flat = make(10, dim=20)
    assert np.isfinite(whiten(flat, estimate_whitening(flat)).vectors).all()
    with pytest.raises(InputError, match="embeddings: .*equal"):
        estimate_whitening(Embeddings(["a", "b"], np.ones((2, 3), np.float32)))
    with pytest.raises(InputError, match="u.scp: .* 2 .* 1"):
        estimate_whitening(make(1))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_whitening_names_embeddings_that_are_not_finite(value):
    embeddings = make(10)
    embeddings.vectors[[3, 7], 2] = value
    with pytest.raises(InputError, match="u.scp: .* u3 .*NaN.* 2 of 10"):
        estimate_whitening(embeddings)


def test_models_are_means_of_unit_vectors():
    utterances = make(6)
    models = enroll_models(utterances, {"s1": ["u4", "u0"], "s2": ["u3"]})
    unit = utterances.vectors / np.linalg.norm(utterances.vectors, axis=1)[:, None]
    assert models.ids == ["s1", "s2"]
    np.testing.assert_allclose(models.vectors, [(unit[4] + unit[0]) / 2, unit[3]], atol=1e-6)
    with pytest.raises(InputError, match="u.scp: .* u9; 2 of 3 "):
        enroll_models(utterances, {"s1": ["u9", "u0"], "s2": ["u8"]})
    with pytest.raises(InputError, match="s2 "):
        enroll_models(utterances, {"s1": ["u0"], "s2": []})


def test_trials_without_embeddings_are_named_and_counted():
    enroll, test = make(3, prefix="e"), make(3, prefix="t")
    trials = Trials(
        ["e0", "x"], ["t0", "y"], np.array([0, 1, 0, 1], np.int32), np.array([0, 0, 1, 1], np.int32), source="trials"
    )
    with pytest.raises(InputError, match="trials: trial 2: x .* e.scp; 3 of 4 "):
        cosine.score_trials(enroll, test, trials)


@pytest.mark.parametrize("value, message", [(0.0, "e1 .*zero norm; 1 of 3"), (np.nan, "e1 .*NaN")])
@pytest.mark.parametrize("dense", [0.0, np.inf])
def test_embeddings_that_cannot_be_compared(monkeypatch, value, message, dense):
    monkeypatch.setattr(cosine, "DENSE", dense)
    enroll, test = make(3, prefix="e"), make(3, prefix="t")
    enroll.vectors[1] = value
    with pytest.raises(InputError, match=message):
        cosine.score_trials(enroll, test, cosine.all_pairs(enroll, test))
    with pytest.raises(InputError, match=message):
        cosine.score_matrix(enroll, test)
    # An unusable embedding that no trial uses is ignored.
    trials = Trials(["e0", "e2"], ["t0"], np.array([0, 1], np.int32), np.zeros(2, np.int32))
    scores = cosine.score_trials(enroll, test, trials)
    np.testing.assert_allclose(scores, expected_cosines(enroll, test, trials), atol=1e-6)


def test_dimensions_must_agree():
    with pytest.raises(InputError, match="16 dimensions.* 8"):
        cosine.score_trials(make(2), make(2, dim=8), cosine.all_pairs(make(2), make(2)))
    with pytest.raises(InputError, match="16 dimensions.* 8"):
        cosine.score_matrix(make(2), make(2, dim=8))
    with pytest.raises(InputError, match="16 dimensions.*mean .*3"):
        subtract_mean(make(2), np.zeros(3))
    with pytest.raises(InputError, match="16 dimensions.*transform .*5"):
        transform(make(2), np.zeros((4, 5)))


def test_tables_that_cannot_be_used(tmp_path):
    path = tmp_path / "empty.ark"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty.ark: "):
        read_embeddings(str(path))
    path.write_text("a [ 1 2 ]\nb [ 1 2 ]\na [ 3 4 ]\n")
    with pytest.raises(InputError, match="empty.ark: .* a$"):
        read_embeddings(f"ark:{path}")
