"""Confidence intervals over speakers: their definition and their coverage."""

import numpy as np
import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.scoring import metrics
from sdpn_k2.scoring.confidence import bootstrap_intervals, trial_speakers
from sdpn_k2.scoring.trial_arrays import Trials


def all_trials(n_speakers, n_utterances, seed, spread=0.5):
    """All pairs of utterances of speakers who differ in how well they are recognised."""
    rng = np.random.default_rng(seed)
    ids = [f"s{s}-{u}" for s in range(n_speakers) for u in range(n_utterances)]
    e, t = np.triu_indices(len(ids), 1)
    speakers = np.repeat(np.arange(n_speakers), n_utterances)
    is_target = speakers[e] == speakers[t]
    ease = rng.normal(2.0, spread, n_speakers)
    scores = rng.standard_normal(len(e)) + np.where(is_target, ease[speakers[e]], 0.0)
    trials = Trials(ids, ids, e.astype(np.int32), t.astype(np.int32), is_target)
    return trials, scores, {name: name.split("-")[0] for name in ids}


def test_draws_are_those_of_repeated_trials():
    """With one draw the interval is one value: the metric of the trials, each repeated by its count."""
    trials, scores, utt2spk = all_trials(8, 4, 0)
    scores = np.round(scores, 1)  # ties
    speakers = trial_speakers(trials, utt2spk)
    for seed in range(10):
        counts = np.bincount(np.random.default_rng(seed).integers(0, 8, 8), minlength=8)
        times = np.where(trials.is_target, counts[speakers.enroll], counts[speakers.enroll] * counts[speakers.test])
        rates = metrics.ErrorRates.from_scores(np.repeat(scores, times), np.repeat(trials.is_target, times))
        intervals = bootstrap_intervals(
            scores,
            trials.is_target,
            speakers,
            p_targets=(0.05, 0.3),
            c_miss=2.0,
            evaluations=["sre16"],
            n_draws=1,
            seed=seed,
        )
        assert intervals.eer.low == intervals.eer.high == pytest.approx(metrics.eer(rates).value, abs=1e-12)
        assert intervals.cllr.low == pytest.approx(metrics.cllr(rates), abs=1e-12)
        for p_target in (0.05, 0.3):
            for found, expected in ((intervals.min_dcf, metrics.min_dcf), (intervals.actual_dcf, metrics.actual_dcf)):
                assert found[p_target].low == pytest.approx(expected(rates, p_target, 2.0).value, abs=1e-12)
        for kind in ("min", "actual"):
            expected = metrics.nist_cost(rates, "sre16", actual=kind == "actual")
            assert intervals.nist["sre16"][kind].low == pytest.approx(expected, abs=1e-12)


def test_intervals_usually_hold_the_truth():
    """The EER over endless speakers lies in the 80 % interval in roughly 80 % of the experiments."""
    trials, scores, _ = all_trials(400, 6, 0)
    truth = metrics.eer(metrics.ErrorRates.from_scores(scores, trials.is_target)).value
    held = 0
    for seed in range(1, 61):
        trials, scores, utt2spk = all_trials(30, 6, seed)
        interval = bootstrap_intervals(
            scores, trials.is_target, trial_speakers(trials, utt2spk), p_targets=(), level=0.8, n_draws=200
        ).eer
        held += interval.low <= truth <= interval.high
    assert 36 <= held <= 57


def test_speakers_come_from_utterances_or_models():
    trials = Trials(["s1", "s2"], ["s1-a"], np.array([0, 1], np.int32), np.zeros(2, np.int32), np.array([True, False]))
    speakers = trial_speakers(trials, {"s1-a": "s1", "s2-a": "s2"})
    assert speakers.enroll.tolist() == [0, 1] and speakers.test.tolist() == [0, 0]


def test_unusable_speakers_are_refused():
    trials, scores, utt2spk = all_trials(3, 2, 0)
    with pytest.raises(InputError, match="trials: .* s2-1 .*; 1 ids"):
        trial_speakers(trials, {name: speaker for name, speaker in utt2spk.items() if name != "s2-1"})
    with pytest.raises(InputError, match="trials: s0-0 s1-0 .*nontarget.*; 12 "):
        trial_speakers(trials, dict.fromkeys(utt2spk, "one"))
    one = Trials(["a", "b"], ["a", "b"], np.array([0], np.int32), np.array([1], np.int32), np.array([True]))
    with pytest.raises(InputError, match="2 speakers"):
        bootstrap_intervals(np.zeros(1), one.is_target, trial_speakers(one, {"a": "s", "b": "s"}))
    with pytest.raises(InputError, match="level .* 95"):
        bootstrap_intervals(scores, trials.is_target, trial_speakers(trials, utt2spk), level=95)
