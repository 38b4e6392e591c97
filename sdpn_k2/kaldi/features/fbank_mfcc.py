"""Kaldi's log mel filterbank and MFCC features (compute-fbank-feats, compute-mfcc-feats) in NumPy.

Both compute mel energies in the same way: frames → dither → DC removal → pre-emphasis → window → FFT → mel. They
process blocks of frames that stay in the processor's cache, in float32 as Kaldi does. NumPy's FFT and matrix product
release the interpreter lock, so several utterances can be computed in threads.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.mel import dct_matrix, lifter, mel_banks, window

FLOOR = np.finfo(np.float32).eps  # Kaldi's floor for energies before taking the logarithm
BLOCK = 64  # frames; their buffers (0.5 MB at 16 kHz) fit into a second-level cache


def _option(default: Any, description: str) -> Any:
    return field(default=default, metadata={"help": description})


@dataclass(frozen=True)
class FeatureOptions:
    """The options that fbank and MFCC share. Names (with ``_`` for ``-``), defaults and units are Kaldi's."""

    sample_frequency: float = _option(16000.0, "Sample frequency of the waveform in Hz")
    frame_length: float = _option(25.0, "Frame length in milliseconds")
    frame_shift: float = _option(10.0, "Frame shift in milliseconds")
    preemphasis_coefficient: float = _option(0.97, "Pre-emphasis coefficient")
    remove_dc_offset: bool = _option(True, "Subtract the mean from each frame")
    dither: float = _option(1.0, "Standard deviation of the noise added to each frame (0: none)")
    window_type: str = _option("povey", "Window: hamming, hanning, povey, rectangular, sine or blackman")
    blackman_coeff: float = _option(0.42, "Constant coefficient of the generalised Blackman window")
    round_to_power_of_two: bool = _option(True, "Zero-pad each frame to a power of two for the FFT")
    snip_edges: bool = _option(
        True, "Use only frames that lie inside the file; if false, reflect the samples at its ends"
    )
    num_mel_bins: int = _option(23, "Number of triangular mel filters")
    low_freq: float = _option(20.0, "Lower edge of the mel filters in Hz")
    high_freq: float = _option(0.0, "Upper edge of the mel filters in Hz (0 or negative: relative to Nyquist)")
    vtln_low: float = _option(100.0, "Lower inflection point of the VTLN warping in Hz")
    vtln_high: float = _option(
        -500.0, "Upper inflection point of the VTLN warping in Hz (negative: relative to Nyquist)"
    )
    energy_floor: float = _option(0.0, "Absolute floor of a frame's energy (0: none)")
    raw_energy: bool = _option(True, "Compute the energy before pre-emphasis and windowing")
    use_energy: bool = _option(False, "Log energy as an additional first column (fbank) or in place of C0 (MFCC)")
    htk_compat: bool = _option(False, "Put the energy or C0 last, and multiply C0 by sqrt(2)")

    def __post_init__(self) -> None:
        """Raise InputError if an option is out of range; ranges of the mel filters are checked in ``mel.py``."""
        if not (0 <= self.preemphasis_coefficient <= 1 and np.isfinite(self.dither)):
            raise InputError("--preemphasis-coefficient must be between 0 and 1, and --dither must be finite")
        if self.shift < 1 or self.length < 2:
            raise InputError("--frame-shift must be at least one sample, and --frame-length at least two")

    @property
    def shift(self) -> int:
        """Frame shift in samples."""
        return self._samples(self.frame_shift)

    @property
    def length(self) -> int:
        """Frame length in samples."""
        return self._samples(self.frame_length)

    @property
    def fft_size(self) -> int:
        """Number of points of the FFT."""
        return 1 << (self.length - 1).bit_length() if self.round_to_power_of_two else self.length

    def _samples(self, milliseconds: float) -> int:
        # Kaldi stores options in float32 and truncates the product.
        samples = float(np.float32(self.sample_frequency)) * 0.001 * float(np.float32(milliseconds))
        if not 0 <= samples < 1 << 31:
            raise InputError(
                f"{milliseconds:g} ms at {self.sample_frequency:g} Hz is not a valid frame length or frame shift"
            )
        return int(samples)


@dataclass(frozen=True)
class FbankOptions(FeatureOptions):
    """Options of compute-fbank-feats."""

    use_log_fbank: bool = _option(True, "Take the logarithm of the mel energies")
    use_power: bool = _option(True, "Apply the mel filters to the power spectrum; if false, to the magnitudes")


@dataclass(frozen=True)
class MfccOptions(FeatureOptions):
    """Options of compute-mfcc-feats."""

    use_energy: bool = _option(True, "Log energy in place of C0")
    num_ceps: int = _option(13, "Number of cepstra, including C0")
    cepstral_lifter: float = _option(22.0, "Constant of the cepstral lifter (0: none)")


