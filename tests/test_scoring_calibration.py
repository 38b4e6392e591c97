"""Calibration and fusion against closed forms and scikit-learn."""

import numpy as np
import pytest
from scipy.stats import norm

from sdpn_k2.errors import InputError
from sdpn_k2.scoring import metrics
from sdpn_k2.scoring.calibration import (
    Calibration,
    read_calibration,
    stack_scores,
    train_calibration,
    write_calibration,
)
from sdpn_k2.scoring.trial_arrays import Scores, read_trials


def two_systems(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    is_target = rng.random(n) < 0.2
    return np.column_stack((rng.normal(2.0 * is_target), rng.normal(4.0 * is_target, 3.0))) * 0.1 + 5.0, is_target


@pytest.mark.parametrize("p_target", [0.01, 0.5])
def test_gaussian_scores_get_their_log_likelihood_ratio(p_target):
    """Targets N(3, 1), nontargets N(0, 1): llr = 3 s - 4.5."""
    quantiles = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    scores = np.concatenate((quantiles + 3.0, quantiles))
    calibration = train_calibration(scores, np.arange(200_000) < 100_000, p_target)
    assert calibration.weights == pytest.approx([3.0], rel=5e-3)
    assert calibration.offset == pytest.approx(-4.5, rel=5e-3)


@pytest.mark.parametrize("p_target", [0.05, 0.5])
def test_fusion_is_weighted_logistic_regression(p_target):
    from sklearn.linear_model import LogisticRegression

    scores, is_target = two_systems()
    weights = np.where(is_target, p_target / is_target.sum(), (1 - p_target) / (~is_target).sum()) * len(is_target)
    reference = LogisticRegression(C=1e12, tol=1e-12, solver="newton-cholesky", max_iter=1000)
    reference.fit(scores, is_target, sample_weight=weights)
    calibration = train_calibration(scores, is_target, p_target)
    np.testing.assert_allclose(calibration.weights, reference.coef_[0], rtol=1e-5)
    assert calibration.offset == pytest.approx(reference.intercept_[0] - np.log(p_target / (1 - p_target)), rel=1e-5)


def test_calibration_of_other_trials_is_near_the_optimum():
    train, test = two_systems(20_000, seed=1), two_systems(20_000, seed=2)
    ratios = train_calibration(*train).apply(test[0])
    rates = metrics.ErrorRates.from_scores(ratios, test[1])
    assert metrics.cllr(rates) < 1.03 * metrics.min_cllr(rates)
    singles = [
        metrics.cllr(
            metrics.ErrorRates.from_scores(train_calibration(train[0][:, i], train[1]).apply(test[0][:, i]), test[1])
        )
        for i in (0, 1)
    ]
    assert metrics.cllr(rates) < min(singles)


def test_probability_is_bayes_rule():
    calibration = Calibration([2.0], -1.0, 0.5)
    ratio = np.exp(2.0 * 0.8 - 1.0)
    assert calibration.probability(np.array([0.8]), 0.2)[0] == pytest.approx(ratio * 0.2 / (ratio * 0.2 + 0.8))
    assert calibration.probability(np.array([-1e6, 1e6])).tolist() == [0.0, 1.0]


def test_separated_and_repeated_systems_stay_finite():
    separated = train_calibration(np.array([0.0, 1.0, 2.0, 3.0]), np.array([False, False, True, True]))
    assert np.isfinite(separated.weights).all() and separated.apply(np.array([1.0, 2.0])) @ [-1, 1] > 10
    scores, is_target = two_systems()
    twice = train_calibration(scores[:, [0, 0]], is_target)
    once = train_calibration(scores[:, 0], is_target)
    np.testing.assert_allclose(twice.apply(scores[:, [0, 0]]), once.apply(scores[:, 0]), atol=1e-4)


def test_calibration_survives_a_file(tmp_path):
    calibration = Calibration([1.25, -0.1], 3.0, 0.01)
    write_calibration(tmp_path / "fusion.json", calibration)
    assert read_calibration(tmp_path / "fusion.json") == calibration
    with pytest.raises(InputError, match="none.json: "):
        read_calibration(tmp_path / "none.json")


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", "weights, offset and p_target"),
        (b"\xff", "JSON"),
        ('{"weights": [1], "offset": NaN, "p_target": 0.5}', "offset .*finite"),
        ('{"weights": [1, Infinity], "offset": 0, "p_target": 0.5}', "weights .*finite"),
        ('{"weights": "12", "offset": 0, "p_target": 0.5}', "list of weights"),
        ('{"weights": [], "offset": 0, "p_target": 0.5}', "no weights"),
        ('{"weights": [1' + 400 * "0" + '], "offset": 0, "p_target": 0.5}', "list of weights"),
        ('{"weights": [1], "offset": 0, "p_target": 7}', "p_target .*7"),
    ],
)
def test_other_files_are_refused_as_calibrations(tmp_path, text, message):
    (tmp_path / "other.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=f"other.json: .*{message}"):
        read_calibration(tmp_path / "other.json")


def test_systems_are_joined_by_trial(tmp_path):
    (tmp_path / "trials").write_text("a x target\nb y nontarget\n")
    (tmp_path / "one").write_text("a x 1\nb y 2\n")
    (tmp_path / "two").write_text("b y 20\na x 10\n")
    trials = read_trials(tmp_path / "trials")
    systems = [tmp_path / "one", tmp_path / "two", Scores(trials, np.array([7.0, 8.0]))]
    assert stack_scores(systems, trials).tolist() == [[1, 10, 7], [2, 20, 8]]


@pytest.mark.parametrize(
    "scores, is_target, message",
    [
        ([1.0, 2.0], [True, True], "2 of 2"),
        ([1.0, np.nan], [True, False], "finite"),
        ([[1.0, 3.0], [2.0, 3.0]], [True, False], "system 2 "),
    ],
)
def test_unusable_scores_are_refused(scores, is_target, message):
    with pytest.raises(InputError, match=message):
        train_calibration(np.array(scores), np.array(is_target))


def test_the_number_of_systems_must_agree():
    with pytest.raises(InputError, match="2 systems.* 1"):
        Calibration([1.0, 1.0], 0.0, 0.5).apply(np.zeros(3))
