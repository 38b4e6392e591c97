"""The command lines of wave files: cut, measure, copy, reverberate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import List, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.utterances import Misfit, Part, cut_part
from sdpn_k2.kaldi.features.wave import Wave
from sdpn_k2.kaldi.formats.io import open_input
from sdpn_k2.kaldi.formats.log import log, vlog, warn
from sdpn_k2.kaldi.formats.tables import (
    RandomReader,
    TableWriter,
    is_table,
    parse_rspecifier,
    read_object,
    read_table,
    write_object,
)
from sdpn_k2.kaldi.formats.words import split
from sdpn_k2.kaldi.tools.command_line import Option, tool
from sdpn_k2.pcm import INT16_SCALE


@tool(
    options=[
        Option("max-overshoot", 0.5, "End segments overshooting by less (in seconds) are truncated, else rejected."),
        Option("min-segment-length", 0.1, "Minimum segment length in seconds (reject shorter segments)"),
    ],
    arguments=(3, 3),
)
def extract_segments(
    options: SimpleNamespace, wav_rspecifier: str, segments_rxfilename: str, wav_wspecifier: str
) -> None:
    """Extract segments from a large audio file in WAV format.

    Usage:  extract-segments [options] <wav-rspecifier> <segments-file> <wav-wspecifier>
     e.g.: extract-segments scp:wav.scp segments ark:- | <some other program>
     segments-file format: segment_id wav_file_name start_time end_time [channel]
     e.g.: spkabc_seg1 spkabc_recording1 1.10 2.36 1
     If channel is not provided as last element, expects mono.
     end_time of -1 means the segment runs till the end of the WAV file.
    See also: wav-copy, wav-to-duration
    """
    lines = done = 0
    recording: Optional[str] = None
    with RandomReader(wav_rspecifier, "wave") as recordings, TableWriter(wav_wspecifier, "wave") as writer:
        with open_input(segments_rxfilename) as stream:
            for line in stream.lines():
                lines += 1
                segment = _parse_segment(line)
                if segment is None:
                    continue
                if segment.recording not in recordings:
                    warn(f"Could not find recording {segment.recording}, skipping segment {segment.utterance}")
                    continue
                if segment.recording != recording:  # the segments of a recording are usually neighbours
                    recording, wave = segment.recording, recordings[segment.recording]
                try:
                    samples = cut_part(
                        wave, segment, max_overshoot=options.max_overshoot, min_length=options.min_segment_length
                    )
                except Misfit as error:
                    warn(error.warning)
                    continue
                writer.write(segment.utterance, Wave(samples[None], wave.rate))
                done += 1
    log(f"Successfully processed {done} lines out of {lines} in the segments file. ")


def _parse_segment(line: str) -> Optional[Part]:
    """Parse a line of a segments file. If it is not valid, warn in Kaldi's words and return None."""
    words = split(line)
    if len(words) not in (4, 5):
        warn(f"Invalid line in segments file: {line}")
        return None
    fault = "bad start"
    try:
        start = float(words[2])
        fault = "bad end"
        end = float(words[3])
        fault = "bad channel"
        channel = int(words[4]) if len(words) == 5 else None
        if channel is not None and channel < 0:
            raise ValueError
        fault = "empty or invalid segment"
        if not (start >= 0 and np.isfinite([start, end]).all() and (end == -1 or end > start)):
            raise ValueError
    except ValueError:
        warn(f"Invalid line in segments file [{fault}]: {line}")
        return None
    return Part(words[0], words[1], start, end, channel)


@tool(
    options=[
        Option("read-entire-file", False, "Count the samples instead of trusting the header (always so for archives)"),
    ],
)
def wav_to_duration(options: SimpleNamespace, wav_rspecifier: str, duration_wspecifier: str) -> int:
    """Read wav files and output an archive consisting of a single float: the duration of each one in seconds.

    Usage:  wav-to-duration [options...] <wav-rspecifier> <duration-wspecifier>
     e.g.: wav-to-duration scp:wav.scp ark,t:-
    See also: wav-copy extract-segments feat-to-len
    """
    whole = options.read_entire_file or parse_rspecifier(wav_rspecifier).archive is not None
    durations: List[float] = []
    with read_table(wav_rspecifier, "wave" if whole else "wave_duration") as reader:
        with TableWriter(duration_wspecifier, "float") as writer:
            for key, value in reader:
                durations.append(value.duration if whole else value)
                writer.write(key, durations[-1])
    log(f"Printed duration for {len(durations)} audio files.")
    if durations:
        mean = sum(durations) / len(durations)
        log(f"Mean duration was {mean:g}, min and max durations were {min(durations):g}, {max(durations):g}")
    return len(durations)


