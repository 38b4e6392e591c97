"""Speech with an impulse response and noises: what Kaldi's wav-reverberate computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.wave import Wave
from sdpn_k2.kaldi.formats.log import vlog, warn
from sdpn_k2.kaldi.formats.tables import read_object
from sdpn_k2.pcm import INT16_SCALE


@dataclass(frozen=True)
class Corruption:
    """The options of wav-reverberate, as its ``--help`` explains them."""

    additive_signals: str = ""
    duration: float = 0.0
    impulse_response: str = ""
    input_wave_channel: int = 0
    multi_channel_output: bool = False
    noise_channel: int = 0
    normalize_output: bool = True
    rir_channel: int = 0
    shift_output: bool = True
    snrs: str = ""
    start_times: str = ""
    volume: float = 0.0


def corrupt(source: Wave, settings: Corruption, name: str) -> Wave:
    """Return the recording ``source`` with the impulse response and noises that ``settings`` names.

    ``name`` is that of the source, for messages. The samples are not rounded to integers yet.

    Raises:
        InputError: a file cannot be read, has another sample rate or lacks the channel, or the settings contradict
            each other.
    """
    if settings.multi_channel_output and (settings.rir_channel or settings.noise_channel):
        warn("options for --rir-channel and --noise-channel are ignored as --multi-channel-output is true.")
    if settings.multi_channel_output and not settings.impulse_response:
        raise InputError("--multi-channel-output=true needs an --impulse-response")
    signal = _channel(source, settings.input_wave_channel, name)
    if settings.duration * source.rate >= 2**31 or settings.volume == np.inf:
        raise InputError(f"--duration={settings.duration:g}, --volume={settings.volume:g}: too large for a wave file")
    rir = read_object(settings.impulse_response, "wave") if settings.impulse_response else None
    noises = [read_object(signal_name, "wave") for signal_name in settings.additive_signals.split(",") if signal_name]
    snrs, starts = _numbers(settings.snrs, "snrs"), _numbers(settings.start_times, "start-times")
    if not len(noises) == len(snrs) == len(starts):
        raise InputError(
            f"{len(noises)} --additive-signals, {len(snrs)} --snrs and {len(starts)} --start-times: "
            "their numbers must be the same"
        )
    for wave in noises if rir is None else [rir, *noises]:
        if wave.rate != source.rate:
            raise InputError(f"{name} has {source.rate} Hz, but an added signal has {wave.rate} Hz")

    outputs = []
    indices: List[Optional[int]] = [None]
    if settings.multi_channel_output and rir is not None:
        indices = list(range(len(rir.samples)))
    for index in indices:
        output, shift, power = signal, 0, _power(signal)
        if rir is not None:
            channel = settings.rir_channel if index is None else index
            response = _channel(rir, channel, settings.impulse_response) / INT16_SCALE
            output, power = _reverberate(signal, response, source.rate)
            shift = int(np.argmax(response)) if settings.shift_output else 0
        for noise, snr, start in zip(noises, snrs, starts):
            added = _channel(noise, settings.noise_channel if index is None else index, settings.additive_signals)
            output = _add_noise(output, added, snr, int(start * source.rate), power)
        if settings.volume > 0:
            output = output * settings.volume
        elif settings.normalize_output and _power(output) > 0:
            output = output * np.sqrt(_power(signal) / _power(output))
        outputs.append(_fit(output, shift, len(signal), source.rate, settings))
    return Wave(np.stack(outputs), source.rate)


def _channel(wave: Wave, channel: int, name: str) -> np.ndarray:
    """Return one channel in float64, shape (samples,)."""
    if not 0 <= channel < len(wave.samples):
        raise InputError(f"{name}: no channel {channel} (0-based); the file has {len(wave.samples)}")
    return np.asarray(wave.samples[channel], np.float64)


def _numbers(text: str, option: str) -> List[float]:
    try:
        numbers = [float(word) for word in text.split(",") if word]
    except ValueError:
        numbers = [np.nan]
    if not np.isfinite(numbers).all():
        raise InputError(f"--{option}={text} is not a comma-separated list of numbers")
    return numbers


def _power(signal: np.ndarray) -> float:
    return float(signal @ signal) / len(signal)


def _reverberate(signal: np.ndarray, response: np.ndarray, rate: int) -> Tuple[np.ndarray, float]:
    """Return the convolution, (samples + taps - 1,), and the power of its early part.

    The early part uses the response from 1 ms before its peak to 50 ms after it.
    """
    peak = int(np.argmax(response))
    early = response[max(0, int(peak - 0.001 * rate)) : int(peak + 0.05 * rate)]
    size = 1 << (len(signal) + len(response) - 2).bit_length()
    spectrum = np.fft.rfft(signal, size)

    def convolved(filter_: np.ndarray) -> np.ndarray:
        whole: np.ndarray = np.fft.irfft(spectrum * np.fft.rfft(filter_, size), size)
        return whole[: len(signal) + len(filter_) - 1]

    vlog(1, f"peak index is {peak}")
    return convolved(response), _power(convolved(early))


def _add_noise(signal: np.ndarray, noise: np.ndarray, snr: float, offset: int, power: float) -> np.ndarray:
    """Add noise from sample ``offset`` to the end of the signal, ``snr`` dB below ``power``."""
    if offset < 0:
        raise InputError(f"--start-times: {offset} samples (a signal cannot start before the input)")
    if abs(snr) > 1000:
        raise InputError(f"--snrs: {snr:g} dB must lie between -1000 and 1000")
    if not noise.any():
        raise InputError("--additive-signals: a signal is silent, so it cannot be added at any SNR")
    result: np.ndarray = signal.copy()
    length = max(0, min(len(signal) - offset, len(noise)))
    result[offset : offset + length] += noise[:length] * np.sqrt(10 ** (-snr / 10) * power / _power(noise))
    return result


def _fit(output: np.ndarray, shift: int, length: int, rate: int, settings: Corruption) -> np.ndarray:
    """Cut or repeat the output to the length that the settings require."""
    if settings.duration > 0:
        wanted = int(rate * settings.duration)
        return np.resize(output[shift : shift + min(length, wanted)], wanted)
    return output[shift : shift + length] if settings.shift_output else output
