"""A telephone channel for batches of waveforms, on any device: a band of 300 to 3400 Hz, and G.711's codecs (ITU-T)."""

import torch
from torch import Tensor

from sdpn_k2.pcm import INT16_SCALE

PASS_BAND = 300.0, 3400.0  # Hz
LOW_EDGE = 150.0  # Hz; the gain falls to 0 from the pass band to here, and
HIGH_EDGE = 3900.0  # to here
PADDING_SECONDS = 0.05  # longer than the filter rings
FFT_MULTIPLE = 1024  # for a fast FFT
MU_LAW_BIAS, MU_LAW_MOST = 132, 32635  # in int16


def telephone(waveforms: Tensor, a_law: Tensor, sample_rate: int) -> Tensor:
    """Return waveforms ``(count, samples)`` in ±1 as they sound after a telephone call.

    They are limited to the telephone's band, pass a codec, and are limited again, as the receiver does.

    Args:
        waveforms: float32 in ±1.
        a_law: bool ``(count,)``: A-law (Europe) instead of μ-law (America, Japan).
        sample_rate: in Hz. Above 8000, the codec quantises at that rate.
    """
    sent = band_limit(waveforms, sample_rate)
    received = torch.where(a_law[:, None], through_a_law(sent), through_mu_law(sent))
    return band_limit(received, sample_rate)


def band_limit(waveforms: Tensor, sample_rate: int) -> Tensor:
    """Remove what a telephone does not transmit from waveforms ``(…, samples)``, without delay.

    The gain is 1 from 300 to 3400 Hz and 0 below 150 and above 3900 Hz, with raised cosines between.
    """
    num_samples = waveforms.shape[-1]
    size = num_samples + round(PADDING_SECONDS * sample_rate)
    size = -(-size // FFT_MULTIPLE) * FFT_MULTIPLE
    frequency = torch.fft.rfftfreq(size, 1 / sample_rate, device=waveforms.device)
    (low, high), pi = PASS_BAND, torch.pi
    rise = ((frequency - LOW_EDGE) / (low - LOW_EDGE)).clamp(0, 1)
    fall = ((HIGH_EDGE - frequency) / (HIGH_EDGE - high)).clamp(0, 1)
    gain = (1 - torch.cos(pi * rise)) * (1 - torch.cos(pi * fall)) / 4
    return torch.fft.irfft(torch.fft.rfft(waveforms, n=size) * gain, n=size)[..., :num_samples]


def through_mu_law(waveforms: Tensor) -> Tensor:
    """Encode and decode waveforms in ±1 by G.711's μ-law, with 8 bits per sample."""
    sign, magnitude = _integers(waveforms)
    biased = (magnitude - magnitude % 4).clamp(max=MU_LAW_MOST) + MU_LAW_BIAS
    step = _power_of_two(biased) / 16
    return sign * ((torch.floor(biased / step) + 0.5) * step - MU_LAW_BIAS) / INT16_SCALE


def through_a_law(waveforms: Tensor) -> Tensor:
    """Encode and decode waveforms in ±1 by G.711's A-law, with 8 bits per sample."""
    sign, magnitude = _integers(waveforms)
    step = _power_of_two(magnitude.clamp(min=256)) / 16
    return sign * (torch.floor(magnitude / step) + 0.5) * step / INT16_SCALE


def _integers(waveforms: Tensor) -> "tuple[Tensor, Tensor]":
    """Return sign and magnitude of samples rounded to int16; 0 counts as positive."""
    samples = (waveforms * INT16_SCALE).round().clamp(-INT16_SCALE, INT16_SCALE - 1)
    return torch.where(samples < 0, -1.0, 1.0), samples.abs().clamp(max=INT16_SCALE - 1)


def _power_of_two(values: Tensor) -> Tensor:
    """Return the largest power of two that is at most each value."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.full_like(mantissa, 0.5), exponent)
