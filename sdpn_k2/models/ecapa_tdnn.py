"""ECAPA-TDNN (Desplanques et al., Interspeech 2020), the encoder of SDPN.

Two shortcuts save time and give the same result. 1×1 convolutions are never padded. The attention's input
``[x; mean; std]`` is never concatenated, because ``W·[x; mean; std]`` is ``W_x·x`` plus one vector per utterance.

Inside, tensors are ``(batch, channels, frames)``. Utterances of a batch may differ in length; frames behind the end of
one are then ignored as if they were absent (evaluation mode only).
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdpn_k2.config import ModelConfig

VARIANCE_FLOOR = 1e-12


class Conv(nn.Conv1d):
    """Convolution over time that keeps the number of frames, by reflection at both ends."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, dilation: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, dilation=dilation)
        self.reflection = dilation * (kernel_size - 1) // 2

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """Map ``(batch, in_channels, frames)`` to ``(batch, out_channels, frames)``."""
        if self.reflection:
            x = _reflect(x, self.reflection) if lengths is None else _reflect_at(lengths, x, self.reflection)
        return super().forward(x)


def _reflect(x: Tensor, width: int) -> Tensor:
    """Pad the last dimension by ``width`` at both ends, by reflection."""
    if torch.are_deterministic_algorithms_enabled():
        # On GPUs, the gradient of the other form is added in any order.
        return torch.cat([x[..., 1 : width + 1].flip(-1), x, x[..., -width - 1 : -1].flip(-1)], dim=-1)
    return F.pad(x, (width, width), mode="reflect")


def _reflect_at(lengths: Tensor, x: Tensor, width: int) -> Tensor:
    """Pad as :func:`_reflect`, but reflect each utterance at its own end, ``lengths`` ``(batch,)``."""
    frames = x.shape[2]
    position = torch.arange(-width, frames + width, device=x.device).abs().unsqueeze(0)
    last = lengths.unsqueeze(1) - 1
    source = torch.where(position > last, 2 * last - position, position).clamp(min=0)
    return x.gather(2, source.unsqueeze(1).expand(-1, x.shape[1], -1))


def _inside(lengths: Optional[Tensor], x: Tensor) -> Optional[Tensor]:
    """Return which frames of ``x`` lie within their utterance, bool ``(batch, 1, frames)``; None for all."""
    if lengths is None:
        return None
    return (torch.arange(x.shape[2], device=x.device) < lengths.unsqueeze(1)).unsqueeze(1)


def _mean(x: Tensor, inside: Optional[Tensor]) -> Tensor:
    """Return the mean over time, ``(batch, channels)``, of the frames ``inside``."""
    if inside is None:
        return x.mean(dim=2)
    return (x * inside).sum(dim=2) / inside.sum(dim=2)


class TDNN(nn.Module):
    """Convolution → ReLU → batch normalisation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, dilation: int = 1):
        super().__init__()
        self.conv = Conv(in_channels, out_channels, kernel_size, dilation)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """Map ``(batch, in_channels, frames)`` to ``(batch, out_channels, frames)``."""
        return self.norm(F.relu(self.conv(x, lengths)))


class Res2Net(nn.Module):
    """Channels in ``scale`` groups: the first passes unchanged; a TDNN maps each next one plus the previous output."""

    def __init__(self, channels: int, scale: int, dilation: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            TDNN(channels // scale, channels // scale, kernel_size=3, dilation=dilation) for _ in range(scale - 1)
        )

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """Map ``(batch, channels, frames)`` to the same shape."""
        first, *pieces = x.chunk(len(self.blocks) + 1, dim=1)
        outputs = [first]
        previous = None
        for block, piece in zip(self.blocks, pieces):
            previous = block(piece if previous is None else piece + previous, lengths)
            outputs.append(previous)
        return torch.cat(outputs, dim=1)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from the means of all channels over time."""

    def __init__(self, channels: int, bottleneck: int):
        super().__init__()
        self.squeeze = nn.Linear(channels, bottleneck)
        self.excite = nn.Linear(bottleneck, channels)

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """Map ``(batch, channels, frames)`` to the same shape."""
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(_mean(x, _inside(lengths, x))))))
        return x * gate.unsqueeze(2)


