"""Augmentation of local crops: noise, babble, music, reverberation, and masks, in batches on any device.

What happens to which crop is drawn on the host (:meth:`Augment.draw`), from a generator seeded per step: that takes microseconds,
gives the same augmentation on every device, and leaves nothing to wait for, since the host knows how many crops get
what. Everything that touches samples is batched and on the device.

Crops are waveforms, or, for disks that hold only features, log-mel energies: noise is then mixed as energies, and there is
no reverberation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from sdpn_k2.config import AugmentConfig
from sdpn_k2.errors import InputError

# Crops whose noise or reverberation is computed at once: temporary memory follows them, not the batch.
BLOCK_CROPS = 1024


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy that nothing waits for: to GPUs from pinned memory."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class NoiseBank(nn.Module):
    """Recordings on the device as one long tensor; pieces are gathered from it, wrapped around at the end."""

    def __init__(self, recordings: Sequence[np.ndarray]):
        """``recordings``: int16 waveforms ``(samples,)``, or float32 fbank ``(frames, bins)``; none empty.

        Raises:
            InputError: no recordings.
        """
        super().__init__()
        if not recordings:
            raise InputError("a noise bank needs at least one recording")
        self.lengths = np.array([len(recording) for recording in recordings])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.register_buffer("recordings", torch.from_numpy(np.concatenate(recordings)), persistent=False)

    def draw(self, shape, rng: np.random.Generator) -> np.ndarray:
        """Random pieces, int64 ``(*shape, 3)``: where a recording starts, the piece's offset in it, its length."""
        index = rng.integers(len(self.lengths), size=shape)
        lengths = self.lengths[index]
        return np.stack([self.starts[index], rng.integers(lengths), lengths], axis=-1)

    def forward(self, pieces: Tensor, length: int) -> Tensor:
        """Drawn pieces ``(count, 3)`` → ``(count, length)`` in ±1, or energies ``(count, length, bins)``; float32."""
        base, offset, available = pieces.unsqueeze(2).unbind(1)
        time = torch.arange(length, device=pieces.device)
        values = self.recordings[base + (offset + time) % available]
        return values.exp() if values.is_floating_point() else values.float() / 32768


class RirBank(nn.Module):
    """Impulse responses, each aligned on its direct path and of unit energy."""

    def __init__(self, responses: Sequence[np.ndarray], num_taps: int):
        """``responses``: float arrays ``(taps,)``; what lies ``num_taps`` past the direct path is cut.

        Raises:
            InputError: no responses, or a silent one.
        """
        super().__init__()
        if not responses:
            raise InputError("a bank of impulse responses needs at least one")
        self.count = len(responses)
        aligned = np.zeros((self.count, num_taps), np.float32)
        for row, response in zip(aligned, responses):
            taps = align_direct_path(response)[:num_taps]
            row[: len(taps)] = taps
        used = np.flatnonzero(np.abs(aligned).max(axis=0))[-1] + 1
        self.register_buffer("taps", torch.from_numpy(aligned[:, :used].copy()), persistent=False)

    def forward(self, waveforms: Tensor, index: np.ndarray) -> Tensor:
        """Waveforms ``(count, samples)`` convolved with the responses ``index`` ``(count,)``, same length."""
        if len(index) > BLOCK_CROPS:
            starts = range(0, len(index), BLOCK_CROPS)
            return torch.cat(
                [self(waveforms[first : first + BLOCK_CROPS], index[first : first + BLOCK_CROPS]) for first in starts]
            )
        num_samples = waveforms.shape[1]
        fft_size = _fast_fft_size(num_samples + self.taps.shape[1] - 1)
        distinct, which = np.unique(index, return_inverse=True)
        distinct, which = (to_device(x, waveforms.device) for x in (distinct, which))
        responses = torch.fft.rfft(self.taps[distinct], n=fft_size)
        spectrum = torch.fft.rfft(waveforms, n=fft_size).mul_(responses[which])
        return torch.fft.irfft(spectrum, n=fft_size)[:, :num_samples]


def align_direct_path(response: np.ndarray) -> np.ndarray:
    """An impulse response from its largest tap on, with unit energy, float32.

    Raises:
        InputError: it is silent.
    """
    response = np.asarray(response, np.float64)
    energy = float(np.sum(response[np.argmax(np.abs(response)) :] ** 2)) if response.size else 0.0
    if not energy > 0:
        raise InputError("a silent impulse response")
    return (response[np.argmax(np.abs(response)) :] / np.sqrt(energy)).astype(np.float32)


