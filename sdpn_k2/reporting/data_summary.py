"""The size of Kaldi data directories: utterances, speakers, hours and durations."""

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import read_map, read_numbers

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class SetSummary:
    """The size of one data directory; hours and durations are None where utt2dur is missing or empty.

    Attributes:
        name: name of the set.
        utterances: number of utterances.
        speakers: number of speakers in utt2spk, which training never reads.
        hours: total duration.
        seconds: ``QUANTILES`` of the durations.
    """

    name: str
    utterances: int
    speakers: int
    hours: Optional[float]
    seconds: Optional[List[float]]


def summarise_set(folder: Path) -> SetSummary:
    """Measure the size of a data directory.

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
    """Return the sets of the recipe's data folder: train, then the evaluation sets.

    Raises:
        InputError: no sets.
    """
    found = sorted(path.parent.name for path in data.glob("*/utt2spk"))
    if not found:
        raise InputError(f"{data}: no data directories here (SET/utt2spk)")
    return sorted(found, key=lambda name: (name != "train", name))
