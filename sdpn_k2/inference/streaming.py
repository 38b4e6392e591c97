"""Embeddings of sliding windows over endless audio; memory holds one window at a time."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
from typing import Iterable, Iterator, Optional, Tuple

import numpy as np

from sdpn_k2.errors import MAX_SKIPPED_SHARE, InputError
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi.datadir.subsegments import Windowing, times_in_name
from sdpn_k2.kaldi.features.sound import open_sound
from sdpn_k2.kaldi.features.wave import read_header
from sdpn_k2.kaldi.formats.io import InputStream, open_input
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.pcm import from_int16
from sdpn_k2.scoring.vector_files import open_vectors

log = logging.getLogger(__name__)

BATCH_WINDOWS = 16  # for files; the windows of a pipe, which may be live, are embedded one by one
# First bytes of other audio formats. On a pipe they would pass for samples without a header.
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
    extractor: Extractor,
    name: str,
    output: str,
    *,
    key: str,
    windowing: Windowing,
    channel: int = 0,
    skip_bad: bool = False,
) -> int:
    """Embed sliding windows of an audio file, a pipe or a ``command |``, and return how many were written.

    Args:
        extractor: the model.
        name: the recording. Pipes carry 16-bit WAV, or 16-bit mono samples at the model's rate without a header.
        output: where the embeddings are written (see :mod:`sdpn_k2.scoring.vector_files`), under
            ``<key>-<start>-<end>`` in hundredths of a second.
        key: start of every key.
        windowing: length and shift of the windows.
        channel: channel to use in a recording with several (0-based).
        skip_bad: accept that more than 5 % of the windows hold samples that are not finite.

    Windows without a signal (all samples equal, or no more than digital silence) and windows with samples that are not
    finite are left out and counted.

    Raises:
        InputError: unreadable audio; another sample rate than the model's; windows too short to embed; no window left;
            too many windows with samples that are not finite.
    """
    rate = extractor.sample_rate
    length, shift, least = (round(seconds * rate) for seconds in dataclasses.astuple(windowing))
    if extractor.front_end.num_frames(least) < EcapaTdnn.MIN_FRAMES:
        raise InputError(f"windows of {windowing.min_window:g} s are too short to embed; use a longer --min-window")
    live = name in ("", "-") or name.endswith("|") or not os.path.isfile(name)
    windows = sliding_windows((_read_pipe if live else _read_file)(name, rate, channel, shift), length, shift, least)
    written = silent = bad = 0
    with open_vectors(output) as write:
        while batch := list(itertools.islice(windows, 1 if live else BATCH_WINDOWS)):
            finite = [(start, samples) for start, samples in batch if np.isfinite(samples).all()]
            usable = []
            for start, samples in finite:
                try:
                    if np.ptp(samples) > 0:
                        usable.append((start, start + len(samples), extractor.compute_features(samples)))
                except InputError:
                    pass  # too little besides digital silence
            bad += len(batch) - len(finite)
            silent += len(finite) - len(usable)
            written += len(usable)
            vectors = extractor.embed_fbank([features for _, _, features in usable])
            if not np.isfinite(vectors).all():
                raise InputError(f"{name}: an embedding is not finite; check the weights of the checkpoint")
            for (start, end, _), vector in zip(usable, vectors):
                write({f"{key}-{times_in_name(start / rate, end / rate)}": vector})
        log.info("%s: %d windows; left out %d silent ones, and %d that are not finite", name, written, silent, bad)
        if not written:
            raise InputError(f"{name}: no window of at least {windowing.min_window:g} s holds a signal")
    total = written + silent + bad
    if bad > MAX_SKIPPED_SHARE * total and not skip_bad:
        limit = f"at most {100 * MAX_SKIPPED_SHARE:g} %, see --skip-bad"
        raise InputError(f"{name}: {bad} of {total} windows are not finite ({limit})")
    return written


def sliding_windows(
    blocks: Iterable[np.ndarray], length: int, shift: int, least: int
) -> Iterator[Tuple[int, np.ndarray]]:
    """Yield (first sample, samples) of windows of ``length`` samples every ``shift``, from blocks of samples.

    The last window may be shorter, but has at least ``least`` samples. No more than a window and a block is held.
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
    """Yield one channel of a file in blocks of ``size`` samples."""
    with open_sound(path) as sound:
        _check_format(path, sound.rate, sound.channels, rate, channel)
        for block in sound.blocks(size):
            yield block[:, channel]
        if sound.is_truncated:
            log.warning("%s: fewer samples than the header announces; is it cut short?", path)


def _read_pipe(name: str, rate: int, channel: int, size: int) -> Iterator[np.ndarray]:
    """Yield one channel of a WAV stream, or of mono samples at the model's rate, in blocks of ``size`` samples."""
    with open_input(name) as stream:
        channels, order, count = 1, "<i2", None
        found = next((kind for magic, kind in _OTHER_FORMATS.items() if stream.peek(4).startswith(magic)), None)
        if found:
            raise InputError(f"{name}: {found} cannot be read from a pipe; {_conversion(rate)}")
        if stream.peek(4) in (b"RIFF", b"RIFX"):
            header = read_header(stream)
            channels, order, count = header.channels, ">i2" if header.swapped else "<i2", header.samples
            _check_format(name, header.rate, channels, rate, channel)
        for frames in _read_pcm(stream, np.dtype((order, (channels,))), size, count):
            yield from_int16(frames[:, channel])


def _read_pcm(stream: InputStream, frame: np.dtype, size: int, count: Optional[int]) -> Iterator[np.ndarray]:
    """Yield blocks of up to ``size`` frames, ``count`` in all; None reads up to the end of the stream."""
    while count is None or count > 0:
        wanted = size if count is None else min(size, count)
        data = stream.read(wanted * frame.itemsize)
        frames = np.frombuffer(data[: len(data) // frame.itemsize * frame.itemsize], frame)
        if len(frames):
            yield frames
        if count is not None:
            count -= len(frames)
        if len(data) < wanted * frame.itemsize:
            if count:
                log.warning("%s: ended %d samples earlier than its header says; is it cut short?", stream.name, count)
            return


def _check_format(name: str, rate: int, channels: int, wanted: int, channel: int) -> None:
    if rate != wanted:
        raise InputError(f"{name}: {rate} Hz, but the model expects {wanted} Hz; {_conversion(wanted)}")
    if not 0 <= channel < channels:
        raise InputError(f"{name}: channel {channel} does not exist; it has {channels}, numbered from 0")


def _conversion(rate: int) -> str:
    return f"convert it, for example with 'ffmpeg -v 8 -i FILE -f s16le -ar {rate} -ac 1 - |'"
