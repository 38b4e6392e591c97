"""Diarization error rate (DER) by the rules of NIST's md-eval.pl.

Time that counts is the union of the regions to score, without collars around the borders of the reference's turns and,
if wanted, without overlapping speech. At each instant, let there be r speakers in the reference, s in the system's
output, and c of them that are mapped to one another. Missed time is max(r - s, 0), false alarm max(s - r, 0), and
confusion min(r, s) - c, all in speaker seconds. DER is their sum divided by the speaker seconds of the reference.

The mapping pairs each speaker of the reference with at most one of the system, in each recording and channel, so that
the time they share is largest. As in md-eval.pl, collars and overlapping speech count for the mapping.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Dict, List, Mapping, Sequence, Tuple

import numpy as np

from sdpn_k2.errors import InputError

Spans = Sequence[Tuple[float, float]]  # (start, end) in seconds
Speakers = Mapping[str, Spans]  # speaker → when they speak


@dataclass
class DiarizationErrors:
    """Times in seconds. "Speech" counts each instant once, "speaker" time once for each speaker.

    Attributes:
        evaluated: time in the regions to score.
        evaluated_speech: the part in which somebody speaks.
        scored: the part that counts, without collars and what else is excluded.
        scored_speech: the part of that in which somebody speaks.
        missed_speech: speech in which the system hears nobody.
        false_speech: silence in which the system hears somebody.
        scored_speaker: speaker time of the reference.
        missed_speaker: speakers whom the system does not hear.
        false_speaker: speakers whom only the system hears.
        confusion: speakers whom the system takes for another.
    """

    evaluated: float = 0.0
    evaluated_speech: float = 0.0
    scored: float = 0.0
    scored_speech: float = 0.0
    missed_speech: float = 0.0
    false_speech: float = 0.0
    scored_speaker: float = 0.0
    missed_speaker: float = 0.0
    false_speaker: float = 0.0
    confusion: float = 0.0

    def __add__(self, other: DiarizationErrors) -> DiarizationErrors:
        """Return the errors of both together."""
        return DiarizationErrors(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def rate(self) -> float:
        """Return the diarization error rate, which can exceed 1. Raises InputError if nobody speaks."""
        if not self.scored_speaker > 0:
            raise InputError("no speech of the reference is left to score, so there is no diarization error rate")
        return (self.missed_speaker + self.false_speaker + self.confusion) / self.scored_speaker


@dataclass
class ScoredRecording:
    """The errors of one channel of a recording, and how its speakers were mapped."""

    errors: DiarizationErrors
    pairs: Dict[str, str] = field(default_factory=dict)
    shared: Dict[Tuple[str, str], float] = field(default_factory=dict)


def score_recording(
    reference: Speakers,
    system: Speakers,
    regions: Spans,
    *,
    collar: float = 0.0,
    single_speaker: bool = False,
    excluded: Spans = (),
) -> ScoredRecording:
    """Compare two diarizations of one channel of a recording.

    Args:
        reference: who speaks when.
        system: who speaks when, as a system says.
        regions: what to evaluate; the regions do not overlap.
        collar: seconds before and after each border of the reference's turns that do not count.
        single_speaker: leave out the time in which several speakers of the reference speak.
        excluded: further times that are not evaluated.

    Returns:
        The errors; ``pairs``, speaker of the reference → of the system; ``shared``, the seconds of each pair that
        speaks at the same time.
    """
    turns = [span for spans in reference.values() for span in spans]
    collars = [(time - collar, time + collar) for span in turns for time in span] if collar > 0 else []
    groups = [*reference.values(), *system.values(), regions, excluded, collars]
    edges = np.unique(np.array([time for spans in groups for span in spans for time in span], float))
    seconds = np.diff(edges)

    def active(spans: Spans) -> np.ndarray:
        """Return how many of the spans cover each of the intervals between neighbouring edges."""
        changes = np.zeros(len(edges) + 1, np.int64)
        if len(spans):
            times = np.searchsorted(edges, np.array(spans, float))
            np.add.at(changes, times[:, 0], 1)
            np.add.at(changes, times[:, 1], -1)
        counts: np.ndarray = np.cumsum(changes)[: len(seconds)]
        return counts

    def speaking(speakers: Speakers) -> np.ndarray:
        """Return whether each speaker (rows) speaks in each interval (columns)."""
        rows = [active(spans) > 0 for spans in speakers.values()]
        return np.stack(rows) if rows else np.zeros((0, len(seconds)), bool)

    heard, claimed = speaking(reference), speaking(system)
    evaluated = seconds * ((active(regions) > 0) & (active(excluded) == 0))
    shared = (heard * evaluated) @ claimed.T.astype(float)  # (reference, system)
    mapped = [(row, column) for row, column in best_assignment(shared) if shared[row, column] > 0]

    counts = active(collars) == 0
    if single_speaker:
        counts &= active(turns) < 2
    scored = evaluated * counts
    num_heard, num_claimed = heard.sum(axis=0), claimed.sum(axis=0)
    num_right = sum((heard[row] & claimed[column] for row, column in mapped), np.zeros(len(seconds), np.int64))
    errors = DiarizationErrors(
        evaluated=float(evaluated.sum()),
        evaluated_speech=float(evaluated @ (num_heard > 0)),
        scored=float(scored.sum()),
        scored_speech=float(scored @ (num_heard > 0)),
        missed_speech=float(scored @ ((num_heard > 0) & (num_claimed == 0))),
        false_speech=float(scored @ ((num_claimed > 0) & (num_heard == 0))),
        scored_speaker=float(scored @ num_heard),
        missed_speaker=float(scored @ np.maximum(num_heard - num_claimed, 0)),
        false_speaker=float(scored @ np.maximum(num_claimed - num_heard, 0)),
        confusion=float(scored @ (np.minimum(num_heard, num_claimed) - num_right)),
    )
    ours, theirs = list(reference), list(system)
    return ScoredRecording(
        errors,
        {ours[row]: theirs[column] for row, column in mapped},
        {(ours[row], theirs[column]): float(shared[row, column]) for row, column in zip(*np.nonzero(shared))},
    )


def best_assignment(weights: np.ndarray) -> List[Tuple[int, int]]:
    """Pair rows with columns so that the sum of the weights of all pairs is largest (Hungarian method).

    Args:
        weights: ``(n, m)``, at least 0.

    Returns:
        The ``min(n, m)`` pairs (row, column), by row.
    """
    rows, columns = weights.shape
    if rows > columns:
        return sorted((row, column) for column, row in best_assignment(weights.T))
    costs = -weights
    # Kuhn and Munkres with potentials: each row in turn finds the cheapest path to a free column.
    row_potential, column_potential = np.zeros(rows), np.zeros(columns + 1)
    row_of = np.full(columns + 1, -1)  # the last column stands for the row that looks for one
    for row in range(rows):
        row_of[columns] = row
        distance, before = np.full(columns, np.inf), np.full(columns, columns)
        used = np.zeros(columns + 1, bool)
        column = columns
        while row_of[column] >= 0:
            used[column] = True
            current = row_of[column]
            slack = costs[current] - row_potential[current] - column_potential[:-1]
            nearer = ~used[:-1] & (slack < distance)
            distance[nearer], before[nearer] = slack[nearer], column
            open_columns = np.where(used[:-1], np.inf, distance)
            column = int(open_columns.argmin())
            step = open_columns[column]
            row_potential[row_of[used]] += step
            column_potential[used] -= step
            distance[~used[:-1]] -= step
        while column != columns:
            row_of[column] = row_of[before[column]]
            column = int(before[column])
    return sorted((int(row), column) for column, row in enumerate(row_of[:-1].tolist()) if row >= 0)
