"""Conditions of trials (duration, SNR, gender) and the error rates of each."""

from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import read_map, read_numbers
from sdpn_k2.scoring.metrics import ErrorRates
from sdpn_k2.scoring.trial_arrays import Trials


class Conditions(NamedTuple):
    """The condition of every trial.

    Attributes:
        names: names of the conditions.
        of_trial: index into ``names``, -1 for trials of unknown condition; int64, shape (n,).
    """

    names: List[str]
    of_trial: np.ndarray


def known_conditions(folder: Path, trials: Trials) -> Dict[str, Conditions]:
    """Return, by title, the divisions of the trials that a data directory's tables allow.

    Duration needs utt2dur (thirds of the trials by the shorter side), SNR needs utt2snr (dB; thirds by the worse side),
    and gender needs spk2gender. Leave out a division that puts all trials into one condition.

    Raises:
        InputError: a malformed table.
    """
    found = {}
    for table, title, unit, step in (
        ("utt2dur", "duration of the shorter side", "s", 0.5),
        ("utt2snr", "SNR of the worse side", "dB", 1.0),
    ):
        if (folder / table).is_file():
            values = read_numbers(folder / table)
            edges = _third_edges(_lower_side(trials, values), step)
            if edges:
                found[title] = by_value(trials, values, edges, unit)
    if (folder / "spk2gender").is_file() and (folder / "utt2spk").is_file():
        of_speaker = read_map(folder / "spk2gender")
        genders = dict(of_speaker)  # an enrolled model has the name of its speaker
        genders.update((name, of_speaker.get(speaker, "")) for name, speaker in read_map(folder / "utt2spk").items())
        found["gender"] = by_gender(trials, genders)
    return {
        title: conditions
        for title, conditions in found.items()
        if len(np.unique(conditions.of_trial[conditions.of_trial >= 0])) > 1
    }


def by_value(trials: Trials, values: Mapping[str, float], edges: Sequence[float], unit: str) -> Conditions:
    """Divide trials by the lower value of the two sides, such as the shorter duration or the worse SNR.

    Args:
        trials: the trials.
        values: value of each utterance (utt2dur in seconds, SNR in dB); trials with an id without a value are left out.
        edges: ascending limits between the conditions; a value equal to an edge belongs above it.
        unit: unit in the names: ``"< 2 s"``, ``"2-4 s"``, ``">= 4 s"`` for the edges 2 and 4.

    Raises:
        InputError: no edges, or edges that do not ascend.
    """
    if not len(edges) or (np.diff(edges) <= 0).any():
        raise InputError(f"the edges of conditions must ascend, not {list(edges)}")
    lower = _lower_side(trials, values)
    of_trial = np.where(np.isnan(lower), -1, np.searchsorted(edges, lower, side="right"))
    names = (
        [f"< {edges[0]:g} {unit}"]
        + [f"{low:g}-{high:g} {unit}" for low, high in zip(edges, edges[1:])]
        + [f">= {edges[-1]:g} {unit}"]
    )
    return Conditions(names, of_trial)


def by_gender(trials: Trials, genders: Mapping[str, str]) -> Conditions:
    """Divide trials into those between women and those between men; leave out mixed trials, which are easy.

    Args:
        trials: the trials.
        genders: ``f`` or ``m`` for the ids of the trials (spk2gender through utt2spk).
    """
    codes = {"f": 0, "m": 1}
    enroll, test = _both_sides(trials, {name: codes.get(gender, -1) for name, gender in genders.items()}, -1)
    return Conditions(["female", "male"], np.where(enroll == test, enroll, -1))


def rates_by_condition(
    scores: np.ndarray, is_target: np.ndarray, conditions: Conditions
) -> Dict[str, Optional[ErrorRates]]:
    """Return the error rates of every condition, None where it has one kind of trials or one score only."""
    rates: Dict[str, Optional[ErrorRates]] = {}
    for i, name in enumerate(conditions.names):
        chosen = conditions.of_trial == i
        try:
            rates[name] = ErrorRates.from_scores(scores[chosen], is_target[chosen])
        except InputError:
            rates[name] = None
    return rates


def _both_sides(trials: Trials, values: Mapping[str, float], missing: float) -> Tuple[np.ndarray, np.ndarray]:
    """Return the values of the enrolment and of the test id of every trial, shape (n,) each."""
    enroll, test = (
        np.array([values.get(name, missing) for name in ids])[index]
        for ids, index in ((trials.enroll_ids, trials.enroll), (trials.test_ids, trials.test))
    )
    return enroll, test


def _lower_side(trials: Trials, values: Mapping[str, float]) -> np.ndarray:
    """Return the lower value of the two sides of every trial, shape (n,), NaN where one is unknown."""
    return np.asarray(np.minimum(*_both_sides(trials, values, np.nan)))


def _third_edges(lower: np.ndarray, step: float) -> List[float]:
    """Return round numbers that divide ``lower`` into about three equal parts."""
    lower = lower[~np.isnan(lower)]
    if not len(lower):
        return []
    edges = np.unique(np.round(np.quantile(lower, (1 / 3, 2 / 3)) / step) * step)
    return [float(edge) for edge in edges if lower.min() < edge <= lower.max()]
