"""The fixed matrices of Kaldi's front end: windows, mel filters, cosine transform, lifter.

Each matrix is a plain function of its arguments, in the float32 arithmetic of Kaldi's ``feature-window.cc`` and
``mel-computations.cc``. Front ends in NumPy and in torch use the same numbers.
"""

from __future__ import annotations

import numpy as np

from sdpn_k2.errors import InputError

WINDOWS = ("povey", "hamming", "hanning", "sine", "rectangular", "blackman")


def window(kind: str, length: int, blackman_coeff: float = 0.42) -> np.ndarray:
    """Return Kaldi's analysis window ``kind``, one of ``WINDOWS``: float32 (length,), symmetric.

    "povey" is a Hann window to the power of 0.85. It reaches zero at the edges, but is wider than Hann.

    Raises:
        InputError: ``kind`` is unknown, or ``length`` is below 2.
    """
    if length < 2:
        raise InputError(f"a window of {length} samples is too short: raise --frame-length or --sample-frequency")
    angle = 2 * np.pi / (length - 1) * np.arange(length)
    values: np.ndarray
    if kind == "povey":
        # The last cosine may exceed 1 by a rounding error, and a negative number to the power of 0.85 is NaN.
        values = np.maximum(0.5 - 0.5 * np.cos(angle), 0.0) ** 0.85
    elif kind == "hamming":
        values = 0.54 - 0.46 * np.cos(angle)
    elif kind == "hanning":
        values = 0.5 - 0.5 * np.cos(angle)
    elif kind == "sine":
        values = np.sin(0.5 * angle)
    elif kind == "rectangular":
        values = np.ones(length)
    elif kind == "blackman":
        values = blackman_coeff - 0.5 * np.cos(angle) + (0.5 - blackman_coeff) * np.cos(2 * angle)
    else:
        raise InputError(f"--window-type={kind}: unknown window; use {', '.join(WINDOWS)}")
    return values.astype(np.float32)


