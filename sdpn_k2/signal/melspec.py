"""3D-Speaker's log-mel spectrogram on batches of waveforms, on any device: the front end of its released weights.

It differs from Kaldi's fbank in that

- frames are centred on every ``frame_shift``, and the waveform is reflected at both ends;
- there is no pre-emphasis and no mean removal;
- the window is a periodic Hann;
- the triangles are linear in Hz (HTK's mel scale);
- 1e-6 is added to the power before the logarithm.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdpn_k2.config import FeaturesConfig
from sdpn_k2.signal.fbank import in_blocks

POWER_OFFSET = 1e-6


class MelSpectrogram(nn.Module):
    """Waveforms ``(batch, samples)`` float32 in ±1 → log-mel powers ``(batch, frames, bins)`` float32.

    frames = 1 + samples // frame shift. The published settings are an FFT of 512, a window of 400 and a shift of 160
    samples.
    """

    banks: Tensor
    window: Tensor

    def __init__(self, config: FeaturesConfig):
        """Prepare window and filters for the configuration."""
        super().__init__()
        length = round(config.sample_rate * config.frame_length_ms / 1000)
        self.shift = round(config.sample_rate * config.frame_shift_ms / 1000)
        self.fft_size = 1 << (length - 1).bit_length()
        self.scale = config.scale
        nyquist = config.sample_rate / 2
        high = config.high_freq if config.high_freq > 0 else nyquist + config.high_freq
        banks = htk_mel_banks(config.num_mel_bins, self.fft_size, config.sample_rate, config.low_freq, high)
        left = (self.fft_size - length) // 2
        window = F.pad(torch.hann_window(length), (left, self.fft_size - length - left))
        self.register_buffer("banks", banks, persistent=False)
        self.register_buffer("window", window, persistent=False)

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames in ``num_samples`` samples; 0 if they are too few to be reflected."""
        return 1 + num_samples // self.shift if num_samples > self.fft_size // 2 else 0

    @torch.no_grad()
    def forward(self, waveforms: Tensor) -> Tensor:
        """Return log-mel powers ``(batch, frames, bins)`` of waveforms ``(batch, samples)``."""
        with torch.autocast(waveforms.device.type, enabled=False):
            return in_blocks(self._log_mel, waveforms, self.num_frames(waveforms.shape[1]), self.banks.shape[1])

    def _log_mel(self, waveforms: Tensor) -> Tensor:
        return self.mel_powers(waveforms.float()).add_(POWER_OFFSET).log_()

    def mel_powers(self, waveforms: Tensor) -> Tensor:
        """Return mel powers ``(batch, frames, bins)``, before offset and logarithm."""
        reflection = self.fft_size // 2
        padded = F.pad(waveforms * self.scale, (reflection, reflection), mode="reflect")
        frames = padded.unfold(1, self.fft_size, self.shift) * self.window
        parts = torch.view_as_real(torch.fft.rfft(frames))
        return parts.square_().sum(dim=-1) @ self.banks


def htk_mel_banks(num_bins: int, fft_size: int, sample_rate: int, low_freq: float, high_freq: float) -> Tensor:
    """Return triangular filters of height one, float32 (fft_size // 2 + 1, num_bins).

    They are linear in Hz, with corners equidistant in HTK's mel = 2595 log10(1 + f / 700). All steps are float32 in the
    order of torchaudio's ``melscale_fbanks``, since released weights were trained on those numbers.
    """
    frequencies = torch.linspace(0, sample_rate // 2, fft_size // 2 + 1)
    low, high = (2595.0 * math.log10(1.0 + f / 700.0) for f in (low_freq, high_freq))
    corners = 700.0 * (10.0 ** (torch.linspace(low, high, num_bins + 2) / 2595.0) - 1.0)
    widths = corners[1:] - corners[:-1]
    distances = corners.unsqueeze(0) - frequencies.unsqueeze(1)
    rising = -distances[:, :-2] / widths[:-1]
    falling = distances[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp_min(0.0)
