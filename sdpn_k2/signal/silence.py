"""Digital silence: frames without a signal, which never reach normalisation and encoder.

Gates of noise suppressors, muted microphones, codecs that pause in silence (DTX) and editors leave zeros between words.
Their log energy is -16 where speech has 10 to 20, so that instance normalisation would spend itself on them.

A frame is silent if its energy is 60 dB or more below that of the utterance's loudest frame. This does not depend on
the level of a recording. Frames beside a silent one are left out too, since the edge of a gate lies in them.
"""

import math
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sdpn_k2.config import FeaturesConfig
from sdpn_k2.pcm import INT16_SCALE
from sdpn_k2.signal.melspec import POWER_OFFSET

SILENCE_DB = 60.0  # below the loudest frame
EDGE_FRAMES = 1  # left out on each side of silence
LEAST_ENERGY = 0.0  # of Kaldi's fbank; zeros have -11.6 in 80 bins, noise of 1 LSB of 16 bits has 11
LEAST_RANGE = 2 / INT16_SCALE  # of a waveform: noise of ±1 LSB has no speech in it
_NATS_PER_DB = math.log(10) / 10


def frame_energies(features: Tensor) -> Tensor:
    """Return the log energy of each frame of log-mel features ``(…, frames, bins)``, float32 ``(…, frames)``."""
    return torch.logsumexp(features.float(), dim=-1)


def signal_frames(features: Tensor) -> Tensor:
    """Return which frames have a signal, bool ``(…, frames)``, of log-mel features ``(…, frames, bins)``.

    The frames of an utterance that is silent throughout are alike, and all of them count as signal here.
    """
    energies = frame_energies(features)
    silent = energies < energies.amax(dim=-1, keepdim=True) - SILENCE_DB * _NATS_PER_DB
    spread = F.max_pool1d(silent.float().reshape(-1, 1, silent.shape[-1]), 2 * EDGE_FRAMES + 1, 1, EDGE_FRAMES)
    return spread.reshape(silent.shape) == 0


def is_silent_waveform(samples: Tensor) -> Tensor:
    """Return whether waveforms ``(…, samples)`` in ±1 never leave ±1 LSB of 16 bits around a constant, bool ``(…)``."""
    return samples.amax(dim=-1) - samples.amin(dim=-1) <= LEAST_RANGE


def is_silent(features: Tensor, config: FeaturesConfig) -> Tensor:
    """Return whether no frame has a signal, bool ``(…)``, of log-mel features ``(…, frames, bins)``."""
    if config.kind == "fbank":
        least = LEAST_ENERGY
    else:  # twice the energy of zeros
        least = math.log(2 * config.num_mel_bins * POWER_OFFSET)
    return frame_energies(features).amax(dim=-1) < least


def compact(features: Tensor) -> Tuple[Tensor, Tensor]:
    """Move the frames with a signal to the front of each utterance, in their order.

    Returns:
        Features ``(batch, frames, bins)``, of which those behind the signal are to be ignored; the frames with a signal
        of each utterance, ``(batch,)``.
    """
    signal = signal_frames(features)
    order = _signal_first(signal)
    return features.gather(1, order.unsqueeze(2).expand_as(features)), signal.sum(dim=1)


def wrap_signal(features: Tensor) -> Tensor:
    """Replace silence by the signal, wrapped around, as short utterances are: crops ``(batch, frames, bins)``.

    Crops with less than a tenth of signal stay as they are.
    """
    signal = signal_frames(features)
    signal |= 10 * signal.sum(dim=1, keepdim=True) < signal.shape[1]
    position = torch.arange(features.shape[1], device=features.device)
    frames = _signal_first(signal).gather(1, position % signal.sum(dim=1, keepdim=True))
    return features.gather(1, frames.unsqueeze(2).expand_as(features))


def _signal_first(signal: Tensor) -> Tensor:
    """Return the positions of the frames with a signal, then of the others, each in order: ``(batch, frames)``."""
    frames = signal.shape[1]
    keys = torch.arange(frames, device=signal.device) + frames * (~signal).long()
    return keys.sort(dim=1).values % frames
