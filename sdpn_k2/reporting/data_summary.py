"""How much there is in a Kaldi data directory, and into which conditions its trials fall."""

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import read_map, read_numbers
from sdpn_k2.scoring.conditions import Conditions, by_gender, by_value
from sdpn_k2.scoring.trial_list import Trials

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class SetSummary:
    """One data directory; times are None where utt2dur is missing or empty.

    Attributes:
        name: of the set.
        utterances: number of utterances.
        speakers: number of speakers by utt2spk, which training never sees.
        hours: of all utterances.
        seconds: ``QUANTILES`` of the durations.
    """

    name: str
    utterances: int
    speakers: int
    hours: Optional[float]
    seconds: Optional[List[float]]


def summarise_set(folder: Path) -> SetSummary:
    """Counts a data directory.

    Raises:
        InputError: no utt2spk, or a malformed table.
    """
    utt2spk = read_map(folder / "utt2spk")
    hours = seconds = None
    durations = list(read_numbers(folder / "utt2dur").values()) if (folder / "utt2dur").is_file() else []
    if durations:
        hours, seconds = sum(durations) / 3600, np.quantile(durations, QUANTILES).tolist()
    return SetSummary(folder.name, len(utt2spk), len(set(utt2spk.values())), hours, seconds)


def set_names(data: Path) -> List[str]:
    """The sets of the recipe's data folder: train, then the evaluation sets.

    Raises:
        InputError: none there.
    """
    found = sorted(path.parent.name for path in data.glob("*/utt2spk"))
    if not found:
        raise InputError(f"{data}: no data directories (SET/utt2spk) in it")
    return sorted(found, key=lambda name: (name != "train", name))


def known_conditions(folder: Path, trials: Trials) -> Dict[str, Conditions]:
    """The conditions that a data directory lets one tell apart, by title.

    Duration needs utt2dur (thirds of the trials by the shorter side), SNR needs utt2snr (dB; thirds by the worse side),
    gender needs spk2gender. A division that puts all trials into one condition is left out.

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
            edges = _third_edges(trials, values, step)
            if edges:
                found[title] = by_value(trials, values, edges, unit)
    if (folder / "spk2gender").is_file() and (folder / "utt2spk").is_file():
        of_speaker = read_map(folder / "spk2gender")
        genders = dict(of_speaker)  # an enrolled model has its speaker's name
        genders.update((name, of_speaker.get(speaker, "")) for name, speaker in read_map(folder / "utt2spk").items())
        found["gender"] = by_gender(trials, genders)
    return {
        title: conditions
        for title, conditions in found.items()
        if len(np.unique(conditions.of_trial[conditions.of_trial >= 0])) > 1
    }


def _third_edges(trials: Trials, values: Dict[str, float], step: float) -> List[float]:
    """Round numbers that part the trials into about three equal lots."""
    lower = np.minimum(
        *(
            np.array([values.get(name, np.nan) for name in ids])[index]
            for ids, index in ((trials.enroll_ids, trials.enroll), (trials.test_ids, trials.test))
        )
    )
    lower = lower[~np.isnan(lower)]
    if not len(lower):
        return []
    edges = np.unique(np.round(np.quantile(lower, (1 / 3, 2 / 3)) / step) * step)
    return [float(edge) for edge in edges if lower.min() < edge <= lower.max()]