def fbank(
    samples: np.ndarray,
    options: FbankOptions = FbankOptions(),
    vtln_warp: float = 1.0,
    rng: Optional[np.random.Generator] = None,
) -> np.ndarray:
    """Compute log mel filterbank energies: float32 (frames, num_mel_bins), plus one column with ``use_energy``.

    Args:
        samples: (samples,) at int16 scale (see :mod:`sdpn_k2.pcm`), at ``options.sample_frequency``.
        options: see ``FbankOptions``.
        vtln_warp: VTLN factor.
        rng: source of the dither; by default a new one for each call.

    Raises:
        InputError: the options contradict each other, or ``samples`` is not one-dimensional.
    """
    mel, log_energy = _mel_energies(samples, options, vtln_warp, rng, magnitude=not options.use_power)
    if options.use_log_fbank:
        np.maximum(mel, FLOOR, out=mel)
        np.log(mel, out=mel)
    if log_energy is None:
        return mel
    return np.hstack([mel, log_energy] if options.htk_compat else [log_energy, mel])


def mfcc(
    samples: np.ndarray,
    options: MfccOptions = MfccOptions(),
    vtln_warp: float = 1.0,
    rng: Optional[np.random.Generator] = None,
) -> np.ndarray:
    """Compute mel-frequency cepstra: float32 (frames, num_ceps). Arguments and errors as for ``fbank``."""
    mel, log_energy = _mel_energies(samples, options, vtln_warp, rng)
    np.maximum(mel, FLOOR, out=mel)
    np.log(mel, out=mel)
    cepstra: np.ndarray = mel @ _cosines(options)
    if log_energy is not None:
        cepstra[:, :1] = log_energy
    if options.htk_compat:
        if log_energy is None:
            cepstra[:, 0] *= np.float32(np.sqrt(2))
        cepstra = np.roll(cepstra, -1, axis=1)
    return cepstra


