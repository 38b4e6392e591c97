"""The course of a training run, from ``metrics.jsonl``: one JSON object for each logged step."""

import json
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from sdpn_k2.config import Config
from sdpn_k2.errors import InputError
from sdpn_k2.training.health import Limit, limits


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


class Check(NamedTuple):
    """One of the trainer's checks for collapse, over a whole run.

    Attributes:
        metric: what is checked.
        limit: the trainer's limit.
        worst: the value that comes nearest to the limit, or goes furthest beyond it.
        crossed: the steps beyond the limit.
        logged: number of logged steps.
    """

    metric: str
    limit: Limit
    worst: float
    crossed: List[int]
    logged: int

    @property
    def passed(self) -> bool:
        """Whether no logged step was beyond the limit."""
        return not self.crossed

    def __str__(self) -> str:
        side = "least" if self.limit.is_least else "most"
        bound = f"at {side} {self.limit.value:.3g} is healthy"
        if self.passed:
            return f"healthy: {self.worst:.3g} at the worst ({bound})"
        return (
            f"possible collapse at {len(self.crossed)} of {self.logged} logged steps, first {self.crossed[0]}, last "
            f"{self.crossed[-1]} ({bound})"
        )


def check_health(steps: np.ndarray, values: Mapping[str, np.ndarray], config: Config) -> List[Check]:
    """Apply the trainer's limits to the course of a run; metrics that were not logged have no check."""
    checks = []
    for metric, limit in limits(config).items():
        logged = np.isfinite(values.get(metric, np.empty(0)))
        if logged.any():
            known = values[metric][logged]
            crossed = [int(step) for step, value in zip(steps[logged], known) if limit.is_crossed_by(value)]
            worst = float(known.min() if limit.is_least else known.max())
            checks.append(Check(metric, limit, worst, crossed, len(known)))
    return checks


def training_seconds(values: Mapping[str, np.ndarray]) -> Optional[float]:
    """Return the time of training, over all sessions; None where it was not logged."""
    known = values.get("seconds", np.empty(0))
    known = known[np.isfinite(known)]
    return float(known.max()) if len(known) else None
