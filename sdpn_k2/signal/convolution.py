"""The front ends as a convolution, for formats that know no FFT or only a doubtful one.

All that happens to a frame before its power spectrum is linear: removal of the mean, pre-emphasis, window, Fourier
transform. So it is one matrix, computed here in double precision, and framing with it one convolution of the waveform.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdpn_k2.signal.fbank import KALDI_SCALE, PREEMPHASIS, Fbank
from sdpn_k2.signal.front_end import FrontEnd
from sdpn_k2.signal.melspec import POWER_OFFSET


class ConvolvedFrontEnd(nn.Module):
    """What ``front_end`` computes, to float32's precision: ``(batch, samples)`` → ``(batch, frames, bins)``."""

    def __init__(self, front_end: FrontEnd):
        super().__init__()
        window = front_end.window.double().numpy()
        frame = np.eye(len(window))
        self.reflection = 0
        if isinstance(front_end, Fbank):
            frame -= frame.mean(axis=0)
            previous = np.concatenate([frame[:1], frame[:-1]])
            frame = KALDI_SCALE * (frame - PREEMPHASIS * previous)
        else:
            self.reflection = front_end.fft_size // 2
            frame *= front_end.scale
        self.is_fbank = isinstance(front_end, Fbank)
        self.shift = front_end.shift
        spectrum = np.fft.rfft(window[:, None] * frame, front_end.fft_size, axis=0)[: len(front_end.banks)]
        kernels = np.concatenate([spectrum.real, spectrum.imag])
        self.register_buffer("kernels", torch.from_numpy(kernels).float().unsqueeze(1))
        self.register_buffer("banks", front_end.banks.clone())

    def forward(self, waveforms: Tensor) -> Tensor:
        x = waveforms.unsqueeze(1)
        if self.reflection:
            x = F.pad(x, (self.reflection, self.reflection), mode="reflect")
        real, imaginary = F.conv1d(x, self.kernels, stride=self.shift).chunk(2, dim=1)
        mel = (real.square() + imaginary.square()).transpose(1, 2) @ self.banks
        if self.is_fbank:
            return torch.log(mel.clamp_min(torch.finfo(torch.float32).eps))
        return torch.log(mel + POWER_OFFSET)
