"""Conditions of trials, from values and from the tables of a data directory, and the error rates of each."""

import numpy as np
import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.scoring.conditions import by_gender, by_value, known_conditions, rates_by_condition
from sdpn_k2.scoring.trial_arrays import Trials


def make_trials():
    return Trials(
        ["a", "b"], ["c", "d", "e"], np.array([0, 0, 0, 1, 1, 1], np.int32), np.array([0, 1, 2, 0, 1, 2], np.int32)
    )


def test_conditions_by_the_shorter_side():
    durations = {"a": 5.0, "b": 1.9, "c": 2.0, "d": 8.0}
    names, of_trial = by_value(make_trials(), durations, [2.0, 4.0], "s")
    assert names == ["< 2 s", "2-4 s", ">= 4 s"]
    assert of_trial.tolist() == [1, 2, -1, 0, 0, -1]
    with pytest.raises(InputError, match=r"4\.0, 2\.0"):
        by_value(make_trials(), durations, [4.0, 2.0], "s")


def test_conditions_by_gender_leave_out_mixed_trials():
    names, of_trial = by_gender(make_trials(), {"a": "f", "b": "m", "c": "f", "d": "m"})
    assert names == ["female", "male"] and of_trial.tolist() == [0, -1, -1, -1, 1, -1]


def test_rates_of_each_condition():
    conditions = by_value(make_trials(), {"a": 5.0, "b": 1.0, "c": 6.0, "d": 6.0, "e": 6.0}, [2.0], "s")
    rates = rates_by_condition(np.array([3.0, 1.0, 2.0, 7.0, 8.0, 9.0]), np.array([1, 0, 0, 1, 1, 1], bool), conditions)
    assert rates["< 2 s"] is None  # targets only
    assert rates[">= 2 s"].targets.tolist() == [3.0] and rates[">= 2 s"].nontargets.tolist() == [1.0, 2.0]


@pytest.fixture
def data(tmp_path):
    """A data directory of 8 speakers with 6 utterances of 2 to 7 s, and all its pairs."""
    ids = [f"s{speaker}-u{number}" for speaker in range(8) for number in range(6)]
    (tmp_path / "utt2spk").write_text("".join(f"{name} {name[:2]}\n" for name in ids))
    (tmp_path / "utt2dur").write_text("".join(f"{name} {2 + i % 6}\n" for i, name in enumerate(ids)))
    (tmp_path / "spk2gender").write_text("".join(f"s{i} {'fm'[i % 2]}\n" for i in range(8)))
    enroll, test = (side.astype(np.int32) for side in np.triu_indices(len(ids), 1))
    return tmp_path, Trials(ids, ids, enroll, test)


def test_tables_divide_the_trials_into_about_thirds(data):
    folder, trials = data
    conditions = known_conditions(folder, trials)
    assert list(conditions) == ["duration of the shorter side", "gender"]
    duration = conditions["duration of the shorter side"]
    assert duration.names == ["< 3 s", "3-4 s", ">= 4 s"]
    assert np.bincount(duration.of_trial).min() > len(trials) / 5
    women = {f"s{speaker}" for speaker in range(0, 8, 2)}
    for i, condition in enumerate(conditions["gender"].of_trial):
        sides = [name[:2] in women for name in trials.pair(i).split()]
        assert condition == (-1 if sides[0] != sides[1] else 0 if sides[0] else 1)


def test_equal_durations_give_no_conditions(data):
    folder, trials = data
    (folder / "utt2dur").write_text("".join(f"{name} 8\n" for name in trials.enroll_ids))
    assert list(known_conditions(folder, trials)) == ["gender"]
