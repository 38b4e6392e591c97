"""Cepstral mean and variance normalisation as in Kaldi: over a sliding window, from statistics, or both (online).

Statistics are a float64 array of shape (2, dim + 1). The first row holds the sums and, last, the number of frames; the
second row holds the sums of squares.
"""

from __future__ import annotations

from typing import Iterable, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import log

_SLIDING_FLOOR, _STATS_FLOOR = 1e-10, 1e-20  # Kaldi's floors for the variance


def sliding_cmvn(
    features: np.ndarray, window: int = 600, min_window: int = 100, center: bool = False, norm_vars: bool = False
) -> np.ndarray:
    """Normalise each frame by the mean (and variance) of a window around or before it: float32 (frames, dim).

    The time grows with the number of frames and does not depend on the window.

    Args:
        features: (frames, dim).
        window: number of frames in the window.
        min_window: shortest window at the start of the file (used without ``center``).
        center: centre the window on the frame, shifted where needed to stay inside the file. Otherwise the window ends
            at the frame.
        norm_vars: normalise the variance too.

    Raises:
        InputError: the window is empty, or shorter than ``min_window``.
    """
    if window < 1 or (center and not 0 < min_window <= window):
        raise InputError(f"--cmn-window={window}, --min-cmn-window={min_window}: need 0 < min-cmn-window <= cmn-window")
    count = len(features)
    if count == 0:
        return np.array(features, np.float32)
    begin, end = _windows(count, window, min_window, center)
    frames = (end - begin)[:, None]
    # The sum over a window is the difference of two running sums. Small running sums lose less precision.
    centred: np.ndarray = np.asarray(features, np.float64) - np.mean(features, axis=0, dtype=np.float64)
    mean: np.ndarray = _window_sums(centred, begin, end) / frames
    result: np.ndarray = centred - mean
    if norm_vars:
        variance = _window_sums(centred * centred, begin, end) / frames - mean * mean
        result /= np.sqrt(np.maximum(variance, _SLIDING_FLOOR))
        result[frames[:, 0] == 1] = 0.0
    return result.astype(np.float32)


def _windows(count: int, window: int, min_window: int, center: bool) -> Tuple[np.ndarray, np.ndarray]:
    """Return the first frame of each frame's window and the frame after its last, by Kaldi's rules."""
    frame = np.arange(count)
    if center:
        begin = frame - window // 2
        end = begin + window
    else:
        begin, end = frame - window, frame + 1
    end = end - np.minimum(begin, 0)
    begin = np.maximum(begin, 0)
    if not center:
        end = np.where(end > frame, np.maximum(frame + 1, min_window), end)
    begin = np.maximum(begin - np.maximum(end - count, 0), 0)
    return begin, np.minimum(end, count)


def _window_sums(values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    running = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=running[1:])
    sums: np.ndarray = running[end] - running[begin]
    return sums


def online_cmvn(
    features: np.ndarray,
    global_stats: np.ndarray,
    speaker_stats: Optional[np.ndarray] = None,
    *,
    window: int = 600,
    speaker_frames: int = 600,
    global_frames: int = 200,
    norm_vars: bool = False,
    skipped: Iterable[int] = (),
) -> np.ndarray:
    """Normalise each frame by the mean (and variance) of the frames up to it: float32 (frames, dim).

    As long as the window is not full, earlier statistics of the speaker and then global ones count as further frames.

    Args:
        features: (frames, dim).
        global_stats: statistics of much data.
        speaker_stats: statistics of the earlier utterances of the speaker.
        window: number of frames in the window, the current one included.
        speaker_frames: most frames for which ``speaker_stats`` count; never more than it has.
        global_frames: most frames for which ``global_stats`` count.
        norm_vars: normalise the variance too.
        skipped: dimensions that stay unchanged.

    Raises:
        InputError: statistics have another dimension or less than one frame, or a number of frames is not valid.
    """
    frames, dim = features.shape
    if window < 1 or speaker_frames < 0 or global_frames < 0:
        raise InputError(f"--cmn-window={window}, --speaker-frames={speaker_frames}, --global-frames={global_frames}")
    if global_stats.shape != (2, dim + 1) or not global_stats[0, -1] >= 1:
        raise InputError(f"CMVN statistics of shape {global_stats.shape} do not fit features of {dim} dimensions")
    exact = features.astype(np.float64)
    end = np.arange(1, frames + 1)
    begin = np.maximum(end - window, 0)
    counts = (end - begin)[:, None].astype(np.float64)
    sums = _window_sums(exact, begin, end)
    squares = _window_sums(np.square(exact), begin, end) if norm_vars else np.zeros(1)
    limits = [(global_stats, float(global_frames))]
    if speaker_stats is not None and speaker_stats[0, -1] > 0:
        limits.insert(0, (speaker_stats, min(float(speaker_frames), speaker_stats[0, -1])))
    for stats, limit in limits:
        taken = np.minimum(window - counts, limit)
        sums += taken / stats[0, -1] * stats[0, :-1]
        squares = squares + taken / stats[0, -1] * stats[1, :-1]
        counts += taken
    mean = sums / counts
    scale = np.ones_like(mean)
    if norm_vars:
        scale /= np.sqrt(np.maximum(squares / counts - np.square(mean), _STATS_FLOOR))
    for number in skipped:
        if not 0 <= number < dim:
            raise InputError(f"--skip-dims: dimension {number} does not exist; the features have {dim}")
        mean[:, number], scale[:, number] = 0.0, 1.0
    return np.asarray((exact - mean) * scale, np.float32)


