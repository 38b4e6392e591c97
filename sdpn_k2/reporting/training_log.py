"""The course of a training run, from ``metrics.jsonl``: one JSON object for each logged step."""

import json
from pathlib import Path
from typing import Dict, NamedTuple, Tuple

import numpy as np

from sdpn_k2.errors import InputError


class Course(NamedTuple):
    """The course of one metric: means over the first and the last tenth of its values, and its extremes."""

    start: float
    end: float
    low: float
    high: float


def read_metrics(path: Path) -> Tuple[np.ndarray, Dict[str, np.ndarray]]:
    """Return the steps, int64 ``(n,)``, and each metric, float64 ``(n,)``, NaN at steps without it.

    Raises:
        InputError: an unreadable file, a line that is not a JSON object of numbers with a step (the last line may be
            cut short), or no steps.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            records.append((int(record.pop("step")), {name: float(value) for name, value in record.items()}))
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError):
            if number == len(lines):  # the run was stopped while it wrote
                break
            raise InputError(f"{path}:{number}: not a JSON object with a step") from None
    if not records:
        raise InputError(f"{path}: no steps")
    names = list(dict.fromkeys(name for _, record in records for name in record))
    values = {name: np.array([record.get(name, np.nan) for _, record in records], float) for name in names}
    return np.array([step for step, _ in records]), values


def course(values: np.ndarray) -> Course:
    """Summarise one metric, NaN at steps where it was not logged. Return NaN if it never was."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Course(np.nan, np.nan, np.nan, np.nan)
    tenth = max(1, len(known) // 10)
    return Course(float(known[:tenth].mean()), float(known[-tenth:].mean()), float(known.min()), float(known.max()))
