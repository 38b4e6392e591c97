"""Kaldi's rules for the equal error rate and the minimum detection cost, against plain loops and Kaldi's digits."""

import numpy as np
import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.eer import kaldi_eer, kaldi_min_dcf


def eer_by_the_definition(target, nontarget):
    """Walk up the targets one by one; integers where Kaldi has integers."""
    target, nontarget = sorted(np.float32(target)), sorted(np.float32(nontarget))
    for position in range(len(target)):
        opposite = max(len(nontarget) - 1 - int(len(nontarget) * position * 1.0 / len(target)), 0)
        if position + 1 == len(target) or nontarget[opposite] < target[position]:
            return position / len(target), target[position]
    raise ValueError("no targets")


def min_dcf_by_the_definition(scores, is_target, p_target, c_miss, c_fa):
    """Reject the lowest 1, 2, … n scores; tied scores one by one in the order given."""
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    best = (np.inf, None)
    for cut in range(1, len(scores) + 1):
        missed = sum(is_target[i] for i in order[:cut]) / sum(is_target)
        accepted = sum(not is_target[i] for i in order[cut:]) / (len(scores) - sum(is_target))
        best = min(best, (c_miss * p_target * missed + c_fa * (1 - p_target) * accepted, scores[order[cut - 1]]))
    return best[0] / min(c_miss * p_target, c_fa * (1 - p_target)), best[1]


def random_scores(seed, num_target, num_nontarget, decimals):
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(1.5, 1, num_target), rng.normal(0, 1, num_nontarget)]).round(decimals)
    is_target = np.arange(len(scores)) < num_target
    order = rng.permutation(len(scores))
    return scores[order], is_target[order]


CASES = [(1, 100, 900, 6), (2, 50, 50, 6), (3, 1, 20, 6), (4, 20, 1, 6), (5, 200, 30, 1), (6, 7, 333, 0), (7, 1, 1, 3)]


@pytest.mark.parametrize("case", CASES)
def test_eer_follows_the_definition(case):
    scores, is_target = random_scores(*case)
    eer, threshold = kaldi_eer(scores[is_target], scores[~is_target])
    expected = eer_by_the_definition(scores[is_target], scores[~is_target])
    assert eer == pytest.approx(expected[0], rel=1e-7)
    assert threshold == expected[1]


@pytest.mark.parametrize("p_target, c_miss, c_fa", [(0.01, 1, 1), (0.001, 1, 1), (0.5, 2, 0.3), (0.9, 1, 10)])
@pytest.mark.parametrize("case", CASES)
def test_min_dcf_follows_the_definition(case, p_target, c_miss, c_fa):
    scores, is_target = random_scores(*case)
    min_dcf, _ = kaldi_min_dcf(scores, is_target, p_target, c_miss, c_fa)
    expected, _ = min_dcf_by_the_definition(list(scores), list(is_target), p_target, c_miss, c_fa)
    assert min_dcf == pytest.approx(expected, abs=1e-12)


def test_min_dcf_threshold_is_the_highest_rejected_score():
    assert kaldi_min_dcf([3.0, 1.0, 2.0, 0.0], [True, False, True, False], 0.5) == (0.0, 1.0)


def test_golden_digits(golden):
    lines = [line.split() for line in (golden / "eer_input").read_text().splitlines()]
    scores = np.array([float(score) for score, _ in lines])
    is_target = np.array([label == "target" for _, label in lines])
    eer, threshold = kaldi_eer(scores[is_target], scores[~is_target])
    assert f"{100 * eer:.4g}" == (golden / "eer.txt").read_text()
    assert f"is {100 * eer:g}%, at threshold {threshold:g}" in (golden / "eer.stderr.txt").read_text()
    for line in (golden / "mindcf.txt").read_text().splitlines():
        p_target, expected = line.split()
        assert f"{kaldi_min_dcf(scores, is_target, float(p_target))[0]:.4f}" == expected


def test_tied_scores_as_kaldi(golden):
    assert kaldi_eer([1, 0], [1, 0, -1]) == (0.5, 1.0)
    assert (golden / "eer_tied.txt").read_text() == "50"


def test_unusable_scores_are_refused():
    with pytest.raises(InputError, match="no target"):
        kaldi_eer([], [1.0])
    with pytest.raises(InputError, match="no nontarget"):
        kaldi_eer([1.0], [])
    with pytest.raises(InputError, match="NaN"):
        kaldi_eer([1.0, np.nan], [0.0])
    with pytest.raises(InputError, match="2 of 2"):
        kaldi_min_dcf([1.0, 2.0], [True, True])
    with pytest.raises(InputError, match="score 2 "):
        kaldi_min_dcf([1.0, np.nan], [True, False])
