"""Metrics against closed forms, scikit-learn and figures that Kaldi printed."""

from dataclasses import astuple

import numpy as np
import pytest
from scipy.stats import norm

from sdpn_k2.errors import InputError
from sdpn_k2.scoring import metrics
from sdpn_k2.scoring.metrics import CostModel, ErrorRates


def random_scores(seed: int):
    """Scores of a few dozen trials with many ties."""
    rng = np.random.default_rng(seed)
    is_target = np.arange(rng.integers(4, 60)) % rng.integers(2, 4) == 0
    scores = rng.integers(0, rng.integers(2, 30), len(is_target)) + 2.0 * is_target
    return scores, is_target


def sklearn_roc(scores, is_target):
    """P_fa and P_miss at every distinct score, from nothing accepted to everything accepted."""
    from sklearn.metrics import roc_curve

    fpr, tpr, thresholds = roc_curve(is_target, scores, drop_intermediate=False)
    return fpr, 1.0 - tpr, thresholds


@pytest.fixture
def kaldi_scores(golden):
    fields = [line.split() for line in (golden / "eer_input").read_text().splitlines()]
    return ErrorRates.from_scores(
        np.array([float(score) for score, _ in fields]), np.array([label == "target" for _, label in fields])
    )


def test_kaldi_rule_gives_the_digits_of_compute_eer(golden, kaldi_scores):
    value, threshold = metrics.eer(kaldi_scores, "kaldi")
    assert f"{100 * value:.4g}" == (golden / "eer.txt").read_text().strip()
    message = f"Equal error rate is {100 * value:.6g}%, at threshold {threshold:.6g}"
    assert message in (golden / "eer.stderr.txt").read_text()


def test_kaldi_rule_on_tied_scores(golden):
    rates = ErrorRates.from_split([1, 0], [1, 0, -1])
    value, threshold = metrics.eer(rates, "kaldi")
    assert f"{100 * value:.4g}" == (golden / "eer_tied.txt").read_text().strip()
    assert f"at threshold {threshold:g}" in (golden / "eer_tied.stderr.txt").read_text()


def test_min_dcf_gives_the_digits_of_compute_min_dcf(golden, kaldi_scores):
    for line in (golden / "mindcf.txt").read_text().splitlines():
        p_target, expected = line.split()
        assert f"{metrics.min_dcf(kaldi_scores, float(p_target)).value:.4f}" == expected


@pytest.mark.parametrize("seed", range(40))
def test_error_rates_are_those_of_sklearn(seed):
    scores, is_target = random_scores(seed)
    fa, miss, thresholds = sklearn_roc(scores, is_target)
    rates = ErrorRates.from_scores(scores, is_target)
    np.testing.assert_allclose(rates.false_alarm_rate(thresholds), fa, atol=1e-15)
    np.testing.assert_allclose(rates.miss_rate(thresholds), miss, atol=1e-15)