def mel_banks(
    num_bins: int,
    fft_size: int,
    sample_rate: float,
    low_freq: float = 20.0,
    high_freq: float = 0.0,
    *,
    vtln_low: float = 100.0,
    vtln_high: float = -500.0,
    vtln_warp: float = 1.0,
) -> np.ndarray:
    """Return Kaldi's triangular mel filters as one matrix: float32 (num_bins, fft_size // 2 + 1).

    The triangles are linear in mel, 1127 ln(1 + f / 700), and one high. The last column (the Nyquist frequency) is
    zero, as Kaldi leaves it out.

    Args:
        num_bins: number of filters, at least 3.
        fft_size: number of points of the FFT (even).
        sample_rate: in Hz.
        low_freq: lower edge of the lowest filter in Hz.
        high_freq: upper edge of the highest filter in Hz; 0 or a negative value is relative to Nyquist.
        vtln_low: lower inflection point of the VTLN warping in Hz.
        vtln_high: upper inflection point of the VTLN warping in Hz; a negative value is relative to Nyquist.
        vtln_warp: warping factor (1: none; above 1: compress the filters towards low frequencies).

    Raises:
        InputError: the frequencies are impossible, or a filter would contain no point of the FFT.
    """
    if num_bins < 3:
        raise InputError(f"--num-mel-bins={num_bins}: must be at least 3")
    if fft_size < 2 or fft_size % 2:
        raise InputError(
            f"the FFT has {fft_size} points, but needs an even number: "
            "use --round-to-power-of-two=true or another --frame-length"
        )
    nyquist = 0.5 * sample_rate
    high = high_freq if high_freq > 0 else nyquist + high_freq
    if not (0 <= low_freq < high <= nyquist):
        raise InputError(
            f"--low-freq={low_freq:g} and --high-freq={high_freq:g} must be in ascending order "
            f"and between 0 and {nyquist:g} Hz"
        )
    low_mel, high_mel = mel_scale(np.array([low_freq, high], np.float32))
    step = (high_mel - low_mel) / np.float32(num_bins + 1)
    edges = low_mel + np.arange(num_bins + 2, dtype=np.float32) * step
    if vtln_warp != 1.0:
        vtln_top = vtln_high if vtln_high >= 0 else nyquist + vtln_high
        warped = vtln_warp_freq(
            inverse_mel_scale(edges),
            vtln_warp,
            low_freq=low_freq,
            high_freq=high,
            vtln_low=vtln_low,
            vtln_high=vtln_top,
        )
        edges = mel_scale(warped)
    left, center, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]

    width = np.float32(sample_rate) / np.float32(fft_size)
    mel = mel_scale(width * np.arange(fft_size // 2, dtype=np.float32))
    rising, falling = (mel - left) / (center - left), (right - mel) / (right - center)
    inside = (mel > left) & (mel < right)
    banks = np.where(inside, np.where(mel <= center, rising, falling), np.float32(0))
    if not inside.any(axis=1).all():
        empty = int(np.argmin(inside.any(axis=1)))
        raise InputError(
            f"mel bin {empty} of {num_bins} contains no point of the {fft_size}-point FFT: "
            "lower --num-mel-bins or raise --frame-length"
        )
    return np.pad(banks, ((0, 0), (0, 1)))


def mel_scale(freq: np.ndarray) -> np.ndarray:
    """Convert Hz to mel, float32."""
    mel: np.ndarray = np.float32(1127) * np.log(np.float32(1) + np.asarray(freq, np.float32) / np.float32(700))
    return mel


def inverse_mel_scale(mel: np.ndarray) -> np.ndarray:
    """Convert mel to Hz, float32."""
    freq: np.ndarray = np.float32(700) * (np.exp(np.asarray(mel, np.float32) / np.float32(1127)) - np.float32(1))
    return freq


def vtln_warp_freq(
    freq: np.ndarray, warp: float, *, low_freq: float, high_freq: float, vtln_low: float, vtln_high: float
) -> np.ndarray:
    """Warp frequencies in Hz as Kaldi's VTLN does: float32, same shape.

    The function is piecewise linear: F(low_freq) = low_freq, F(high_freq) = high_freq, and F(f) = f / warp between the
    inflection points vtln_low · max(1, warp) and vtln_high · min(1, warp). Frequencies outside the band do not change.

    Raises:
        InputError: the inflection points lie outside the band, or ``warp`` moves them there.
    """
    lower, upper = vtln_low * max(1.0, warp), vtln_high * min(1.0, warp)
    if not (warp > 0 and low_freq < vtln_low < vtln_high < high_freq and low_freq < lower < upper < high_freq):
        raise InputError(
            f"VTLN factor {warp:g} with --vtln-low={vtln_low:g} and --vtln-high={vtln_high:g} exceeds "
            f"the band from {low_freq:g} to {high_freq:g} Hz"
        )
    points = np.array([low_freq, lower, upper, high_freq])
    values = np.array([low_freq, lower / warp, upper / warp, high_freq])
    inside = (freq >= low_freq) & (freq <= high_freq)
    return np.where(inside, np.interp(freq, points, values), freq).astype(np.float32)


def dct_matrix(num_ceps: int, num_bins: int) -> np.ndarray:
    """Return the first rows of the orthonormal type-II cosine transform: float32 (num_ceps, num_bins).

    Raises:
        InputError: ``num_ceps`` is not between 1 and ``num_bins``.
    """
    if not 0 < num_ceps <= num_bins:
        raise InputError(f"--num-ceps={num_ceps} must be between 1 and --num-mel-bins={num_bins}")
    row, column = np.arange(num_ceps)[:, None], np.arange(num_bins)
    matrix: np.ndarray = np.sqrt(2.0 / num_bins) * np.cos(np.pi / num_bins * (column + 0.5) * row)
    matrix[0] = np.sqrt(1.0 / num_bins)
    return matrix.astype(np.float32)


def lifter(num_ceps: int, coefficient: float) -> np.ndarray:
    """Return HTK's scaling of cepstra, 1 + Q/2 · sin(πi/Q), or ones for Q = 0: float32 (num_ceps,).

    Raises:
        InputError: Q (``coefficient``) is not finite.
    """
    if not np.isfinite(coefficient):
        raise InputError(f"--cepstral-lifter={coefficient:g} must be finite")
    if coefficient == 0:
        return np.ones(num_ceps, np.float32)
    scaling: np.ndarray = 1 + 0.5 * coefficient * np.sin(np.pi * np.arange(num_ceps) / coefficient)
    return scaling.astype(np.float32)
