"""Kaldi's log-mel filter bank on batches of waveforms, on any device; and instance normalisation."""

from typing import Callable, Optional

import torch
from torch import Tensor, nn

from sdpn_k2.config import FeaturesConfig
from sdpn_k2.kaldi.features.mel import mel_banks, window
from sdpn_k2.pcm import INT16_SCALE

PREEMPHASIS = 0.97
INSTANCE_NORM_EPS = 1e-5
# Frames per block. On CPUs a block fits into the cache; on GPUs it needs about 1 GB, however large the batch.
CPU_BLOCK_FRAMES, GPU_BLOCK_FRAMES = 2048, 1 << 17


class Fbank(nn.Module):
    """``compute-fbank-feats --dither=0`` with the povey window and ``--snip-edges=true``.

    Waveforms ``(batch, samples)`` float32 in ±1 → log-mel energies ``(batch, frames, bins)`` float32, where
    frames = 1 + (samples - frame length) // frame shift.
    """

    banks: Tensor
    window: Tensor

    def __init__(self, config: FeaturesConfig):
        """Prepare window and filters for the configuration."""
        super().__init__()
        self.length = round(config.sample_rate * config.frame_length_ms / 1000)
        self.shift = round(config.sample_rate * config.frame_shift_ms / 1000)
        self.fft_size = 1 << (self.length - 1).bit_length()
        banks = mel_banks(config.num_mel_bins, self.fft_size, config.sample_rate, config.low_freq, config.high_freq)
        # No mel filter reaches the Nyquist bin.
        self.register_buffer("banks", torch.from_numpy(banks[:, : self.fft_size // 2].T.copy()), persistent=False)
        self.register_buffer("window", torch.from_numpy(window("povey", self.length)), persistent=False)

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames in ``num_samples`` samples; 0 if they are fewer than a frame."""
        return max(0, 1 + (num_samples - self.length) // self.shift)

    @torch.no_grad()
    def forward(self, waveforms: Tensor) -> Tensor:
        """Return log-mel energies ``(batch, frames, bins)`` of waveforms ``(batch, samples)``."""
        with torch.autocast(waveforms.device.type, enabled=False):
            return in_blocks(self._log_mel, waveforms, self.num_frames(waveforms.shape[1]), self.banks.shape[1])

    def _log_mel(self, waveforms: Tensor) -> Tensor:
        frames = (waveforms.float() * INT16_SCALE).unfold(1, self.length, self.shift)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        # Pre-emphasis; as in Kaldi, the first sample is its own predecessor.
        emphasised = torch.empty_like(frames)
        torch.sub(frames[..., 1:], frames[..., :-1], alpha=PREEMPHASIS, out=emphasised[..., 1:])
        torch.mul(frames[..., :1], 1 - PREEMPHASIS, out=emphasised[..., :1])
        spectrum = torch.fft.rfft(emphasised.mul_(self.window), n=self.fft_size)[..., : self.fft_size // 2]
        parts = torch.view_as_real(spectrum)
        energies = parts.square_().sum(dim=-1) @ self.banks
        return energies.clamp_min_(torch.finfo(torch.float32).eps).log_()


def in_blocks(front_end: Callable[[Tensor], Tensor], waveforms: Tensor, num_frames: int, num_mel_bins: int) -> Tensor:
    """Return ``front_end`` of waveforms ``(batch, samples)``, float32 ``(batch, frames, bins)``, block by block."""
    output = waveforms.new_empty(len(waveforms), num_frames, num_mel_bins, dtype=torch.float32)
    rows = max(1, (GPU_BLOCK_FRAMES if waveforms.is_cuda else CPU_BLOCK_FRAMES) // max(1, num_frames))
    for start in range(0, len(waveforms), rows):
        output[start : start + rows] = front_end(waveforms[start : start + rows])
    return output


def instance_norm(fbank: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
    """Normalise each bin to zero mean and unit (biased) variance over time: ``(…, frames, bins)``, eps 1e-5.

    With ``lengths`` ``(batch,)``, only so many frames of each utterance count; the others become 0.
    """
    if lengths is None:
        centred = fbank - fbank.mean(dim=-2, keepdim=True)
        variance = centred.square().mean(dim=-2, keepdim=True)  # much faster than torch.var_mean on CPUs
    else:
        inside = (torch.arange(fbank.shape[1], device=fbank.device) < lengths.unsqueeze(1)).unsqueeze(2)
        count = lengths.reshape(-1, 1, 1)
        centred = (fbank - (fbank * inside).sum(dim=1, keepdim=True) / count) * inside
        variance = centred.square().sum(dim=1, keepdim=True) / count
    return centred * torch.rsqrt(variance + INSTANCE_NORM_EPS)