@pytest.mark.parametrize("seed", range(40))
def test_eer_is_where_the_sklearn_roc_crosses_the_diagonal(seed):
    scores, is_target = random_scores(seed)
    fa, miss, _ = sklearn_roc(scores, is_target)
    after = int(np.argmax(fa >= miss))
    share = (miss - fa)[after - 1] / ((miss - fa)[after - 1] + (fa - miss)[after])
    expected = fa[after - 1] + share * (fa[after] - fa[after - 1])
    assert metrics.eer(ErrorRates.from_scores(scores, is_target)).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_hull_eer_is_the_worst_bayes_error(seed):
    """The EER of the convex hull is the maximum over priors of the minimum error (BOSARIS)."""
    scores, is_target = random_scores(seed)
    fa, miss, _ = sklearn_roc(scores, is_target)
    prior = np.linspace(0.0, 1.0, 20001)[:, None]
    worst = (prior * miss + (1.0 - prior) * fa).min(axis=1).max()
    rates = ErrorRates.from_scores(scores, is_target)
    value = metrics.eer(rates, "hull").value
    assert worst - 1e-12 <= value <= worst + 1e-4
    assert value <= metrics.eer(rates).value + 1e-12


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("cost", [CostModel(0.01), CostModel(0.5), CostModel(0.9), CostModel(0.01, 10.0, 1.0)])
def test_min_dcf_is_the_minimum_over_the_sklearn_roc(seed, cost):
    scores, is_target = random_scores(seed)
    fa, miss, _ = sklearn_roc(scores, is_target)
    costs = cost.c_miss * cost.p_target * miss + cost.c_fa * (1.0 - cost.p_target) * fa
    expected = costs.min() / min(cost.c_miss * cost.p_target, cost.c_fa * (1.0 - cost.p_target))
    rates = ErrorRates.from_scores(scores, is_target)
    value, threshold = metrics.min_dcf(rates, *astuple(cost))
    assert value == pytest.approx(expected, abs=1e-12)
    at_threshold = (
        cost.c_miss * cost.p_target * rates.miss_rate(threshold)
        + cost.c_fa * (1.0 - cost.p_target) * rates.false_alarm_rate(threshold)
    ) / cost.default_cost
    assert at_threshold == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_min_cllr_is_cllr_after_isotonic_regression(seed):
    from sklearn.isotonic import IsotonicRegression

    scores, is_target = random_scores(seed)
    posterior = IsotonicRegression().fit_transform(scores, is_target)
    with np.errstate(divide="ignore"):
        llr = np.log(posterior) - np.log1p(-posterior) - np.log(is_target.sum() / (~is_target).sum())
    expected = (np.logaddexp(0, -llr[is_target]).mean() + np.logaddexp(0, llr[~is_target]).mean()) / (2 * np.log(2))
    assert metrics.min_cllr(ErrorRates.from_scores(scores, is_target)) == pytest.approx(expected, abs=1e-9)


def test_two_gaussians_have_their_closed_forms():
    """Log-likelihood ratios of N(+-d^2/2, d^2) are calibrated, and their error rates are known."""
    d, n = 2.5, 200_001
    quantiles = norm.ppf((np.arange(n) + 0.5) / n)  # no sampling noise
    rates = ErrorRates.from_split(d * quantiles + d * d / 2, d * quantiles - d * d / 2)
    for rule in metrics.EER_RULES:
        assert metrics.eer(rates, rule).value == pytest.approx(norm.cdf(-d / 2), abs=2e-5)
    for p_target in (0.01, 0.05, 0.5):
        threshold = np.log((1 - p_target) / p_target)
        bayes = (
            p_target * norm.cdf((threshold - d * d / 2) / d) + (1 - p_target) * norm.sf((threshold + d * d / 2) / d)
        ) / min(p_target, 1 - p_target)
        assert metrics.actual_dcf(rates, p_target).value == pytest.approx(bayes, abs=1e-3)
        assert metrics.min_dcf(rates, p_target).value == pytest.approx(bayes, abs=1e-3)
        assert metrics.min_dcf(rates, p_target).threshold == pytest.approx(threshold, abs=0.05)
    # Cllr = E_target[log2(1 + e^-s)] by symmetry: integrate it.
    x = np.linspace(-12.0, 12.0, 400_001)
    integral = (norm.pdf(x) * np.logaddexp(0, -(d * x + d * d / 2))).sum() * (x[1] - x[0]) / np.log(2)
    assert metrics.cllr(rates) == pytest.approx(integral, abs=1e-4)
    assert metrics.min_cllr(rates) == pytest.approx(integral, abs=1e-4)


def test_perfect_and_inverted_scores():
    perfect = ErrorRates.from_split([2.0, 3.0], [0.0, 1.0, 1.0])
    assert [metrics.eer(perfect, rule).value for rule in metrics.EER_RULES] == [0.0, 0.0, 0.0]
    assert metrics.min_dcf(perfect, 0.01).value == 0.0
    assert metrics.min_cllr(perfect) == 0.0
    inverted = ErrorRates.from_split([0.0, 1.0], [2.0, 3.0])
    assert metrics.eer(inverted).value == 1.0
    assert metrics.eer(inverted, "hull").value == 0.5  # the hull may also toss a coin
    assert metrics.min_dcf(inverted, 0.01).value == pytest.approx(1.0)
    assert metrics.min_cllr(inverted) == pytest.approx(1.0)


