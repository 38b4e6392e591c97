"""Thresholds for decisions: measured on labelled trials, stored with the results of an experiment."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Dict, NamedTuple, Optional

from sdpn_k2.errors import InputError
from sdpn_k2.scoring.metrics import ErrorRates, eer, min_dcf

PRIORS = (0.01, 0.05, 0.1, 0.5)
EER = "eer"


class Threshold(NamedTuple):
    """A score from which on a trial is accepted, and where it comes from."""

    value: float
    source: str


def measure_thresholds(rates: ErrorRates) -> Dict[str, float]:
    """Return the thresholds at the EER (key ``eer``) and at the minDCF of each of ``PRIORS`` (keys such as ``0.01``).

    A prior at which rejecting everything costs least has no threshold.
    """
    thresholds = {EER: eer(rates).threshold}
    thresholds.update({f"{prior:g}": min_dcf(rates, prior).threshold for prior in PRIORS})
    return {name: float(value) for name, value in thresholds.items() if math.isfinite(value)}


def find_threshold(
    results: Path, scoring: str, p_target: Optional[float] = None, kind: Optional[str] = None
) -> Optional[Threshold]:
    """Return the threshold that an experiment measured for a scoring; None if it measured none.

    With several trial lists, the first one of a set called ``dev`` counts, else the first one.

    Args:
        results: the experiment's results.json.
        scoring: ``cosine``, ``cosine_mean``, ``plda`` or another one in that file.
        p_target: prior of the minDCF, one of ``PRIORS``; None for the EER.
        kind: kind of the scores to decide on (``Backend.kind``), which those measured should have; None for any.

    Raises:
        InputError: the file is broken; it has thresholds of this scoring but none at this prior, or of another kind.
    """
    if not results.is_file():
        return None
    try:
        rows = json.loads(results.read_text(encoding="utf-8"))["results"]
        measured = [row for row in rows if row["backend"] == scoring and row.get("thresholds")]
        if not measured:
            return None
        row = min(measured, key=lambda row: row["set"] != "dev")
        measured_kind = row.get("kind")
        name = EER if p_target is None else f"{p_target:g}"
        other = bool(kind and measured_kind and kind != measured_kind)
        if name in row["thresholds"] and not other:
            what = f"EER {100 * row['eer']:.2f} %" if p_target is None else f"minDCF({name})"
            source = f"{what} of {row['set']}/{row['trials']}, {results}"
            return Threshold(float(row["thresholds"][name]), source)
        priors = ", ".join(key for key in row["thresholds"] if key != EER)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{results}: not the results of an experiment ({error})") from error
    if other:
        raise InputError(
            f"{results}: its thresholds are of {measured_kind} scores, but this back end gives {kind} scores; "
            "score and measure again (stages 6 and 7 of run.sh)"
        )
    raise InputError(
        f"{results}: no threshold for the prior {name}; it has {priors}, and a calibration is for any prior"
    )
