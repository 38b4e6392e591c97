"""Embeddings of a recording without end, in sliding windows: what is kept is one window of samples."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Iterable, Iterator, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi.datadir.subsegments import Windowing
from sdpn_k2.kaldi.features.wave import read_header
from sdpn_k2.kaldi.formats.io import InputStream, open_input
from sdpn_k2.kaldi.formats.tables import TableWriter
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn

log = logging.getLogger(__name__)

BATCH_WINDOWS = 16  # of files; a pipe is live, and its windows are embedded one by one, as they come
# What audio of other formats begins with: on a pipe it would pass for samples without a header.
_OTHER_FORMATS = {
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"ID3": "MP3",
    b"RF64": "RF64",
    b"NIST": "NIST SPHERE",
    b"FORM": "AIFF",
    b"caff": "CAF",
}


def embed_stream(
    extractor: Extractor, name: str, wspecifier: str, key: str, windowing: Windowing, channel: int = 0
) -> int:
    """Embed an audio file, a pipe or ``command |`` in sliding windows; returns how many.

    Each is written under ``<key>-<start>-<end>``, times in hundredths of a second. Windows in which all samples are
    equal, or some are NaN, are left out and counted.

    Raises:
        InputError: unreadable audio, another sample rate than the model's, windows too short for the model, no window
            to embed.
    """
    rate = extractor.sample_rate
    length, shift, least = (round(seconds * rate) for seconds in dataclasses.astuple(windowing))
    if extractor.front_end.num_frames(least) < EcapaTdnn.MIN_FRAMES:
        raise InputError(f"least window {windowing.min_window:g} s: too short for an embedding")
    live = name in ("", "-") or name.endswith("|") or not os.path.isfile(name)
    blocks = (_read_pipe if live else _read_file)(name, rate, channel, shift)
    written = skipped = 0
    with TableWriter(wspecifier, "vector") as writer:
        for batch in _batches(sliding_windows(blocks, length, shift, least), 1 if live else BATCH_WINDOWS):
            usable = [window for window in batch if np.isfinite(window[1]).all() and np.ptp(window[1]) > 0]
            skipped += len(batch) - len(usable)
            if not usable:
                continue
            vectors = extractor.embed_fbank([extractor.compute_features(samples) for _, samples in usable])
            for (start, samples), vector in zip(usable, vectors):
                times = (round(100 * at / rate) for at in (start, start + len(samples)))
                writer.write("-".join([key, *(f"{time:08d}" for time in times)]), vector)
            written += len(usable)
        log.info("%s: %d windows, %d silent or not finite left out", name, written, skipped)
        if not written:
            raise InputError(f"{name}: nothing to embed: no window of {windowing.min_window:g} s with a signal")
    return written


def sliding_windows(
    blocks: Iterable[np.ndarray], length: int, shift: int, least: int
) -> Iterator[Tuple[int, np.ndarray]]:
    """(first sample, samples) of windows of ``length`` every ``shift`` samples; the last may be shorter, ≥ ``least``.

    Holds no more than a window and a block.
    """
    held, start = np.empty(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= length:
            yield start, held[:length]
            held = held[shift:]
            start += shift
    seen = length - shift if start else 0
    if len(held) > seen and len(held) >= least:
        yield start, held


def _read_file(path: str, rate: int, channel: int, size: int) -> Iterator[np.ndarray]:
    import soundfile

    try:
        with soundfile.SoundFile(path) as audio:
            _check_format(path, audio.samplerate, audio.channels, rate, channel)
            for block in audio.blocks(size, dtype="float32", always_2d=True):
                yield block[:, channel]
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot read audio: {error}") from None


def _read_pipe(name: str, rate: int, channel: int, size: int) -> Iterator[np.ndarray]:
    """16-bit samples: a WAV stream, or without a header mono at the model's rate."""
    with open_input(name) as stream:
        channels, order, count = 1, "<i2", None
        found = next((kind for magic, kind in _OTHER_FORMATS.items() if stream.peek(4).startswith(magic)), None)
        if found:
            raise InputError(f"{name}: {found}, but a pipe should bring 16-bit WAV or samples alone: {_decoding(rate)}")
        if stream.peek(4) in (b"RIFF", b"RIFX"):
            header = read_header(stream)
            channels, order, count = header.channels, ">i2" if header.swapped else "<i2", header.samples
            _check_format(name, header.rate, channels, rate, channel)
        yield from _read_pcm(stream, channels, channel, order, size, count)


def _read_pcm(
    stream: InputStream, channels: int, channel: int, order: str, size: int, count: Optional[int]
) -> Iterator[np.ndarray]:
    """Blocks of up to ``size`` samples; ``count``: how many there are in all, None: up to the end of the stream."""
    width = 2 * channels
    while count is None or count > 0:
        wanted = size if count is None else min(size, count)
        data = stream.read(wanted * width)
        samples = np.frombuffer(data[: len(data) // width * width], order).reshape(-1, channels)[:, channel]
        if len(samples):
            yield samples.astype(np.float32) / np.float32(32768)
        if count is not None:
            count -= len(samples)
        if len(data) < wanted * width:
            if count:
                log.warning("%s: ended %d samples before its header says; truncated?", stream.name, count)
            return


def _check_format(name: str, rate: int, channels: int, wanted: int, channel: int) -> None:
    if rate != wanted:
        raise InputError(f"{name}: {rate} Hz, but the model wants {wanted} Hz: {_decoding(wanted)}")
    if not 0 <= channel < channels:
        raise InputError(f"{name}: there is no channel {channel}: there are {channels}, counted from 0")


def _decoding(rate: int) -> str:
    return f"convert it on the way, such as with 'ffmpeg -v 8 -i FILE -f s16le -ar {rate} -ac 1 - |'"


def _batches(items: Iterable, size: int) -> Iterator[list]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
