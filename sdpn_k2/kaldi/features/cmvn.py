"""Cepstral mean and variance normalisation as in Kaldi: over a sliding window, or from statistics.

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
