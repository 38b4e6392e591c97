"""Digital silence: frames without a signal, which never reach normalisation and encoder.

Gates of noise suppressors, muted microphones, codecs that pause in silence (DTX) and editors leave zeros between words.
Their log energy is -16 where speech has 10 to 20, so that instance normalisation would spend itself on them.

Runs of zeros are cut out of waveforms, and so is the noise of one bit that dither leaves instead. The frames of speech
then lie as in a recording without them. Where features are given, frames are left out that are 80 dB or more below the
loudest one, and the frames beside them, since the edge of a gate lies in them. Natural pauses are not that far down.
Neither rule depends on the level of a recording in floating point.
"""

import math
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sdpn_k2.pcm import INT16_SCALE

SILENCE_DB = 80.0  # below the loudest frame
EDGE_FRAMES = 1  # left out on each side of silence
LEAST_ENERGY = 0.0  # of Kaldi's fbank: zeros have -11.6 in 80 bins, noise of one bit of 16 has 11
_NATS_PER_DB = math.log(10) / 10


def frame_energies(features: Tensor) -> Tensor:
    """Return the log energy of each frame of log-mel features ``(…, frames, bins)``, float32 ``(…, frames)``."""
    return torch.logsumexp(features.float(), dim=-1)


def signal_frames(features: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
    """Return which frames have a signal, bool ``(…, frames)``, of log-mel features ``(…, frames, bins)``.

    The frames of an utterance that is silent throughout are alike, and all of them count as signal here. With
    ``lengths`` ``(batch,)``, frames behind the end of an utterance do not.
    """
    energies = frame_energies(features)
    if lengths is not None:
        inside = torch.arange(features.shape[1], device=features.device) < lengths.unsqueeze(1)
        energies = energies.masked_fill(~inside, -torch.inf)
    silent = energies < energies.amax(dim=-1, keepdim=True) - SILENCE_DB * _NATS_PER_DB
    if lengths is not None:
        silent &= inside
    spread = F.pad(silent.float(), (EDGE_FRAMES, EDGE_FRAMES))
    shifts = range(2 * EDGE_FRAMES + 1)
    signal = torch.stack([spread[..., shift : shift + silent.shape[-1]] for shift in shifts]).sum(dim=0) == 0
    return signal if lengths is None else signal & inside


def silent_samples(waveforms: Tensor) -> Tensor:
    """Return which samples of waveforms in ±1 are -1, 0 or 1 at the scale of 16 bits, bool of the same shape."""
    scaled = waveforms * INT16_SCALE
    return (scaled.abs() <= 1) & (scaled == scaled.round())


def silent_runs(waveforms: Tensor, least: int) -> Tensor:
    """Return which samples lie in a run of ``least`` silent ones or more, bool ``(batch, samples)``."""
    num_samples = waveforms.shape[1]
    if num_samples < least:
        return torch.zeros_like(waveforms, dtype=torch.bool)
    others = F.pad((~silent_samples(waveforms)).long().cumsum(dim=1), (1, 0))  # before each sample
    silent = others[:, least:] == others[:, : num_samples + 1 - least]  # windows, by their first sample
    # A sample lies in a run if any of the ``least`` windows that hold it is silent.
    windows = F.pad(silent.long().cumsum(dim=1), (least, 0))
    started = torch.cat([windows[:, least:], windows[:, -1:].expand(-1, least - 1)], dim=1)
    return started > windows[:, :num_samples]


def cut_silence(waveforms: Tensor, least: int) -> Tuple[Tensor, Tensor]:
    """Cut runs of ``least`` silent samples or more out of waveforms ``(batch, samples)``.

    Returns:
        Waveforms ``(batch, samples)``, which behind their end are reflected; the samples left of each, ``(batch,)``.
    """
    kept = ~silent_runs(waveforms, least)
    lengths = kept.sum(dim=1)
    position = torch.arange(waveforms.shape[1], device=waveforms.device)
    last = lengths.unsqueeze(1) - 1
    position = torch.where(position > last, 2 * last - position, position).clamp(min=0)
    return waveforms.gather(1, _kept_first(kept).gather(1, position)), lengths


def is_silent(fbank: Tensor) -> Tensor:
    """Return whether no frame of Kaldi's fbank ``(…, frames, bins)`` has a signal, bool ``(…)``."""
    return frame_energies(fbank).amax(dim=-1) < LEAST_ENERGY


def compact(features: Tensor, lengths: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
    """Move the frames with a signal to the front of each utterance ``(batch, frames, bins)``, in their order.

    Args:
        features: log-mel features.
        lengths: the frames of each utterance ``(batch,)``, if not all.

    Returns:
        Features ``(batch, frames, bins)``, of which those behind the signal are to be ignored; the frames with a signal
        of each utterance, ``(batch,)``.
    """
    signal = signal_frames(features, lengths)
    order = _kept_first(signal)
    return features.gather(1, order.unsqueeze(2).expand_as(features)), signal.sum(dim=1)


def wrap_signal(features: Tensor) -> Tensor:
    """Replace silence by the signal, wrapped around, as short utterances are: crops ``(batch, frames, bins)``.

    Crops with less than a tenth of signal stay as they are.
    """
    signal = signal_frames(features)
    signal |= 10 * signal.sum(dim=1, keepdim=True) < signal.shape[1]
    position = torch.arange(features.shape[1], device=features.device)
    frames = _kept_first(signal).gather(1, position % signal.sum(dim=1, keepdim=True))
    return features.gather(1, frames.unsqueeze(2).expand_as(features))


def _kept_first(kept: Tensor) -> Tensor:
    """Return the positions of what is kept, then of the rest, each in order: int64 ``(batch, positions)``."""
    count = kept.shape[1]
    keys = torch.arange(count, device=kept.device) + count * (~kept).long()
    return keys.argsort(dim=1)
