"""Kaldi's change of sample rate: a sinc under a raised-cosine window (``feat/resample.cc``, LinearResample)."""

from __future__ import annotations

import math

import numpy as np

from sdpn_k2.errors import InputError

NUM_ZEROS = 6  # zeros of the sinc that the window covers on each side
CUTOFF = 0.99  # as a share of the lower Nyquist frequency
# Hz. The filters between rates far apart, and their output, could need any amount of memory.
LEAST_RATE, LARGEST_RATE = 1000, 768_000


def resample(samples: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    """Resample ``samples`` (n,) from ``rate_in`` to ``rate_out`` Hz: float32 (ceil(n · rate_out / rate_in),).

    The filter is the one of Kaldi's --allow-downsample and --allow-upsample. The signal counts as zero beyond its ends.

    Raises:
        InputError: a rate is not a positive whole number of Hz; rates differ by more than a factor of 768, or one
            is above 768 kHz.
    """
    if not (rate_in > 0 and rate_out > 0 and int(rate_in) == rate_in and int(rate_out) == rate_out):
        raise InputError(f"cannot resample from {rate_in:g} to {rate_out:g} Hz: rates must be positive whole numbers")
    samples = np.asarray(samples, np.float32)
    rate_in, rate_out = int(rate_in), int(rate_out)
    if rate_in == rate_out:
        return samples
    if max(rate_in, rate_out) > min(LARGEST_RATE, LARGEST_RATE / LEAST_RATE * min(rate_in, rate_out)):
        raise InputError(
            f"cannot resample from {rate_in} to {rate_out} Hz: rates should be in {LEAST_RATE} to {LARGEST_RATE} Hz"
        )
    # Output sample u · units_out + i has a fixed position relative to input u · units_in, so each i has one filter.
    common = math.gcd(rate_in, rate_out)
    units_in, units_out = rate_in // common, rate_out // common
    cutoff = CUTOFF * 0.5 * min(rate_in, rate_out)
    reach = NUM_ZEROS / (2 * cutoff)  # seconds to the edge of the window

    num_out = -(-len(samples) * units_out // units_in)
    output = np.empty(num_out, np.float32)
    margin = math.ceil(reach * rate_in) + 1
    padded = np.pad(samples, (margin, margin + units_in))
    for i in range(min(units_out, num_out)):
        time = i / rate_out
        first, last = math.ceil((time - reach) * rate_in), math.floor((time + reach) * rate_in)
        weights = _windowed_sinc(np.arange(first, last + 1) / rate_in - time, cutoff, reach) / rate_in
        inputs = np.lib.stride_tricks.sliding_window_view(padded[margin + first :], len(weights))[::units_in]
        count = len(range(i, num_out, units_out))
        output[i::units_out] = inputs[:count] @ weights.astype(np.float32)
    return output


def _windowed_sinc(time: np.ndarray, cutoff: float, reach: float) -> np.ndarray:
    """Return the low-pass filter at the given times in seconds."""
    window: np.ndarray = np.where(np.abs(time) < reach, 0.5 * (1 + np.cos(np.pi / reach * time)), 0.0)
    weights: np.ndarray = 2 * cutoff * np.sinc(2 * cutoff * time) * window
    return weights
