"""16-bit PCM: the one place that knows its scale. Kaldi computes at this scale, everything else in ±1."""

from __future__ import annotations

import numpy as np

INT16_SCALE = 32768.0


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Round float samples in ±1, of any shape, to int16; louder ones are clipped.

    Examples:
        >>> to_int16(np.array([0.5, -1.0, 1.0])).tolist()
        [16384, -32768, 32767]
    """
    return np.clip(np.rint(samples * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def from_int16(samples: np.ndarray) -> np.ndarray:
    """Scale samples at int16 scale, of any shape and dtype, to float32 in ±1.

    Examples:
        >>> from_int16(np.array([16384, -32768], np.int16)).tolist()
        [0.5, -1.0]
    """
    # A division by a power of two is exact: these are the numbers that libsndfile returns for 16-bit audio.
    return np.asarray(samples, np.float32) / np.float32(INT16_SCALE)
