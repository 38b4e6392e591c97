"""Features of utterances: those that a data directory stores, or those that a model's front end computes from audio."""

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
from sdpn_k2.signal.silence import is_silent, signal_frames, silent_runs

Features = Union[Tuple[str, Tensor], Skipped]  # an utterance and its features (frames, bins), not normalised
SILENT = "digital silence throughout; is the recording muted?"


def read_features(
    data_dir: Path, config: FeaturesConfig, front_end: FrontEnd, every_frame: bool = False
) -> Tuple[int, Iterator[Features]]:
    """Return the number of utterances in a data directory, and an iterator over their features.

    For models on Kaldi's fbank, ``feats.scp`` is read if it exists (CPU tensors). Otherwise ``front_end`` computes the
    features on its device from ``wav.scp`` and ``segments``: of every frame, or without digital silence.

    Raises:
        InputError: neither table exists; while iterating: features of another dimension, broken tables.
    """
    stored = data_dir / "feats.scp"
    if config.kind == "fbank" and stored.is_file():
        return len(read_map(stored)), _stored(stored, config)
    if not (data_dir / "wav.scp").is_file():
        tables = "feats.scp or wav.scp" if config.kind == "fbank" else f"wav.scp (the model computes {config.kind})"
        raise InputError(f"{data_dir}: needs {tables}")
    return len(read_parts(data_dir)), _computed(data_dir, config, front_end, every_frame)


def compute_features(
    front_end: FrontEnd, waveform: np.ndarray, config: FeaturesConfig, every_frame: bool = False
) -> Tensor:
    """Return the features of one waveform ``(samples,)`` in ±1, on the front end's device.

    Args:
        front_end: computes them.
        waveform: the waveform.
        config: decides whether digital silence is cut out.
        every_frame: never cut anything, since something else counts the frames.

    Raises:
        InputError: fewer than 5 frames; digital silence throughout, if the configuration drops it.
    """
    if front_end.num_frames(len(waveform)) < EcapaTdnn.MIN_FRAMES:
        raise InputError(f"{len(waveform)} samples are fewer than {EcapaTdnn.MIN_FRAMES} frames")
    device = next(front_end.buffers()).device
    samples = torch.as_tensor(np.ascontiguousarray(waveform), dtype=torch.float32, device=device)
    if config.silence == "drop" and not every_frame:
        samples = samples[~silent_runs(samples[None], front_end.shift)[0]]
        if not len(samples):
            raise InputError(SILENT)
        if front_end.num_frames(len(samples)) < EcapaTdnn.MIN_FRAMES:
            raise InputError(f"{len(samples)} samples besides silence are fewer than {EcapaTdnn.MIN_FRAMES} frames")
    return front_end(samples[None])[0]


def embeddable_frames(features: Tensor, config: FeaturesConfig) -> Tensor:
    """Return the frames of an utterance ``(frames, bins)`` that are embedded: all, or those with a signal.

    Raises:
        InputError: fewer than 5 such frames; NaN or infinite values.
    """
    if len(features) < EcapaTdnn.MIN_FRAMES:
        raise InputError(f"{len(features)} frames; at least {EcapaTdnn.MIN_FRAMES} are needed")
    if not torch.isfinite(features).all():
        raise InputError("NaN or infinite features")
    if config.silence == "keep":
        return features
    signal = signal_frames(features)
    if int(signal.sum()) < EcapaTdnn.MIN_FRAMES:
        raise InputError(
            f"{int(signal.sum())} frames without digital silence; at least {EcapaTdnn.MIN_FRAMES} are needed"
        )
    return features if bool(signal.all()) else features[signal]


def _stored(scp: Path, config: FeaturesConfig) -> Iterator[Features]:
    for key, fbank in read_table(f"scp:{scp}", "matrix"):
        if fbank.shape[1] != config.num_mel_bins:
            raise InputError(
                f"{scp}: features of '{key}' have {fbank.shape[1]} dimensions; the model needs {config.num_mel_bins}"
            )
        features = torch.from_numpy(fbank)
        if config.silence == "drop" and len(features) and bool(is_silent(features)):
            yield Skipped(key, SILENT)
        else:
            yield key, features


def _computed(data_dir: Path, config: FeaturesConfig, front_end: FrontEnd, every_frame: bool) -> Iterator[Features]:
    for item in read_utterances(data_dir, config.sample_rate):
        if isinstance(item, Skipped):
            yield item
            continue
        key, samples = item
        try:
            yield key, compute_features(front_end, samples, config, every_frame)
        except InputError as error:
            yield Skipped(key, str(error))