class SERes2Block(nn.Module):
    """TDNN 1×1 → Res2Net → TDNN 1×1 → squeeze-excitation, with an identity shortcut."""

    def __init__(self, channels: int, scale: int, dilation: int, se_channels: int):
        super().__init__()
        self.tdnn1 = TDNN(channels, channels)
        self.res2net = Res2Net(channels, scale, dilation)
        self.tdnn2 = TDNN(channels, channels)
        self.se = SqueezeExcitation(channels, se_channels)

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """Map ``(batch, channels, frames)`` to the same shape."""
        return x + self.se(self.tdnn2(self.res2net(self.tdnn1(x), lengths)), lengths)


class AttentiveStatisticsPooling(nn.Module):
    """Mean and standard deviation over time, with attention weights per channel that see the global context.

    Variances are floored at 1e-12.
    """

    def __init__(self, channels: int, attention_channels: int):
        super().__init__()
        self.tdnn = TDNN(3 * channels, attention_channels)
        self.conv = Conv(attention_channels, channels)

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """Map ``(batch, channels, frames)`` to ``(batch, 2 * channels)``."""
        channels = x.shape[1]
        weight = self.tdnn.conv.weight
        inside = _inside(lengths, x)
        context = torch.cat(_mean_and_std(x, inside), dim=1)
        hidden = F.conv1d(x, weight[:, :channels], self.tdnn.conv.bias)
        hidden = hidden + F.linear(context, weight[:, channels:, 0]).unsqueeze(2)
        hidden = torch.tanh(self.tdnn.norm(F.relu(hidden)))
        logits = self.conv(hidden)
        attention = torch.softmax(logits if inside is None else logits.masked_fill(~inside, -torch.inf), dim=2)
        mean = (attention * x).sum(dim=2)
        variance = (attention * (x - mean.unsqueeze(2)).square()).sum(dim=2)
        return torch.cat([mean, variance.clamp_min(VARIANCE_FLOOR).sqrt()], dim=1)


def _mean_and_std(x: Tensor, inside: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
    mean = _mean(x, inside)
    variance = _mean((x - mean.unsqueeze(2)).square(), inside)  # six times as fast as torch.var_mean on CPUs
    return mean, variance.clamp_min(VARIANCE_FLOOR).sqrt()


class EcapaTdnn(nn.Module):
    """The encoder.

    It needs at least 5 frames, as reflection reaches 4 frames beyond each end.
    """

    MIN_FRAMES = 5

    def __init__(self, num_bins: int, config: ModelConfig):
        super().__init__()
        channels = config.channels
        self.conv0 = TDNN(num_bins, channels, kernel_size=5)
        self.blocks = nn.ModuleList(
            SERes2Block(channels, config.res2net_scale, dilation, config.se_channels) for dilation in (2, 3, 4)
        )
        self.mfa = TDNN(3 * channels, 3 * channels)
        self.pooling = AttentiveStatisticsPooling(3 * channels, config.attention_channels)
        self.norm = nn.BatchNorm1d(6 * channels)
        self.linear = nn.Linear(6 * channels, config.embedding_dim)

    def forward(self, fbank: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """Map normalised fbank ``(batch, frames, bins)`` to embeddings ``(batch, embedding_dim)``, float32.

        Args:
            fbank: the utterances.
            lengths: their frames ``(batch,)``, if they are shorter than the batch; each 5 or more.
        """
        x = self.conv0(fbank.transpose(1, 2), lengths)
        outputs = []
        for block in self.blocks:
            x = block(x, lengths)
            outputs.append(x)
        x = self.mfa(torch.cat(outputs, dim=1))
        return self.linear(self.norm(self.pooling(x, lengths))).float()
