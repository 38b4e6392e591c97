"""Features of recordings of any length, computed chunk by chunk: memory follows the chunk, not the recording.

A long file is decoded several times. The first passes check its samples and count those besides digital silence, which
decide where the chunks of ``Extractor`` begin. In the last, each chunk is read, resampled and turned into features on
its own. The features equal those of the whole recording: a chunk is read with the samples that its first and last frame
share with its neighbours. Only frames far below the others are left out by chunk, not by recording.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator, Optional, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.config import FeaturesConfig
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.resample import NUM_ZEROS, resample
from sdpn_k2.kaldi.features.sound import BLOCK_SAMPLES, check_channel, open_sound
from sdpn_k2.kaldi.features.wave import parse_to_wav
from sdpn_k2.kaldi.formats import log
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.pcm import from_int16, to_int16
from sdpn_k2.signal.front_end import FrontEnd
from sdpn_k2.signal.melspec import MelSpectrogram
from sdpn_k2.signal.silence import signal_frames, silent_runs, silent_samples

SILENT = "digital silence throughout; is the recording muted?"
LONG_SECONDS = 180.0
# A shorter file cannot hold LONG_SECONDS at the lowest rate, not even as 2 kbit/s speech.
LONG_BYTES = int(LONG_SECONDS * 250)


class LongFeatures:
    """The features of a long recording; ``len`` is their number of frames.

    Attributes:
        path: the file.
        rate_in: its sample rate in Hz.
        num_samples: samples at the model's rate, without digital silence if the configuration drops it.
    """

    def __init__(self, front_end: FrontEnd, path: str, config: FeaturesConfig, channel: int):
        """Decode the recording, to check and to count.

        Raises:
            InputError: unreadable audio, no such channel, samples that are not finite, silence, fewer than 5 frames
                besides digital silence.
        """
        self.path, self._front_end, self._rate, self._channel = path, front_end, config.sample_rate, channel
        self._drops_silence = config.silence == "drop"
        lowest, highest = np.inf, -np.inf
        with open_sound(path) as sound:
            check_channel(sound, channel)
            self.rate_in = sound.rate
            for block in sound.blocks():
                samples = block[:, channel]
                if not np.isfinite(samples).all():
                    raise InputError(f"{path}: samples are NaN or infinite")
                lowest, highest = min(lowest, samples.min()), max(highest, samples.max())
            count = sound.read_to
            if sound.is_truncated:
                log.warn(f"{path}: read only {count} samples, fewer than the header announces; truncated file?")
        if lowest == highest:
            raise InputError(f"{path}: silent: every sample is {lowest:g}")
        self.num_samples = -(-count * self._rate // self.rate_in)
        if self._drops_silence:
            self.num_samples = sum(map(len, self._blocks()))
            if not self.num_samples:
                raise InputError(f"{path}: {SILENT}")
        self._frames = front_end.num_frames(self.num_samples)
        if self._frames < EcapaTdnn.MIN_FRAMES:
            raise InputError(f"{path}: fewer than {EcapaTdnn.MIN_FRAMES} frames besides digital silence")

    def __len__(self) -> int:
        return self._frames

    def chunks(self, count: int) -> Iterator[Tensor]:
        """Yield ``count`` chunks of nearly equal length ``(frames, bins)``, as ``torch.tensor_split`` makes them.

        They lack frames of digital silence, if the configuration drops it; those without 5 others are left out.
        """
        front_end = self._front_end
        shift: int = front_end.shift
        fft_size: int = front_end.fft_size
        # Frames of Kaldi's fbank begin at their first sample; those of a mel spectrogram are centred there.
        centred = isinstance(front_end, MelSpectrogram)
        margin = -(-fft_size // 2 // shift) if centred else 0
        reach = fft_size // 2 if isinstance(front_end, MelSpectrogram) else front_end.length
        device = next(front_end.buffers()).device
        sizes = [self._frames // count + (index < self._frames % count) for index in range(count)]
        held, start, blocks = np.empty(0, np.float32), 0, self._blocks()
        first = 0
        for size in sizes:
            begin = max(0, (first - margin) * shift)
            end = min(self.num_samples, (first + size - 1 + margin) * shift + reach)
            pieces = [held]
            while start + sum(map(len, pieces)) < end:
                block = next(blocks, None)
                if block is None:
                    break
                pieces.append(block)
            held = np.concatenate(pieces)
            waveform = torch.from_numpy(held[begin - start : end - start]).to(device)
            features = front_end(waveform[None])[0]
            skip = first - begin // shift
            features = features[skip : skip + size]
            if self._drops_silence:
                features = features[signal_frames(features)]
            if len(features) >= EcapaTdnn.MIN_FRAMES:
                yield features
            first += size
            kept = max(0, (first - margin) * shift) - start
            held, start = held[kept:], start + kept

    def _blocks(self) -> Iterator[np.ndarray]:
        """Yield the channel at the model's rate, float32 in ±1, rounded to int16 as ``read_audio`` does."""
        with open_sound(self.path) as sound:
            blocks = (block[:, self._channel] for block in sound.blocks())
            rounded = (
                from_int16(to_int16(block).astype(np.float32)) for block in resampled(blocks, self.rate_in, self._rate)
            )
            yield from without_silence(rounded, self._front_end.shift) if self._drops_silence else rounded


