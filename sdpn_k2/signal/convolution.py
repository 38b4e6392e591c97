"""The front ends as a convolution, for export formats without a reliable FFT.

Every operation on a frame before its power spectrum is linear: mean removal, pre-emphasis, window, Fourier transform.
Together they are one matrix, computed here in double precision. Applying it to all frames is one convolution.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdpn_k2.pcm import INT16_SCALE
from sdpn_k2.signal.fbank import PREEMPHASIS, Fbank
from sdpn_k2.signal.front_end import FrontEnd
from sdpn_k2.signal.melspec import POWER_OFFSET


class ConvolvedFrontEnd(nn.Module):
    """The features of ``front_end``, to float32 precision: ``(batch, samples)`` → ``(batch, frames, bins)``."""

    kernels: Tensor
    banks: Tensor

    def __init__(self, front_end: FrontEnd):
        """Compute the convolution that equals ``front_end``."""
        super().__init__()
        window = front_end.window.double().numpy()
        frame = np.eye(len(window))
        self.reflection = 0
        if isinstance(front_end, Fbank):
            frame -= frame.mean(axis=0)
            previous = np.concatenate([frame[:1], frame[:-1]])
            frame = INT16_SCALE * (frame - PREEMPHASIS * previous)
        else:
            self.reflection = front_end.fft_size // 2
            frame *= front_end.scale
        self.is_fbank = isinstance(front_end, Fbank)
        self.shift = front_end.shift
        self.length = len(window)
        spectrum = np.fft.rfft(window[:, None] * frame, front_end.fft_size, axis=0)[: len(front_end.banks)]
        kernels = np.concatenate([spectrum.real, spectrum.imag])
        self.register_buffer("kernels", torch.from_numpy(kernels).float().unsqueeze(1))
        self.register_buffer("banks", front_end.banks.clone())

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Return the numbers of frames in ``num_samples`` ``(batch,)``; 0 where they are too few."""
        reach = 2 * self.reflection - self.length  # of the frames, beyond the samples
        frames = torch.div(num_samples + reach, self.shift, rounding_mode="floor") + 1
        return frames.masked_fill(num_samples <= self.reflection, 0).clamp(min=0)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return features ``(batch, frames, bins)``, not yet normalised, of waveforms ``(batch, samples)``."""
        x = waveforms.unsqueeze(1)
        if self.reflection:
            x = F.pad(x, (self.reflection, self.reflection), mode="reflect")
        real, imaginary = F.conv1d(x, self.kernels, stride=self.shift).chunk(2, dim=1)
        mel = (real.square() + imaginary.square()).transpose(1, 2) @ self.banks
        if self.is_fbank:
            return torch.log(mel.clamp_min(torch.finfo(torch.float32).eps))
        return torch.log(mel + POWER_OFFSET)
