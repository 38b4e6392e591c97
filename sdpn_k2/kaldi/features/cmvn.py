"""Cepstral mean and variance normalisation as in Kaldi: over a sliding window, or from statistics.

Statistics are a float64 array of shape (2, dim + 1): sums with the frame count behind them, and sums of squares.
"""

from __future__ import annotations

from typing import Iterable, Optional

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import log

_SLIDING_FLOOR, _STATS_FLOOR = 1e-10, 1e-20  # Kaldi's floors of the variance


def sliding_cmvn(
    features: np.ndarray, window: int = 600, min_window: int = 100, center: bool = False, norm_vars: bool = False
) -> np.ndarray:
    """Subtract the mean, and divide by the deviation, of a window around or before each frame: float32 (frames, dim).

    Takes time in proportion to the frames, whatever the window.

    Args:
        features: (frames, dim).
        window: frames in the window.
        min_window: frames that the window reaches at the start of the file (used without ``center``).
        center: the frame stands in the middle of its window (which is moved to fit into the file), not at its end.
        norm_vars: normalise the variance too.

    Raises:
        InputError: a window without frames.
    """
    if window < 1 or (center and not 0 < min_window <= window):
        raise InputError(f"--cmn-window={window}, --min-cmn-window={min_window}: need 0 < min-cmn-window <= cmn-window")
    count = len(features)
    if count == 0:
        return np.array(features, np.float32)
    begin, end = _windows(count, window, min_window, center)
    frames = (end - begin)[:, None]
    # Sums over a window are differences of running sums: the smaller these are, the less is lost.
    centred = np.asarray(features, np.float64) - np.mean(features, axis=0, dtype=np.float64)
    mean = _window_sums(centred, begin, end) / frames
    result = centred - mean
    if norm_vars:
        variance = _window_sums(centred * centred, begin, end) / frames - mean * mean
        result /= np.sqrt(np.maximum(variance, _SLIDING_FLOOR))
        result[frames[:, 0] == 1] = 0.0
    return result.astype(np.float32)


def _windows(count: int, window: int, min_window: int, center: bool):
    """First frame and end (one past the last) of each frame's window, by Kaldi's rules."""
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
    return running[end] - running[begin]


def accumulate(features: np.ndarray, weights: Optional[np.ndarray] = None) -> np.ndarray:
    """Statistics of (frames, dim), each frame counted ``weights`` (frames,) times: float64 (2, dim + 1)."""
    features = np.asarray(features, np.float32)
    weights = np.ones(len(features), np.float32) if weights is None else np.asarray(weights, np.float32)
    stats = np.zeros((2, features.shape[1] + 1))
    # The products are float32 as in Kaldi.
    stats[0, :-1] = np.sum(features * weights[:, None], axis=0, dtype=np.float64)
    stats[1, :-1] = np.sum(features * features * weights[:, None], axis=0, dtype=np.float64)
    stats[0, -1] = np.sum(weights, dtype=np.float64)
    return stats


def skip_dims(stats: np.ndarray, dims: Iterable[int]) -> np.ndarray:
    """Statistics that leave some dimensions as they are: mean 0, variance 1 (Kaldi's --skip-dims).

    Raises:
        InputError: a dimension that does not exist.
    """
    stats = stats.copy()
    for dim in dims:
        if not 0 <= dim < stats.shape[1] - 1:
            raise InputError(f"--skip-dims: there is no dimension {dim}: the statistics have {stats.shape[1] - 1}")
        stats[:, dim] = 0.0, stats[0, -1]
    return stats


def apply_cmvn(features: np.ndarray, stats: np.ndarray, norm_vars: bool = False, reverse: bool = False) -> np.ndarray:
    """Normalise (frames, dim) by statistics: float32 (frames, dim).

    With ``reverse``, give normalised features the mean (and variance) of the statistics instead.

    Raises:
        InputError: statistics of another dimension, of less than one frame, or with NaN or infinite values.
    """
    features = np.asarray(features, np.float32)
    dim = features.shape[1]
    if stats.shape != (2, dim + 1):
        raise InputError(f"CMVN statistics of shape {stats.shape} do not fit features of {dim} dimensions")
    if not np.isfinite(stats).all():
        raise InputError("the CMVN statistics are NaN or infinite")
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
    if reverse:
        return features * deviation.astype(np.float32) + mean.astype(np.float32)
    return features * (1 / deviation).astype(np.float32) + (-mean / deviation).astype(np.float32)