def without_silence(blocks: Iterator[np.ndarray], least: int) -> Iterator[np.ndarray]:
    """Cut runs of ``least`` silent samples or more out of a signal in blocks, as ``cut_silence`` does."""
    held = np.empty(0, np.float32)  # the silence at the end, as far as it decides on what follows
    for block in blocks:
        held = np.concatenate([held, block])
        heard = np.flatnonzero(~silent_samples(torch.from_numpy(held)).numpy())
        end = heard[-1] + 1 if len(heard) else 0
        yield _without_runs(held[:end], least)
        held = held[max(end, len(held) - least) :]
    yield _without_runs(held, least)


def _without_runs(samples: np.ndarray, least: int) -> np.ndarray:
    kept: np.ndarray = samples[~silent_runs(torch.from_numpy(samples)[None], least)[0].numpy()]
    return kept


def resampled(blocks: Iterator[np.ndarray], rate_in: int, rate_out: int) -> Iterator[np.ndarray]:
    """Resample a signal that comes in blocks, as ``resample`` does with the whole."""
    if rate_in == rate_out:
        yield from blocks
        return
    common = int(np.gcd(rate_in, rate_out))
    units_in, units_out = rate_in // common, rate_out // common
    # The filter covers this many samples on each side; pieces begin at multiples of units_in, where its phases repeat.
    reach = -(-(NUM_ZEROS + 1) * rate_in // min(rate_in, rate_out)) + 2
    margin = -(-reach // units_in) * units_in
    step = -(-BLOCK_SAMPLES // units_in) * units_in
    held, before = np.empty(0, np.float32), 0  # before: samples of held that only serve as margin
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= before + step + margin:
            piece = resample(held[: before + step + margin], rate_in, rate_out)
            yield piece[before // units_in * units_out : (before + step) // units_in * units_out]
            held = held[before + step - margin :]
            before = margin
    if len(held) > before:
        yield resample(held, rate_in, rate_out)[before // units_in * units_out :]


def is_long(source: object) -> bool:
    """Return whether ``source`` is a file with so much audio that it should be read chunk by chunk."""
    if not isinstance(source, (str, Path)) or not os.path.isfile(source) or os.path.getsize(source) < LONG_BYTES:
        return False
    try:
        with open_sound(source) as sound:
            return sound.announced >= LONG_SECONDS * sound.rate
    except InputError:
        return False  # the reader says why


def long_entry(entry: str, rate: int) -> Optional[Tuple[str, int]]:
    """Return file and channel of an entry of wav.scp that is a long recording at ``rate``, or None.

    Other entries are read as Kaldi's tools read them: whole, and refused at another rate.
    """
    converted = parse_to_wav(entry)
    if converted is not None:
        path, wanted, channel = converted
        return (path, channel) if wanted == rate and is_long(path) else None
    if not is_long(entry):
        return None
    with open_sound(entry) as sound:
        plain = sound.is_pcm16_wav and sound.channels == 1 and sound.rate == rate
    return (entry, 0) if plain else None


def split(features: Union[np.ndarray, Tensor, LongFeatures], count: int, device: torch.device) -> Iterator[Tensor]:
    """Yield ``count`` chunks of features on ``device``."""
    if isinstance(features, LongFeatures):
        yield from features.chunks(count)
    else:
        yield from torch.tensor_split(torch.as_tensor(features, device=device), count)