def accumulate(features: np.ndarray, weights: Optional[np.ndarray] = None) -> np.ndarray:
    """Sum up the statistics of ``features`` (frames, dim), each frame weighted by ``weights`` (frames,)."""
    features = np.asarray(features, np.float32)
    weights = np.ones(len(features), np.float32) if weights is None else np.asarray(weights, np.float32)
    stats = np.zeros((2, features.shape[1] + 1))
    # The products are in float32, as in Kaldi.
    stats[0, :-1] = np.sum(features * weights[:, None], axis=0, dtype=np.float64)
    stats[1, :-1] = np.sum(features * features * weights[:, None], axis=0, dtype=np.float64)
    stats[0, -1] = np.sum(weights, dtype=np.float64)
    return stats


def skip_dims(stats: np.ndarray, dims: Iterable[int]) -> np.ndarray:
    """Return statistics that leave some dimensions unchanged: mean 0, variance 1 (Kaldi's --skip-dims).

    Raises:
        InputError: a dimension does not exist.
    """
    stats = stats.copy()
    for dim in dims:
        if not 0 <= dim < stats.shape[1] - 1:
            raise InputError(f"--skip-dims: dimension {dim} does not exist; the statistics have {stats.shape[1] - 1}")
        stats[:, dim] = 0.0, stats[0, -1]
    return stats


def apply_cmvn(features: np.ndarray, stats: np.ndarray, norm_vars: bool = False, reverse: bool = False) -> np.ndarray:
    """Normalise ``features`` (frames, dim) by statistics: float32 (frames, dim).

    With ``reverse``, undo the normalisation: the result has the mean (and variance) of the statistics.

    Raises:
        InputError: the statistics have a different dimension, less than one frame, or NaN or infinite values.
    """
    features = np.asarray(features, np.float32)
    dim = features.shape[1]
    if stats.shape != (2, dim + 1):
        raise InputError(f"CMVN statistics of shape {stats.shape} do not fit features of {dim} dimensions")
    if not np.isfinite(stats).all():
        raise InputError("the CMVN statistics contain NaN or infinite values")
    count = stats[0, -1]
    if not count >= 1:
        raise InputError(f"insufficient statistics for cepstral mean and variance normalization: count = {count:g}")
    mean = stats[0, :-1] / count
    deviation = np.ones(dim)
    if norm_vars:
        variance = stats[1, :-1] / count - mean * mean
        floored = int(np.count_nonzero(variance < _STATS_FLOOR))
        if floored:
            log.warn(f"Flooring cepstral variance to {_STATS_FLOOR} in {floored} of {dim} dimensions")
        deviation = np.sqrt(np.maximum(variance, _STATS_FLOOR))
    scale, offset = (deviation, mean) if reverse else (1 / deviation, -mean / deviation)
    result: np.ndarray = features * scale.astype(np.float32) + offset.astype(np.float32)
    return result