def num_frames(num_samples: int, options: FeatureOptions) -> int:
    """Return the number of frames that Kaldi computes from ``num_samples`` samples."""
    if not options.snip_edges:
        return (num_samples + options.shift // 2) // options.shift
    return 0 if num_samples < options.length else 1 + (num_samples - options.length) // options.shift


def frames(samples: np.ndarray, options: FeatureOptions) -> np.ndarray:
    """Return overlapping frames as a read-only view: float32 (frames, length).

    With ``snip_edges`` all frames lie inside the file. Without it, frame t is centred on sample (t + 1/2) · shift, and
    the samples are reflected at the ends as often as needed.

    Raises:
        InputError: ``samples`` is not one-dimensional.
    """
    samples = np.ascontiguousarray(samples, np.float32)
    if samples.ndim != 1:
        raise InputError(f"expected one channel of samples, got an array of shape {samples.shape}")
    count = num_frames(len(samples), options)
    if count == 0:
        return np.zeros((0, options.length), np.float32)
    start = 0 if options.snip_edges else options.shift // 2 - options.length // 2
    end = start + (count - 1) * options.shift + options.length
    if start < 0 or end > len(samples):
        samples = np.pad(samples, (max(0, -start), max(0, end - len(samples))), mode="symmetric")
    samples = samples[max(0, start) :]
    return np.lib.stride_tricks.sliding_window_view(samples, options.length)[:: options.shift][:count]


def _mel_energies(
    samples: np.ndarray,
    options: FeatureOptions,
    vtln_warp: float,
    rng: Optional[np.random.Generator],
    magnitude: bool = False,
) -> Tuple[np.ndarray, Optional[np.ndarray]]:
    """Return linear mel energies (frames, num_mel_bins) and, with ``use_energy``, log energies (frames, 1)."""
    filters, taper = _filters(options, vtln_warp, magnitude), _window(options)
    views = frames(samples, options)
    mel = np.empty((len(views), options.num_mel_bins), np.float32)
    energy = np.empty((len(views), 1), np.float32) if options.use_energy else None

    rng = np.random.default_rng() if rng is None else rng
    padded = np.zeros((min(BLOCK, len(views)), options.fft_size), np.float32)
    scratch = np.empty((len(padded), options.length), np.float32)
    for begin in range(0, len(views), BLOCK):
        block = slice(begin, begin + BLOCK)
        source = views[block]
        size = len(source)
        frame = padded[:size, : options.length]
        if options.dither:
            # As in Kaldi, each frame gets its own noise, even on samples that it shares with its neighbours.
            noise = rng.standard_normal(frame.shape, np.float32)
            noise *= np.float32(options.dither)
            source = np.add(source, noise, out=noise)
        if options.remove_dc_offset:
            np.subtract(source, source.mean(axis=1, keepdims=True), out=frame)
        else:
            frame[:] = source
        if energy is not None and options.raw_energy:
            energy[block, 0] = np.einsum("ij,ij->i", frame, frame)
        if options.preemphasis_coefficient:
            _preemphasize(frame, np.float32(options.preemphasis_coefficient), scratch[:size])
        frame *= taper
        if energy is not None and not options.raw_energy:
            energy[block, 0] = np.einsum("ij,ij->i", frame, frame)

        spectrum = _spectrum(padded[:size])
        if magnitude:
            np.matmul(np.abs(spectrum), filters, out=mel[block])
        else:
            # The filters contain each row twice, for the real and the imaginary part: squaring in place and one
            # matrix product are faster than summing up the power spectrum first.
            parts = spectrum.view(np.float32)
            np.square(parts, out=parts)
            np.matmul(parts, filters, out=mel[block])
    return mel, None if energy is None else _log_energy(energy, options.energy_floor)


def _preemphasize(frame: np.ndarray, coefficient: np.float32, scratch: np.ndarray) -> None:
    """Replace x[i] by x[i] - c·x[i-1] in each frame; the first sample serves as its own predecessor."""
    np.multiply(frame, coefficient, out=scratch)
    frame[:, 0] -= scratch[:, 0]
    frame[:, 1:] -= scratch[:, :-1]


def _log_energy(energy: np.ndarray, floor: float) -> np.ndarray:
    np.maximum(energy, max(FLOOR, np.float32(floor)), out=energy)
    np.log(energy, out=energy)
    return energy


@functools.lru_cache(maxsize=8)
def _window(options: FeatureOptions) -> np.ndarray:
    return window(options.window_type, options.length, options.blackman_coeff)


def _spectrum(padded: np.ndarray) -> np.ndarray:
    """Return the spectrum of each row as Kaldi's FFT computes it: complex64 (frames, fft_size // 2 + 1)."""
    # NumPy before 2.0 returns double precision.
    spectrum: np.ndarray = np.fft.rfft(padded).astype(np.complex64, copy=False)
    image = np.conj(spectrum[:, ::-1])
    image -= spectrum
    image *= _leakage(padded.shape[1])
    spectrum += image
    return spectrum


@functools.lru_cache(maxsize=8)
def _leakage(fft_size: int) -> np.ndarray:
    """Return how much of its mirror image Kaldi's real FFT mixes into a spectrum: complex64 (fft_size // 2 + 1).

    Kaldi's ``srfft.cc`` joins the spectra of the even and the odd samples, X[k] = E[k] + t[k]·O[k]. It computes the
    float32 factors t by repeated multiplication, and they drift from exp(-2πik/N) by up to 2e-6. Because
    t·O = (X - X*) / 2, where X*[k] = conj(X[N/2 - k]), a loud tone at f also appears at Nyquist - f, 120 dB lower. If
    that region is quiet, this is the main difference between Kaldi's features and exact ones. Kaldi's spectrum is
    X + leakage · (X* - X).
    """
    quarter = fft_size // 4
    angle = float(np.float32(-2 * np.pi / fft_size))
    root_real, root_imag = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    real, imag = np.ones(quarter + 1, np.float32), np.zeros(quarter + 1, np.float32)
    for k in range(1, quarter + 1):
        real[k] = real[k - 1] * root_real - imag[k - 1] * root_imag
        imag[k] = real[k - 1] * root_imag + imag[k - 1] * root_real
    drift = (real + 1j * imag) * np.exp(2j * np.pi / fft_size * np.arange(quarter + 1)) - 1
    leakage = np.zeros(fft_size // 2 + 1, np.complex64)
    leakage[fft_size // 2 - quarter :] = -drift[::-1].conj() / 2
    leakage[: quarter + 1] = -drift / 2
    return leakage


@functools.lru_cache(maxsize=64)
def _filters(options: FeatureOptions, vtln_warp: float, magnitude: bool) -> np.ndarray:
    """Return the mel filters as columns; each row is repeated unless they are for magnitudes."""
    banks = mel_banks(
        options.num_mel_bins,
        options.fft_size,
        options.sample_frequency,
        options.low_freq,
        options.high_freq,
        vtln_low=options.vtln_low,
        vtln_high=options.vtln_high,
        vtln_warp=vtln_warp,
    )
    return np.ascontiguousarray(np.repeat(banks.T, 1 if magnitude else 2, axis=0))


@functools.lru_cache(maxsize=8)
def _cosines(options: MfccOptions) -> np.ndarray:
    """Return cosine transform and lifter as one matrix: (num_mel_bins, num_ceps)."""
    cosines = dct_matrix(options.num_ceps, options.num_mel_bins).T
    return np.ascontiguousarray(cosines * lifter(options.num_ceps, options.cepstral_lifter))
