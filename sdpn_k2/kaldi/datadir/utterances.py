"""The waveforms of a data directory: wav.scp, cut by segments where there are any."""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Deque, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import parse_segment, read_map
from sdpn_k2.kaldi.features.wave import Wave, read_command
from sdpn_k2.kaldi.formats.tables import read_object

MAX_OVERSHOOT = 0.5  # seconds a segment may end after its recording, as in extract-segments

Samples = Union[np.ndarray, InputError]


class Part(NamedTuple):
    """An utterance within its recording: seconds; an end of -1 means the recording's end."""

    utterance: str
    recording: str
    start: float = 0.0
    end: float = -1.0
    channel: Optional[int] = None


def read_parts(data_dir: Path) -> List[Part]:
    """The utterances of a data directory, in the order of ``segments`` or else of ``wav.scp``.

    Raises:
        InputError: no wav.scp; a line of segments that is malformed, reversed, or of a recording that wav.scp has not.
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
        channel = value.split()[3:]
        if channel and not channel[0].isdigit():
            raise InputError(f"{where}: '{channel[0]}' is no channel, counted from 0")
        parts.append(Part(utterance, *segment, int(channel[0]) if channel else None))
    return parts


def read_utterances(data_dir: Path, sample_rate: int, threads: int = 4) -> Iterator[Tuple[str, Samples]]:
    """(utterance, float32 samples ``(n,)`` in ±1) of all utterances; an InputError stands for samples that fail.

    Each run of utterances of one recording reads it once; as many recordings as there are threads are read ahead.

    Raises:
        InputError: as :func:`read_parts`.
    """
    entries = read_map(data_dir / "wav.scp")
    groups = itertools.groupby(read_parts(data_dir), key=lambda part: part.recording)
    with ThreadPoolExecutor(threads) as pool:
        pending: Deque[Future] = deque()
        for recording, parts in groups:
            pending.append(pool.submit(_read_recording, entries[recording], list(parts), sample_rate))
            if len(pending) > threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def read_wave_entry(entry: str) -> Wave:
    """What an entry of wav.scp names: a file, ``archive:offset`` or a ``command |``. Raises InputError."""
    wave = read_command(entry) if entry.endswith("|") else None
    return read_object(entry, "wave") if wave is None else wave


def _read_recording(entry: str, parts: List[Part], sample_rate: int) -> List[Tuple[str, Samples]]:
    try:
        wave = read_wave_entry(entry)
        if wave.rate != sample_rate:
            raise InputError(
                f"{entry}: {wave.rate} Hz, but the model wants {sample_rate} Hz: "
                f"use 'sdpn-k2 to-wav --rate {sample_rate} FILE |' in wav.scp"
            )
    except InputError as error:
        return [(part.utterance, error) for part in parts]
    return [(part.utterance, _cut(wave, part)) for part in parts]


def misfit(wave: Wave, part: Part) -> Optional[InputError]:
    """Why there is no such part of this recording: no such channel, or it ends more than 0.5 s beyond the end."""
    channels, length = wave.samples.shape
    if part.channel is None and channels > 1:
        return InputError(f"recording {part.recording} has {channels} channels: name one in segments or in wav.scp")
    if (part.channel or 0) >= channels:
        return InputError(f"recording {part.recording} has {channels} channels, counted from 0; no {part.channel}")
    first, last = round(part.start * wave.rate), round(part.end * wave.rate)
    if first >= length or last > length + MAX_OVERSHOOT * wave.rate:
        return InputError(
            f"goes from {part.start:g} to {part.end:g} s, but recording {part.recording} lasts {wave.duration:g} s"
        )
    return None


def _cut(wave: Wave, part: Part) -> Samples:
    error = misfit(wave, part)
    if error is not None:
        return error
    first = round(part.start * wave.rate)
    last = wave.samples.shape[1] if part.end == -1 else round(part.end * wave.rate)
    # Divided by a power of two: exactly the numbers that libsndfile gives for 16-bit audio.
    return wave.samples[part.channel or 0, first:last] / np.float32(32768)
