"""The features of a data directory's utterances: stored ones, or what a model's own front end makes of the audio."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.config import FeaturesConfig
from sdpn_k2.errors import InputError, Skipped
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.datadir.utterances import read_parts, read_utterances
from sdpn_k2.kaldi.formats.tables import read_table
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.signal.front_end import FrontEnd

Features = Union[Tensor, InputError]  # (frames, bins), not normalised, or why there are none


def read_features(
    data_dir: Path, config: FeaturesConfig, front_end: FrontEnd
) -> Tuple[int, Iterator[Tuple[str, Features]]]:
    """How many utterances there are, and (utterance, features) of each.

    Where Kaldi's fbank is asked for and ``feats.scp`` is there, that is read (CPU tensors); else ``wav.scp`` and
    ``segments``, and ``front_end`` computes on its device.

    Raises:
        InputError: neither table is there; while iterating: features of another dimension, broken tables.
    """
    stored = data_dir / "feats.scp"
    if config.kind == "fbank" and stored.is_file():
        return len(read_map(stored)), _stored(stored, config.num_mel_bins)
    if not (data_dir / "wav.scp").is_file():
        raise InputError(f"{data_dir}: neither wav.scp nor a feats.scp of features for this model ({config.kind})")
    return len(read_parts(data_dir)), _computed(data_dir, config.sample_rate, front_end)


def compute_features(front_end: FrontEnd, waveform: np.ndarray) -> Tensor:
    """Features of one waveform ``(samples,)`` in ±1, on the front end's device.

    Raises:
        InputError: fewer than 5 frames.
    """
    if front_end.num_frames(len(waveform)) < EcapaTdnn.MIN_FRAMES:
        raise InputError(f"{len(waveform)} samples are too short for an embedding")
    samples = np.ascontiguousarray(waveform)
    return front_end(torch.as_tensor(samples, dtype=torch.float32, device=front_end.window.device)[None])[0]


def _stored(scp: Path, num_bins: int) -> Iterator[Tuple[str, Features]]:
    for key, fbank in read_table(f"scp:{scp}", "matrix"):
        if fbank.shape[1] != num_bins:
            raise InputError(f"{scp}: {key} has {fbank.shape[1]} dimensions, the model wants {num_bins}")
        yield key, torch.from_numpy(fbank)


def _computed(data_dir: Path, sample_rate: int, front_end: FrontEnd) -> Iterator[Tuple[str, Features]]:
    for item in read_utterances(data_dir, sample_rate):
        if isinstance(item, Skipped):
            yield item.key, InputError(item.reason)
            continue
        key, samples = item
        try:
            yield key, compute_features(front_end, samples)
        except InputError as error:
            yield key, error
