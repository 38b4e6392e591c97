"""The waveforms of a data directory: the recordings of wav.scp, cut where ``segments`` says so."""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Container, Deque, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError, Skipped
from sdpn_k2.kaldi.datadir.data_dir import parse_segment, read_map
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.wave import Wave, read_command
from sdpn_k2.kaldi.formats import words
from sdpn_k2.kaldi.formats.tables import read_object
from sdpn_k2.pcm import from_int16, to_int16

MAX_OVERSHOOT = 0.5  # seconds that a segment may extend past the end of its recording; extract-segments' default


class Part(NamedTuple):
    """An utterance within its recording. Times are in seconds; an end of -1 means the recording's end.

    ``channel`` is 0-based; None means that the recording should have only one channel.
    """

    utterance: str
    recording: str
    start: float = 0.0
    end: float = -1.0
    channel: Optional[int] = None


class Misfit(InputError):
    """A segment that its recording does not contain; ``warning`` is extract-segments' sentence for it."""

    def __init__(self, message: str, warning: str) -> None:
        super().__init__(message)
        self.warning = warning


_Item = Union[Tuple[str, np.ndarray], Skipped]  # an utterance and its samples, or why it has none


# Reading


def read_parts(data_dir: Path) -> List[Part]:
    """Read the utterances of a data directory, in the order of ``segments`` or, without one, of ``wav.scp``.

    Raises:
        InputError: wav.scp is missing, or a line of ``segments`` is malformed or refers to an unknown recording.
    """
    recordings = read_map(data_dir / "wav.scp")
    table = data_dir / "segments"
    if not table.is_file():
        return [Part(name, name) for name in recordings]
    parts = []
    for number, (utterance, value) in enumerate(read_map(table).items(), start=1):
        where = f"{table}:{number}"
        segment = parse_segment(utterance, value, where)
        if segment.recording not in recordings:
            raise InputError(f"{where}: recording '{segment.recording}' is not in {data_dir / 'wav.scp'}")
        channel = words.split(value)[3:]
        if channel and not channel[0].isdigit():
            raise InputError(f"{where}: '{channel[0]}' is not a valid channel (expected 0, 1, …)")
        parts.append(Part(utterance, *segment, int(channel[0]) if channel else None))
    return parts


def read_utterances(data_dir: Path, sample_rate: int, threads: int = 4, skip: Container[str] = ()) -> Iterator[_Item]:
    """Yield each utterance with its samples, float32 ``(n,)`` in ±1, or :class:`Skipped` if they cannot be read.

    Utterances in ``skip`` are left out. A recording is read once for all its consecutive utterances. Up to ``threads``
    recordings are read ahead. Those at a higher rate are resampled. Those at a lower one are skipped, since nothing can
    restore what they lack.

    Raises:
        InputError: as :func:`read_parts`.
    """
    entries = read_map(data_dir / "wav.scp")
    wanted = [part for part in read_parts(data_dir) if part.utterance not in skip]
    groups = itertools.groupby(wanted, key=lambda part: part.recording)
    with ThreadPoolExecutor(threads) as pool:
        pending: Deque[Future[List[_Item]]] = deque()
        for recording, parts in groups:
            pending.append(pool.submit(_read_recording, entries[recording], list(parts), sample_rate))
            if len(pending) > threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def read_wave_entry(entry: str) -> Wave:
    """Read the wave that an entry of wav.scp names: a file, ``archive:offset`` or ``command |``. Raises InputError."""
    wave = read_command(entry) if entry.endswith("|") else None
    return read_object(entry, "wave") if wave is None else wave


def _read_recording(entry: str, parts: List[Part], sample_rate: int) -> List[_Item]:
    try:
        wave = read_wave_entry(entry)
        if wave.rate > sample_rate:
            wave = _downsample(wave, sample_rate)
        if wave.rate != sample_rate:
            raise InputError(
                f"{entry}: {wave.rate} Hz, but the model expects {sample_rate} Hz: "
                f"use 'sdpn-k2 to-wav --rate {sample_rate} FILE |' in wav.scp"
            )
    except InputError as error:
        return [Skipped(part.utterance, str(error)) for part in parts]
    results: List[_Item] = []
    for part in parts:
        try:
            results.append((part.utterance, from_int16(cut_part(wave, part))))
        except InputError as error:
            results.append(Skipped(part.utterance, str(error)))
    return results


def _downsample(wave: Wave, sample_rate: int) -> Wave:
    """Return what ``sdpn-k2 to-wav --rate`` makes of a wave."""
    channels = [to_int16(resample(from_int16(channel), wave.rate, sample_rate)) for channel in wave.samples]
    return Wave(np.stack(channels).astype(np.float32), sample_rate)


# Cutting


def cut_part(wave: Wave, part: Part, *, max_overshoot: float = MAX_OVERSHOOT, min_length: float = 0.0) -> np.ndarray:
    """Cut an utterance out of its recording as extract-segments does: ``(n,)`` at int16 scale, a view.

    Args:
        max_overshoot: see :func:`sample_range`.
        min_length: see :func:`sample_range`.

    Raises:
        Misfit: the recording does not contain the channel or the stretch of time.
        InputError: the recording has several channels, and ``part`` does not say which one to use.
    """
    channels, length = wave.samples.shape
    if part.channel is None and channels > 1:
        raise InputError(f"recording {part.recording} has {channels} channels; choose one in segments or in wav.scp")
    channel = part.channel or 0
    if channel >= channels:
        raise Misfit(
            f"recording {part.recording} has {channels} channels, so there is no channel {channel} (0-based)",
            f"Invalid channel {channel} >= {channels}, processing segment {part.utterance}",
        )
    first, end = sample_range(part, wave.rate, length, max_overshoot=max_overshoot, min_length=min_length)
    return wave.samples[channel, first:end]


def sample_range(
    part: Part, rate: int, length: int, *, max_overshoot: float = MAX_OVERSHOOT, min_length: float = 0.0
) -> Tuple[int, int]:
    """Return the first sample of an utterance in its recording, and the one after its last.

    The rules are those of Kaldi's extract-segments.cc: a time is multiplied by the rate in double precision and
    truncated, so that 2.01 s at 16 kHz is sample 32159. The two limits are computed in single precision.

    Args:
        part: the utterance; its channel does not matter here.
        rate: samples per second.
        length: samples in the recording.
        max_overshoot: a segment that ends less than this many seconds after its recording ends with it.
        min_length: a segment must be longer than this many seconds.

    Raises:
        Misfit: the segment begins or ends too far outside of the recording, or is too short.
    """
    first = int(part.start * rate)
    end = length if part.end == -1 else int(part.end * rate)
    if first >= length:
        reason = f"Start sample out of range {first} [length:] {length}, skipping segment {part.utterance}"
    elif end >= length + _in_samples(max_overshoot, rate) and end > length:
        reason = f"End sample too far out of range {end} [length:] {length}, skipping segment {part.utterance}"
    elif min(end, length) <= first + _in_samples(min_length, rate):
        reason = f"Segment {part.utterance} too short, skipping it."
    else:
        return first, min(end, length)
    until = "its end" if part.end == -1 else f"{part.end:g} s"
    raise Misfit(
        f"goes from {part.start:g} to {until}, but recording {part.recording} lasts {length / rate:g} s", reason
    )


def _in_samples(seconds: float, rate: int) -> float:
    with np.errstate(over="ignore"):
        return float(np.trunc(np.float32(seconds) * np.float32(rate)))