def test_scores_without_information_cost_one():
    rates = ErrorRates.from_split([0.0, 1.0], [0.0, 1.0])
    assert metrics.eer(rates).value == 0.5
    assert metrics.min_cllr(rates) == pytest.approx(1.0)
    assert metrics.cllr(ErrorRates.from_split([0.0, 0.0], [0.0, 1e-9])) == pytest.approx(1.0)


def test_nist_costs_are_means_over_their_applications():
    scores, is_target = random_scores(7)
    rates = ErrorRates.from_scores(scores, is_target)
    expected = (metrics.min_dcf(rates, 0.01).value + metrics.min_dcf(rates, 0.005).value) / 2
    assert metrics.nist_cost(rates, "sre16") == pytest.approx(expected)
    assert metrics.nist_cost(rates, "sre08", actual=True) == metrics.actual_dcf(rates, 0.01, 10.0, 1.0).value
    with pytest.raises(InputError, match="sre99"):
        metrics.nist_cost(rates, "sre99")


def test_float32_scores_stay_float32_whatever_the_block_size(monkeypatch):
    rng = np.random.default_rng(0)
    scores = np.round(rng.standard_normal(5000) * 20).astype(np.float32)
    is_target = rng.random(5000) < 0.5
    scores[is_target] += 15
    whole = ErrorRates.from_scores(scores, is_target)
    assert whole.targets.dtype == np.float32
    corners, cllr = whole.corners, metrics.cllr(whole)
    monkeypatch.setattr(metrics, "BLOCK", 7)
    blocks = ErrorRates.from_scores(scores, is_target)
    for a, b in zip(corners, blocks.corners):
        np.testing.assert_array_equal(a, b)
    assert metrics.cllr(blocks) == pytest.approx(cllr)


@pytest.mark.parametrize(
    "scores, is_target, message",
    [
        ([1.0, 2.0], [1, 1], "no nontarget .*2 target"),
        ([1.0, 2.0], [0, 0], "no target .*2 nontarget"),
        ([1.0, np.nan, 3.0], [1, 0, 1], "1 of 1 nontarget .*NaN"),
        ([-np.inf, 0.0, 3.0], [1, 0, 1], "1 of 2 target .*infinite"),
        ([0.5, 0.5, 0.5], [1, 0, 1], "3 scores .* 0.5"),
        ([1.0, 2.0], [1], r"\(2,\) .*\(1,\)"),
        ([1.0, 2.0], [1, 2], "1 .*target.* 0 .*nontarget"),
    ],
)
def test_unusable_scores_are_refused(scores, is_target, message):
    with pytest.raises(InputError, match=message):
        ErrorRates.from_scores(np.array(scores), np.array(is_target))


@pytest.mark.parametrize(
    "parameters, message",
    [
        ((0.0,), "p_target"),
        ((1.0,), "p_target"),
        ((0.1, 0.0), "c_miss"),
        ((0.1, np.inf), "c_miss"),
        ((0.1, 1.0, np.inf), "c_fa"),
    ],
)
def test_impossible_costs_are_refused(parameters, message):
    rates = ErrorRates.from_split([1.0], [0.0])
    for dcf in (metrics.min_dcf, metrics.actual_dcf):
        with pytest.raises(InputError, match=message):
            dcf(rates, *parameters)


@pytest.mark.parametrize("targets, nontargets", [([[2.0], [1.0]], [0.0]), ([1.0], [[0.0], [3.0]]), (1.0, [0.0])])
def test_scores_are_lists(targets, nontargets):
    with pytest.raises(InputError, match="shape"):
        ErrorRates.from_split(np.array(targets), np.array(nontargets))


def test_unknown_eer_rule_is_refused():
    with pytest.raises(InputError, match="interpolated, hull, kaldi"):
        metrics.eer(ErrorRates.from_split([1.0], [0.0]), "bosaris")
