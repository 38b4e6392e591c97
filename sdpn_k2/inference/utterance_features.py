"""Features of utterances: those that a data directory stores, or those that a model's front end computes from audio."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.config import FeaturesConfig
from sdpn_k2.errors import InputError, Skipped
from sdpn_k2.inference.long_recordings import LongFeatures, long_entry
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.datadir.utterances import read_parts, read_utterances
from sdpn_k2.kaldi.features.sound import check_not_silent
from sdpn_k2.kaldi.formats.tables import read_table
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.signal.front_end import FrontEnd

# An utterance and its features (frames, bins), not normalised; LongFeatures only where they are asked for.
Features = Union[Tuple[str, Tensor], Skipped]


def read_features(
    data_dir: Path, config: FeaturesConfig, front_end: FrontEnd, long_as_chunks: bool = False
) -> Tuple[int, Iterator[Features]]:
    """Return the number of utterances in a data directory, and an iterator over their features.

    For models on Kaldi's fbank, ``feats.scp`` is read if it exists (CPU tensors). Otherwise ``front_end`` computes the
    features on its device from ``wav.scp`` and ``segments``; with ``long_as_chunks``, those of long recordings are
    :class:`LongFeatures`.

    Raises:
        InputError: neither table exists; while iterating: features of another dimension, broken tables.
    """
    stored = data_dir / "feats.scp"
    if config.kind == "fbank" and stored.is_file():
        return len(read_map(stored)), _stored(stored, config.num_mel_bins)
    if not (data_dir / "wav.scp").is_file():
        tables = "feats.scp or wav.scp" if config.kind == "fbank" else f"wav.scp (the model computes {config.kind})"
        raise InputError(f"{data_dir}: needs {tables}")
    return len(read_parts(data_dir)), _computed(data_dir, config.sample_rate, front_end, long_as_chunks)


def compute_features(front_end: FrontEnd, waveform: np.ndarray) -> Tensor:
    """Return the features of one waveform ``(samples,)`` in ±1, on the front end's device.

    Raises:
        InputError: fewer than 5 frames.
    """
    if front_end.num_frames(len(waveform)) < EcapaTdnn.MIN_FRAMES:
        raise InputError(f"{len(waveform)} samples are fewer than {EcapaTdnn.MIN_FRAMES} frames")
    device = next(front_end.buffers()).device
    return front_end(torch.as_tensor(np.ascontiguousarray(waveform), dtype=torch.float32, device=device)[None])[0]


def check_embeddable(features: Tensor) -> None:
    """Check that an utterance's features ``(frames, bins)`` can be embedded.

    Raises:
        InputError: fewer than 5 frames; NaN or infinite values; silence.
    """
    if len(features) < EcapaTdnn.MIN_FRAMES:
        raise InputError(f"{len(features)} frames; at least {EcapaTdnn.MIN_FRAMES} are needed")
    if not torch.isfinite(features).all():
        raise InputError("NaN or infinite features")
    if (features == features[:1]).all():
        raise InputError("silent: every frame has the same features")


def _stored(scp: Path, num_bins: int) -> Iterator[Features]:
    for key, fbank in read_table(f"scp:{scp}", "matrix"):
        if fbank.shape[1] != num_bins:
            raise InputError(f"{scp}: features of '{key}' have {fbank.shape[1]} dimensions; the model needs {num_bins}")
        yield key, torch.from_numpy(fbank)


def _computed(data_dir: Path, sample_rate: int, front_end: FrontEnd, long_as_chunks: bool) -> Iterator[Any]:
    long: Dict[str, Tuple[str, int]] = {}
    if long_as_chunks and not (data_dir / "segments").is_file():
        found = {key: long_entry(entry, sample_rate) for key, entry in read_map(data_dir / "wav.scp").items()}
        long = {key: each for key, each in found.items() if each is not None}
    others = read_utterances(data_dir, sample_rate, skip=long)
    for part in read_parts(data_dir):
        if part.utterance in long:
            path, channel = long[part.utterance]
            try:
                yield part.utterance, LongFeatures(front_end, path, sample_rate, channel)
            except InputError as error:
                yield Skipped(part.utterance, str(error))
            continue
        item = next(others)
        if isinstance(item, Skipped):
            yield item
            continue
        key, samples = item
        try:
            check_not_silent(samples)
            yield key, compute_features(front_end, samples)
        except InputError as error:
            yield Skipped(key, str(error))
