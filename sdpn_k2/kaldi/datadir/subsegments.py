"""Overlapping windows of speech segments, as Kaldi's diarization uses them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Dict, Iterator, List, Sequence, Tuple

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.utterances import Part

LEAST_SHIFT = 0.01  # seconds; names of windows contain times in hundredths of a second
OVERLAP_TOLERANCE = 1e-3  # seconds; segments are written with few digits


@dataclass(frozen=True)
class Windowing:
    """Length and shift of the windows in seconds.

    A remainder of at least ``min_window`` at the end of a segment becomes a window of its own.
    """

    window: float = 1.5
    shift: float = 0.75
    min_window: float = 0.5

    def __post_init__(self) -> None:
        """Raise InputError if the numbers contradict each other."""
        if not (0 < self.shift <= self.window < math.inf and 0 < self.min_window <= self.window):
            raise InputError(
                f"window {self.window:g} s, shift {self.shift:g} s, least window {self.min_window:g} s: "
                "shift and least window should lie above 0 and not exceed the window"
            )
        if self.shift < LEAST_SHIFT:
            raise InputError(
                f"shift {self.shift:g} s: names of windows count hundredths of a second, so it should be "
                f"at least {LEAST_SHIFT:g} s"
            )


def uniform_windows(duration: float, windowing: Windowing) -> Iterator[Tuple[float, float]]:
    """Yield start and end of the windows of a segment, in seconds from its start.

    The windows are those of Kaldi's ``get_uniform_subsegments.py --constant-duration=True``. If less than
    ``min_window`` is left at the end, the last window begins earlier to reach its full length. A segment that is
    shorter than a window is one window.
    """
    start, left = 0.0, duration
    while left > windowing.window:
        yield start, start + windowing.window
        start, left = start + windowing.shift, left - windowing.shift
    if left < windowing.min_window:
        start = max(duration - windowing.window, 0.0)
    yield start, min(start + windowing.window, duration)


def times_in_name(start: float, end: float) -> str:
    """Return the suffix of a window's name: start and end (given in seconds) as 8 digits of hundredths each."""
    return f"{round(100 * start):08d}-{round(100 * end):08d}"


def check_no_overlap(parts: Sequence[Part], where: str) -> None:
    """Raise InputError if two segments of a recording overlap: their shared speech would count twice."""
    by_recording: Dict[str, List[Part]] = {}
    for part in parts:
        by_recording.setdefault(part.recording, []).append(part)
    for some in by_recording.values():
        some.sort(key=lambda part: part.start)
        for first, second in zip(some, some[1:]):
            if first.end == -1 or second.start < first.end - OVERLAP_TOLERANCE:
                end = "the end" if first.end == -1 else f"{first.end:g} s"
                raise InputError(
                    f"{where}: '{first.utterance}' ({first.start:g} s to {end}) overlaps "
                    f"'{second.utterance}' (from {second.start:g} s) in recording '{first.recording}'"
                )
