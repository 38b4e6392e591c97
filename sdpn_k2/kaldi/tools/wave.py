"""The command lines of wave files: cut, measure, copy, reverberate."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import List, Optional

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.utterances import Misfit, Part, cut_part
from sdpn_k2.kaldi.features import wave_commands  # noqa: F401  # readers know the commands of augmentation
from sdpn_k2.kaldi.features.corruption import Corruption, corrupt
from sdpn_k2.kaldi.features.wave import Wave
from sdpn_k2.kaldi.formats.io import open_input
from sdpn_k2.kaldi.formats.log import log, warn
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
    settings = Corruption(**{each.name: getattr(options, each.name) for each in fields(Corruption)})
    source = read_object(input_rxfilename, "wave")
    write_object(output_wxfilename, corrupt(source, settings, input_rxfilename), "wave")
