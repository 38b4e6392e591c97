"""Frames in their context: deltas, splicing, and other frame rates. Beyond its ends, a file repeats its end frames."""

from __future__ import annotations

from typing import List

import numpy as np

from sdpn_k2.errors import InputError


def delta_filters(order: int, window: int) -> List[np.ndarray]:
    """Return the filters of the features themselves, their deltas, the deltas of these, and so on.

    Each filter is the one before convolved with that of a delta, j / sum(j²) for j from -window to window. The filter
    of order k has 2 * k * window + 1 taps.
    """
    if order < 0 or not 0 < window < 1000:
        raise InputError(f"--delta-order={order} and --delta-window={window}: expected at least 0, and 1 to 999")
    taps = np.arange(-window, window + 1)
    filters = [np.ones(1)]
    for _ in range(order):
        filters.append(np.convolve(filters[-1], taps / (taps @ taps)))
    return filters


def add_deltas(features: np.ndarray, filters: List[np.ndarray]) -> np.ndarray:
    """Return the features and their deltas side by side, float32 ``(frames, len(filters) * dim)``.

    Args:
        features: ``(frames, dim)``, at least one frame.
        filters: from :func:`delta_filters`.
    """
    frames, dim = features.shape
    reach = len(filters[-1]) // 2
    padded = np.concatenate([features[:1].repeat(reach, axis=0), features, features[-1:].repeat(reach, axis=0)])
    result = np.empty((frames, len(filters), dim), np.float32)
    result[:, 0] = features
    flat = padded.reshape(-1)  # a shift by a frame is a shift by dim: long additions instead of many short ones
    product = np.empty(frames * dim, np.float32)
    for order, taps in enumerate(filters[1:], 1):
        first = reach - len(taps) // 2
        total = np.zeros(frames * dim, np.float32)
        for number, tap in enumerate(taps.astype(np.float32), first):
            if tap:
                np.multiply(flat[number * dim : (number + frames) * dim], tap, out=product)
                total += product
        result[:, order] = total.reshape(frames, dim)
    return result.reshape(frames, -1)


def splice(features: np.ndarray, left: int, right: int) -> np.ndarray:
    """Return each frame between ``left`` frames before and ``right`` frames after it, side by side.

    The result has the shape ``(frames, (left + 1 + right) * dim)``. ``features`` ``(frames, dim)`` must not be empty.
    """
    if left < 0 or right < 0:
        raise InputError(f"--left-context={left} and --right-context={right} must be at least 0")
    dim = features.shape[1]
    padded = np.concatenate([features[:1].repeat(left, axis=0), features, features[-1:].repeat(right, axis=0)])
    # A frame and its context follow one another in memory.
    windows = np.lib.stride_tricks.sliding_window_view(padded.reshape(-1), (left + 1 + right) * dim)
    return np.ascontiguousarray(windows[::dim])


def subsample(features: np.ndarray, step: int, offset: int) -> np.ndarray:
    """Return every ``step``-th frame from ``offset`` on; if ``step`` is negative, each frame ``-step`` times."""
    if step == 0 or offset < 0 or (step < 0 and offset):
        raise InputError(f"--n={step} and --offset={offset}: expected n other than 0, and an offset only for n above 0")
    return features[offset::step] if step > 0 else features.repeat(-step, axis=0)
