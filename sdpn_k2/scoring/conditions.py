"""Which condition a trial belongs to (duration, SNR, gender), and the error rates of each."""

from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.scoring.metrics import ErrorRates
from sdpn_k2.scoring.trial_list import Trials


class Conditions(NamedTuple):
    """The condition of every trial.

    Attributes:
        names: of the conditions.
        of_trial: index into ``names``, -1 for trials whose condition is not known; int64, shape (n,).
    """

    names: List[str]
    of_trial: np.ndarray


def by_value(trials: Trials, values: Mapping[str, float], edges: Sequence[float], unit: str) -> Conditions:
    """Conditions by the lower value of the two sides, such as the shorter duration or the worse SNR.

    Args:
        trials: the trials.
        values: value of each utterance (utt2dur in seconds, SNR in dB); a trial with an id that has none is left out.
        edges: ascending limits between the conditions; a value equal to an edge belongs above it.
        unit: for the names: ``"< 2 s"``, ``"2-4 s"``, ``">= 4 s"`` for edges 2 and 4.

    Raises:
        InputError: no edges, or edges that do not ascend.
    """
    if not len(edges) or (np.diff(edges) <= 0).any():
        raise InputError(f"the edges of conditions must ascend, are {list(edges)}")
    enroll, test = (
        np.array([values.get(name, np.nan) for name in ids])[index]
        for ids, index in ((trials.enroll_ids, trials.enroll), (trials.test_ids, trials.test))
    )
    lower = np.minimum(enroll, test)  # NaN where either is unknown
    of_trial = np.where(np.isnan(lower), -1, np.searchsorted(edges, lower, side="right"))
    names = (
        [f"< {edges[0]:g} {unit}"]
        + [f"{low:g}-{high:g} {unit}" for low, high in zip(edges, edges[1:])]
        + [f">= {edges[-1]:g} {unit}"]
    )
    return Conditions(names, of_trial)


def by_gender(trials: Trials, genders: Mapping[str, str]) -> Conditions:
    """Trials between women and trials between men; mixed trials, easy as they are, belong to neither.

    Args:
        trials: the trials.
        genders: ``f`` or ``m`` for each id of the trials (spk2gender through utt2spk); others are unknown.
    """
    codes = {"f": 0, "m": 1}
    enroll, test = (
        np.array([codes.get(genders.get(name, ""), -1) for name in ids])[index]
        for ids, index in ((trials.enroll_ids, trials.enroll), (trials.test_ids, trials.test))
    )
    return Conditions(["female", "male"], np.where(enroll == test, enroll, -1))


def rates_by_condition(
    scores: np.ndarray, is_target: np.ndarray, conditions: Conditions
) -> Dict[str, Optional[ErrorRates]]:
    """The error rates of every condition, None where it has not both kinds of trials or only one score."""
    rates: Dict[str, Optional[ErrorRates]] = {}
    for i, name in enumerate(conditions.names):
        chosen = conditions.of_trial == i
        try:
            rates[name] = ErrorRates.from_scores(scores[chosen], is_target[chosen])
        except InputError:
            rates[name] = None
    return rates