@tool()
def wav_copy(options: SimpleNamespace, source: str, target: str) -> Optional[int]:
    """Copy a wave file, or archives of wave files.

    Usage:  wav-copy [options...] (<wav-rspecifier> <wav-wspecifier> | <wav-rxfilename> <wav-wxfilename>)
     e.g.: wav-copy scp:wav.scp ark:-
           wav-copy wav.ark:123 -
    See also: wav-to-duration extract-segments
    """
    if is_table(source) != is_table(target):
        raise InputError(f"cannot mix a table and a single file: {source} and {target}")
    if not is_table(source):
        write_object(target, read_object(source, "wave"), "wave")
        log(f"Copied wave file to {target}")
        return None
    done = 0
    with read_table(source, "wave") as reader, TableWriter(target, "wave") as writer:
        for key, wave in reader:
            writer.write(key, wave)
            done += 1
    log(f"Copied {done} wave files")
    return done


@tool(
    options=[
        Option("additive-signals", "", "Comma separated wave files or piped commands; needs --snrs and --start-times"),
        Option("duration", 0.0, "If nonzero, duration (secs) of the output: the signal is cut, or repeated to fill it"),
        Option("impulse-response", "", "File or piped command with the impulse response"),
        Option("input-wave-channel", 0, "Channel of the input; only one is used"),
        Option("multi-channel-output", False, "One output channel for each channel of the impulse response"),
        Option("noise-channel", 0, "Channel of the noise files; only used when --multi-channel-output is false"),
        Option("normalize-output", True, "Scale the output to the energy of the input"),
        Option("rir-channel", 0, "Channel of the impulse response; only used when --multi-channel-output is false"),
        Option("shift-output", True, "Shift the output by the impulse response's peak and keep the input's length"),
        Option("snrs", "", "Comma separated list of SNRs(dB), one for each additive signal"),
        Option("start-times", "", "Comma separated list of the times (secs) at which the additive signals start"),
        Option("volume", 0.0, "If nonzero, factor for the output, instead of --normalize-output"),
    ],
)
def wav_reverberate(options: SimpleNamespace, input_rxfilename: str, output_wxfilename: str) -> None:
    r"""Corrupt a wave file with a room impulse response (rir) and additive noises.

    Usage:  wav-reverberate [options...] <wav-in-rxfilename> <wav-out-wxfilename>
     e.g.: wav-reverberate --duration=20.25 --impulse-response=rir.wav --additive-signals='noise1.wav,noise2.wav' \
             --snrs='20.0,15.0' --start-times='0,17.8' input.wav output.wav
    """
    if options.multi_channel_output and (options.rir_channel or options.noise_channel):
        warn("options for --rir-channel and --noise-channel are ignored as --multi-channel-output is true.")
    if options.multi_channel_output and not options.impulse_response:
        raise InputError("--multi-channel-output=true needs an --impulse-response")
    source = read_object(input_rxfilename, "wave")
    signal = _channel(source, options.input_wave_channel, input_rxfilename)
    if options.duration * source.rate >= 2**31 or options.volume == np.inf:
        raise InputError(f"--duration={options.duration:g}, --volume={options.volume:g}: too large for a wave file")
    rir = read_object(options.impulse_response, "wave") if options.impulse_response else None
    noises = [read_object(name, "wave") for name in options.additive_signals.split(",") if name]
    snrs, starts = _numbers(options.snrs, "snrs"), _numbers(options.start_times, "start-times")
    if not len(noises) == len(snrs) == len(starts):
        raise InputError(
            f"{len(noises)} --additive-signals, {len(snrs)} --snrs and {len(starts)} --start-times: "
            "their numbers must be the same"
        )
    for wave in noises if rir is None else [rir, *noises]:
        if wave.rate != source.rate:
            raise InputError(f"{input_rxfilename} has {source.rate} Hz, but an added signal has {wave.rate} Hz")

    outputs = []
    indices: List[Optional[int]] = [None]
    if options.multi_channel_output and rir is not None:
        indices = list(range(len(rir.samples)))
    for index in indices:
        output, shift, power = signal, 0, _power(signal)
        if rir is not None:
            channel = options.rir_channel if index is None else index
            response = _channel(rir, channel, options.impulse_response) / INT16_SCALE
            output, power = _reverberate(signal, response, source.rate)
            shift = int(np.argmax(response)) if options.shift_output else 0
        for noise, snr, start in zip(noises, snrs, starts):
            added = _channel(noise, options.noise_channel if index is None else index, options.additive_signals)
            output = _add_noise(output, added, snr, int(start * source.rate), power)
        if options.volume > 0:
            output = output * options.volume
        elif options.normalize_output and _power(output) > 0:
            output = output * np.sqrt(_power(signal) / _power(output))
        outputs.append(_fit(output, shift, len(signal), source.rate, options))
    write_object(output_wxfilename, Wave(np.stack(outputs), source.rate), "wave")


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


def _fit(output: np.ndarray, shift: int, length: int, rate: int, options: SimpleNamespace) -> np.ndarray:
    """Cut or repeat the output to the length that the options require."""
    if options.duration > 0:
        wanted = int(rate * options.duration)
        return np.resize(output[shift : shift + min(length, wanted)], wanted)
    return output[shift : shift + length] if options.shift_output else output