def _fast_fft_size(minimum: int) -> int:
    """The smallest 2^a, 3·2^a or 5·2^a that is not smaller."""
    return min(factor << max(0, (-(-minimum // factor) - 1).bit_length()) for factor in (1, 3, 5))


@dataclass(frozen=True)
class Mixture:
    """One kind of noise for some of the crops."""

    rows: np.ndarray  # (count,) which crops
    snr: np.ndarray  # (count,) dB
    pieces: Optional[np.ndarray] = None  # (count, 3) or (count, voices, 3), from a bank
    crops: Optional[np.ndarray] = None  # (count, voices) indices of other crops, where babble comes from the batch
    voices: Optional[np.ndarray] = None  # (count, voices) 1 where a voice takes part, else 0

    def blocks(self) -> Iterator[Mixture]:
        """The same for at most :data:`BLOCK_CROPS` crops at a time."""
        arrays = (self.rows, self.snr, self.pieces, self.crops, self.voices)
        for first in range(0, len(self.rows), BLOCK_CROPS):
            yield Mixture(*(None if array is None else array[first : first + BLOCK_CROPS] for array in arrays))


@dataclass(frozen=True)
class Plan:
    """Everything random in one step's augmentation. Crops count view by view: crop = view · utterances + utterance."""

    speed: Sequence[Tuple[float, np.ndarray]]  # (factor, its utterances); utterances of speed 1 are in none
    reverb_rows: np.ndarray  # (count,)
    reverb_index: np.ndarray  # (count,) impulse response of each
    mixtures: Sequence[tuple]  # (bank name, Mixture)
    time_mask: np.ndarray  # (crops, 2) first frame as a fraction of what is free, width in frames
    freq_mask: np.ndarray  # (crops, 2) likewise, bins


class Augment(nn.Module):
    """Augmentation and masks, as the configuration says, with whatever banks there are.

    Without impulse responses, crops that would get reverberation get noise; without noise recordings, the only
    noise is babble from the batch's other utterances; with fewer than 4 utterances and no recordings, none.
    """

    def __init__(self, config: AugmentConfig, banks: nn.ModuleDict, rirs: Optional[RirBank] = None):
        """``banks``: :class:`NoiseBank` under any of the names noise, speech, music."""
        super().__init__()
        self.config = config
        self.banks = banks
        self.rirs = rirs

    def draw(self, views: int, utterances: int, rng: np.random.Generator) -> Plan:
        """Draw what happens to each of ``views · utterances`` crops."""
        config, count = self.config, views * utterances
        kinds = [kind for kind in ("noise", "music") if kind in self.banks]
        if "speech" in self.banks or utterances > config.babble_speakers[0]:
            kinds.append("babble")

        amount = rng.random(count)
        single = (amount >= config.clean_prob) & (amount < config.clean_prob + config.single_prob)
        both = amount >= config.clean_prob + config.single_prob
        prefers_reverb = rng.random(count) < config.single_reverb_prob
        reverb, noise = both | (single & prefers_reverb), both | (single & ~prefers_reverb)
        if self.rirs is None:
            reverb, noise = np.zeros(count, bool), reverb | noise
        elif not kinds:
            reverb, noise = reverb | noise, np.zeros(count, bool)

        kind = rng.integers(max(1, len(kinds)), size=count)
        mixtures = []
        for position, name in enumerate(kinds):
            rows = np.flatnonzero(noise & (kind == position))
            if len(rows):
                mixtures.append((name, self._draw_mixture(name, rows, utterances, count, rng)))
        reverb_rows = np.flatnonzero(reverb)
        speed = rng.integers(max(1, len(config.speed_factors)), size=utterances)
        masked = np.tile(rng.random(utterances) < config.mask_prob, views)
        time_mask, freq_mask = (
            np.stack([rng.random(count), masked * rng.integers(widest + 1, size=count)], axis=1)
            for widest in (config.time_mask_frames, config.freq_mask_bins)
        )
        return Plan(
            speed=[
                (factor, np.flatnonzero(speed == index))
                for index, factor in enumerate(config.speed_factors)
                if factor != 1 and (speed == index).any()
            ],
            reverb_rows=reverb_rows,
            reverb_index=rng.integers(self.rirs.count if self.rirs is not None else 1, size=len(reverb_rows)),
            mixtures=mixtures,
            time_mask=time_mask,
            freq_mask=freq_mask,
        )

    def _draw_mixture(
        self, kind: str, rows: np.ndarray, utterances: int, num_crops: int, rng: np.random.Generator
    ) -> Mixture:
        low, high = getattr(self.config, f"{kind}_snr")
        snr = rng.uniform(low, high, size=len(rows))
        if kind != "babble":
            return Mixture(rows, snr, pieces=self.banks[kind].draw(len(rows), rng))
        fewest, most = self.config.babble_speakers
        if "speech" not in self.banks:
            most = min(most, utterances - 1)
        speakers = rng.integers(fewest, most + 1, size=len(rows))
        voices = (np.arange(most) < speakers[:, None]).astype(np.float32)
        if "speech" in self.banks:
            return Mixture(rows, snr, pieces=self.banks["speech"].draw((len(rows), most), rng), voices=voices)
        # Different other utterances, in random order: sort random keys, the crop's own utterance last.
        keys = rng.random((len(rows), utterances))
        keys[np.arange(len(rows)), rows % utterances] = 2.0
        others = np.argsort(keys, axis=1)[:, :most]
        views = rng.integers(num_crops // utterances, size=others.shape)
        return Mixture(rows, snr, crops=views * utterances + others, voices=voices)

    @torch.no_grad()
    def change_speed(self, waveforms: Tensor, plan: Plan) -> Tensor:
        """Waveforms ``(…, utterances, samples)`` with some utterances at another speed (and pitch); in place."""
        for factor, utterances in plan.speed:
            rows = to_device(utterances, waveforms.device)
            waveforms[..., rows, :] = perturb_speed(waveforms[..., rows, :], factor)
        return waveforms

    @torch.no_grad()
    def forward(self, crops: Tensor, plan: Plan) -> Tensor:
        """Local crops → augmented, a new tensor: float32 ``(crops, samples)`` in ±1, or fbank ``(crops, frames, bins)``."""
        if crops.ndim == 2:
            return self._mix(crops, plan)
        return self._mix(crops.exp(), plan).clamp_min_(torch.finfo(torch.float32).eps).log_()

    def _mix(self, crops: Tensor, plan: Plan) -> Tensor:
        """The same on what adds up when sounds do: waveforms, or energies."""
        device = crops.device
        output = crops.clone()
        if len(plan.reverb_rows):
            rows = to_device(plan.reverb_rows, device)
            output[rows] = self.rirs(crops[rows], plan.reverb_index)
        for kind, whole in plan.mixtures:
            for mixture in whole.blocks():
                rows = to_device(mixture.rows, device)
                snr = to_device(mixture.snr.astype(np.float32), device)
                output[rows] = add_noise(output[rows], self._noise(kind, mixture, crops), snr)
        return output

    def _noise(self, kind: str, mixture: Mixture, crops: Tensor) -> Tensor:
        """What ``mixture`` adds to its crops, before it is scaled."""
        device, length = crops.device, crops.shape[1]
        if kind != "babble":
            return self.banks[kind](to_device(mixture.pieces, device), length)
        voices, noise = to_device(mixture.voices, device), 0
        for voice in range(voices.shape[1]):
            if mixture.crops is None:
                speech = self.banks["speech"](to_device(mixture.pieces[:, voice], device), length)
            else:
                speech = crops[to_device(mixture.crops[:, voice], device)]
            noise = noise + speech * voices[:, voice].reshape(-1, *[1] * (crops.ndim - 1))
        return noise

    @torch.no_grad()
    def mask(self, fbank: Tensor, plan: Plan) -> Tensor:
        """Time and frequency masks with 0, the mean of normalised fbank ``(crops, frames, bins)``; in place."""
        for dim, mask in ((1, plan.time_mask), (2, plan.freq_mask)):
            size = fbank.shape[dim]
            width = np.minimum(mask[:, 1], size).astype(np.int64)
            first = np.floor(mask[:, 0] * (size - width + 1)).astype(np.int64)
            span = to_device(np.stack([first, first + width], axis=1), fbank.device)
            position = torch.arange(size, device=fbank.device)
            inside = (position >= span[:, :1]) & (position < span[:, 1:])
            fbank.masked_fill_(inside.unsqueeze(2) if dim == 1 else inside.unsqueeze(1), 0.0)
        return fbank


def add_noise(speech: Tensor, noise: Tensor, snr: Tensor) -> Tensor:
    """``speech + gain · noise`` at ``snr`` dB of mean power over the crop.

    Waveforms ``(count, samples)``, whose power is their square, or energies ``(count, frames, bins)``, which are power.
    Where the speech or the noise is silent, nothing is added.
    """
    waveforms = speech.ndim == 2
    speech_power, noise_power = (x.square().mean(dim=1) if waveforms else x.mean(dim=(1, 2)) for x in (speech, noise))
    gain = speech_power / (noise_power * 10 ** (snr / 10))
    gain = gain.sqrt() if waveforms else gain
    gain = torch.where((noise_power > 0) & torch.isfinite(gain), gain, torch.zeros_like(gain))
    return torch.addcmul(speech, noise, gain.reshape(-1, *[1] * (speech.ndim - 1)))


def perturb_speed(waveforms: Tensor, factor: float) -> Tensor:
    """Waveforms ``(…, samples)`` played ``factor`` times as fast, band-limited, cut or wrapped to the same length."""
    num_samples = waveforms.shape[-1]
    resampled = round(num_samples / factor)
    spectrum = torch.fft.rfft(waveforms)
    changed = torch.fft.irfft(spectrum[..., : resampled // 2 + 1], n=resampled) * (resampled / num_samples)
    return changed[..., torch.arange(num_samples, device=waveforms.device) % resampled]
