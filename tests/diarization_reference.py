"""Diarization error rates from frames of a millisecond, to compare the toolkit's with."""

import numpy as np
from scipy.optimize import linear_sum_assignment

FRAMES = 1000  # per second


def read_turns(path):
    """Return (recording, channel) → list of (start, end, speaker) of the SPEAKER lines of an RTTM file."""
    turns = {}
    for line in path.read_text().splitlines():
        kind, recording, channel, start, seconds, _, _, speaker = line.split()[:8]
        if kind == "SPEAKER":
            turns.setdefault((recording, channel), []).append((float(start), float(start) + float(seconds), speaker))
    return turns


def frame_error_rate(reference, system, collar=0.0, single_speaker=False):
    """Return the diarization error rate in percent, scored from the first to the last time of each reference.

    With ``single_speaker``, times with several turns do not count, even if the turns are of one speaker.
    """
    errors = total = 0
    for key, turns in reference.items():
        first = round(FRAMES * min(start for start, _, _ in turns))
        last = round(FRAMES * max(end for _, end, _ in turns))
        ours = _frames(turns, first, last)
        theirs = _frames(system.get(key, []), first, last)
        rows, columns = linear_sum_assignment(-(ours.astype(int) @ theirs.astype(int).T))
        right = sum((ours[row] & theirs[column] for row, column in zip(rows, columns)), np.zeros(last - first, int))
        counts = np.ones(last - first, bool)
        for time in (time for start, end, _ in turns for time in (start, end)):
            begin, end = (round(FRAMES * (time + sign * collar)) - first for sign in (-1, 1))
            counts[max(begin, 0) : max(end, 0)] = False
        if single_speaker:
            each = [(start, end, str(number)) for number, (start, end, _) in enumerate(turns)]
            counts &= _frames(each, first, last).sum(axis=0) < 2
        heard, claimed = ours.sum(axis=0)[counts], theirs.sum(axis=0)[counts]
        errors += np.sum(np.maximum(heard, claimed) - right[counts])
        total += heard.sum()
    return 100 * errors / total


def _frames(turns, first, last):
    speakers = sorted({speaker for _, _, speaker in turns})
    frames = np.zeros((len(speakers), last - first), bool)
    for start, end, speaker in turns:
        begin, stop = (max(round(FRAMES * time) - first, 0) for time in (start, end))
        frames[speakers.index(speaker), begin:stop] = True
    return frames
