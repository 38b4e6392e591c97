"""Augment local crops with noise, babble, music, reverberation, telephones, gates and masks, in batches on any device.

The host draws the augmentation of each crop (:meth:`Augment.draw`) from a generator seeded per step. This takes
microseconds and gives the same augmentation on every device. The device never waits, since the host knows the number of
crops for each effect. Everything that touches samples is batched on the device.

Crops are waveforms or, for corpora with stored features only, log-mel energies. Noise is then mixed as energies, and
there is neither reverberation nor a telephone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Optional, Sequence, Tuple, Union, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdpn_k2.config import AugmentConfig
from sdpn_k2.errors import InputError
from sdpn_k2.pcm import INT16_SCALE
from sdpn_k2.signal.telephone import telephone

# Crops whose noise or reverberation is computed at once: this bounds temporary memory, whatever the batch.
BLOCK_CROPS = 1024
# What a gate opens and closes as a whole: 20 ms at 16 kHz.
GATE_BLOCK_SAMPLES, GATE_BLOCK_FRAMES = 320, 2


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to the device; for a GPU asynchronously, from pinned memory."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class NoiseBank(nn.Module):
    """Recordings on the device as one long tensor; pieces gathered from it wrap around at a recording's end."""

    recordings: Tensor

    def __init__(self, recordings: List[np.ndarray]):
        """Concatenate the recordings.

        Args:
            recordings: int16 waveforms ``(samples,)``, or float32 fbank ``(frames, bins)``; none is empty. The list is
                emptied, so that they are in memory once.

        Raises:
            InputError: no recordings.
        """
        super().__init__()
        if not recordings:
            raise InputError("a noise bank needs at least one recording")
        self.lengths = np.array([len(recording) for recording in recordings])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        joined = np.empty((self.lengths.sum(), *recordings[0].shape[1:]), recordings[0].dtype)
        for start in self.starts[::-1]:
            recording = recordings.pop()
            joined[start : start + len(recording)] = recording
        self.register_buffer("recordings", torch.from_numpy(joined), persistent=False)

    def draw(self, shape: Union[int, Tuple[int, ...]], rng: np.random.Generator) -> np.ndarray:
        """Draw random pieces, int64 ``(*shape, 3)``: start of a recording, offset of the piece in it, its length."""
        index = rng.integers(len(self.lengths), size=shape)
        lengths = self.lengths[index]
        return np.stack([self.starts[index], rng.integers(lengths), lengths], axis=-1)

    def forward(self, pieces: Tensor, length: int) -> Tensor:
        """Return drawn pieces ``(count, 3)`` as ``(count, length)`` in ±1 or energies ``(count, length, bins)``."""
        base, offset, available = pieces.unsqueeze(2).unbind(1)
        time = torch.arange(length, device=pieces.device)
        values = self.recordings[base + (offset + time) % available]
        return values.exp() if values.is_floating_point() else values.float() / INT16_SCALE


class RirBank(nn.Module):
    """Impulse responses, each aligned to its direct path and normalised to unit energy."""

    taps: Tensor

    def __init__(self, responses: Sequence[np.ndarray], num_taps: int):
        """Align and normalise the responses.

        Args:
            responses: float arrays ``(taps,)``.
            num_taps: number of taps to keep, from the direct path on.

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
        """Convolve waveforms ``(count, samples)`` with the responses ``index`` ``(count,)``; keep their length."""
        if len(index) > BLOCK_CROPS:
            starts = range(0, len(index), BLOCK_CROPS)
            return torch.cat(
                [self(waveforms[first : first + BLOCK_CROPS], index[first : first + BLOCK_CROPS]) for first in starts]
            )
        num_samples = waveforms.shape[1]
        fft_size = _fast_fft_size(num_samples + self.taps.shape[1] - 1)
        distinct, which = (to_device(x, waveforms.device) for x in np.unique(index, return_inverse=True))
        responses = torch.fft.rfft(self.taps[distinct], n=fft_size)
        spectrum = torch.fft.rfft(waveforms, n=fft_size).mul_(responses[which])
        return torch.fft.irfft(spectrum, n=fft_size)[:, :num_samples]


def align_direct_path(response: np.ndarray) -> np.ndarray:
    """Cut an impulse response before its largest tap and scale it to unit energy, float32.

    Raises:
        InputError: the response is silent.
    """
    response = np.asarray(response, np.float64)
    energy = float(np.sum(response[np.argmax(np.abs(response)) :] ** 2)) if response.size else 0.0
    if not energy > 0:
        raise InputError("the impulse response is silent")
    return (response[np.argmax(np.abs(response)) :] / np.sqrt(energy)).astype(np.float32)


def _fast_fft_size(minimum: int) -> int:
    """Return the smallest 2^a, 3·2^a or 5·2^a that is at least ``minimum``."""
    return min(factor << max(0, (-(-minimum // factor) - 1).bit_length()) for factor in (1, 3, 5))


@dataclass(frozen=True)
class Mixture:
    """One kind of noise for some of the crops."""

    rows: np.ndarray  # (count,) the crops
    snr: np.ndarray  # (count,) dB
    pieces: Optional[np.ndarray] = None  # (count, 3) or (count, voices, 3), from a bank
    crops: Optional[np.ndarray] = None  # (count, voices) indices of other crops, for babble from the batch
    voices: Optional[np.ndarray] = None  # (count, voices) 1 for each voice that is mixed, else 0

    def blocks(self) -> Iterator[Mixture]:
        """Yield the mixture in parts of at most :data:`BLOCK_CROPS` crops."""
        sources = (self.pieces, self.crops, self.voices)
        for first in range(0, len(self.rows), BLOCK_CROPS):
            block = slice(first, first + BLOCK_CROPS)
            yield Mixture(
                self.rows[block], self.snr[block], *(None if array is None else array[block] for array in sources)
            )


@dataclass(frozen=True)
class Plan:
    """All random choices of one step's augmentation.

    Crops are numbered view by view: crop = view · utterances + utterance.
    """

    speed: Sequence[Tuple[float, np.ndarray]]  # (factor, its utterances); utterances at speed 1 are not listed
    reverb_rows: np.ndarray  # (count,)
    reverb_index: np.ndarray  # (count,) impulse response of each
    mixtures: Sequence[Tuple[str, Mixture]]  # with the bank's name
    telephone_rows: np.ndarray  # (count,)
    telephone_a_law: np.ndarray  # (count,) whether the codec is A-law, not μ-law
    gate_rows: np.ndarray  # (count,) the crops that are gated
    gate_share: np.ndarray  # (count,) quietest part of each that is muted
    time_mask: np.ndarray  # (crops, 2) first frame as a fraction of the possible ones, width in frames
    freq_mask: np.ndarray  # (crops, 2) likewise, bins


class Augment(nn.Module):
    """Augmentation and masks of a configuration, with whatever banks are available.

    Without impulse responses, noise replaces reverberation. Without noise recordings, the only noise is babble from
    other utterances of the batch; with fewer than 4 utterances there is none.
    """

    def __init__(
        self, config: AugmentConfig, banks: nn.ModuleDict, rirs: Optional[RirBank] = None, sample_rate: int = 16000
    ):
        """Combine the banks.

        Args:
            config: probabilities and ranges.
            banks: :class:`NoiseBank` by kind: any of noise, speech, music.
            rirs: impulse responses.
            sample_rate: of waveforms, in Hz.
        """
        super().__init__()
        self.config = config
        self.sample_rate = sample_rate
        self.banks = banks
        self.rirs = rirs

    def bank(self, kind: str) -> NoiseBank:
        """Return the noise bank of a kind."""
        return cast(NoiseBank, self.banks[kind])

    def draw(self, views: int, utterances: int, rng: np.random.Generator) -> Plan:
        """Draw the augmentation of each of ``views · utterances`` crops."""
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
        mixtures: List[Tuple[str, Mixture]] = []
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
        reverb_index = rng.integers(self.rirs.count if self.rirs is not None else 1, size=len(reverb_rows))
        telephone_rows = np.flatnonzero(rng.random(count) < config.telephone_prob)
        telephone_a_law = rng.random(len(telephone_rows)) < 0.5
        gate_rows = np.flatnonzero(rng.random(count) < config.gate_prob)
        return Plan(
            speed=[
                (factor, np.flatnonzero(speed == index))
                for index, factor in enumerate(config.speed_factors)
                if factor != 1 and (speed == index).any()
            ],
            reverb_rows=reverb_rows,
            reverb_index=reverb_index,
            mixtures=mixtures,
            telephone_rows=telephone_rows,
            telephone_a_law=telephone_a_law,
            gate_rows=gate_rows,
            gate_share=rng.uniform(*config.gate_share, size=len(gate_rows)),
            time_mask=time_mask,
            freq_mask=freq_mask,
        )

    def _draw_mixture(
        self, kind: str, rows: np.ndarray, utterances: int, num_crops: int, rng: np.random.Generator
    ) -> Mixture:
        low, high = getattr(self.config, f"{kind}_snr")
        snr = rng.uniform(low, high, size=len(rows))
        if kind != "babble":
            return Mixture(rows, snr, pieces=self.bank(kind).draw(len(rows), rng))
        fewest, most = self.config.babble_speakers
        if "speech" not in self.banks:
            most = min(most, utterances - 1)
        speakers = rng.integers(fewest, most + 1, size=len(rows))
        voices = (np.arange(most) < speakers[:, None]).astype(np.float32)
        if "speech" in self.banks:
            return Mixture(rows, snr, pieces=self.bank("speech").draw((len(rows), most), rng), voices=voices)
        # Distinct other utterances in random order: sort random keys, with the crop's own utterance last.
        keys = rng.random((len(rows), utterances))
        keys[np.arange(len(rows)), rows % utterances] = 2.0
        others = np.argsort(keys, axis=1)[:, :most]
        views = rng.integers(num_crops // utterances, size=others.shape)
        return Mixture(rows, snr, crops=views * utterances + others, voices=voices)

    @torch.no_grad()
    def change_speed(self, waveforms: Tensor, plan: Plan) -> Tensor:
        """Change the speed (and pitch) of some utterances of waveforms ``(…, utterances, samples)``, in place."""
        for factor, utterances in plan.speed:
            rows = to_device(utterances, waveforms.device)
            waveforms[..., rows, :] = perturb_speed(waveforms[..., rows, :], factor)
        return waveforms

    @torch.no_grad()
    def forward(self, crops: Tensor, plan: Plan) -> Tensor:
        """Return augmented copies of crops: float32 ``(crops, samples)`` in ±1, or fbank ``(crops, frames, bins)``."""
        if crops.ndim == 2:
            return self._gate(self._transmit(self._mix(crops, plan), plan), plan)
        return self._gate(self._mix(crops.exp(), plan), plan).clamp_min_(torch.finfo(torch.float32).eps).log_()

    def _mix(self, crops: Tensor, plan: Plan) -> Tensor:
        """Augment waveforms or energies, both of which are additive."""
        device = crops.device
        output = crops.clone()
        if self.rirs is not None and len(plan.reverb_rows):
            rows = to_device(plan.reverb_rows, device)
            output[rows] = self.rirs(crops[rows], plan.reverb_index)
        for kind, whole in plan.mixtures:
            for mixture in whole.blocks():
                rows = to_device(mixture.rows, device)
                snr = to_device(mixture.snr.astype(np.float32), device)
                output[rows] = add_noise(output[rows], self._noise(kind, mixture, crops), snr)
        return output

    def _transmit(self, waveforms: Tensor, plan: Plan) -> Tensor:
        """Pass some of the waveforms through a telephone, in place."""
        for first in range(0, len(plan.telephone_rows), BLOCK_CROPS):
            block = slice(first, first + BLOCK_CROPS)
            rows, a_law = (
                to_device(values[block], waveforms.device) for values in (plan.telephone_rows, plan.telephone_a_law)
            )
            waveforms[rows] = telephone(waveforms[rows], a_law, self.sample_rate)
        return waveforms

    @staticmethod
    def _gate(crops: Tensor, plan: Plan) -> Tensor:
        """Mute the quietest parts of some waveforms or energies, in place."""
        if len(plan.gate_rows):
            rows = to_device(plan.gate_rows, crops.device)
            crops[rows] = gate(crops[rows], to_device(plan.gate_share.astype(np.float32), crops.device))
        return crops

    def _noise(self, kind: str, mixture: Mixture, crops: Tensor) -> Tensor:
        """Return the noise of ``mixture``, before it is scaled."""
        device, length = crops.device, crops.shape[1]
        if kind != "babble":
            assert mixture.pieces is not None
            return self.bank(kind)(to_device(mixture.pieces, device), length)
        assert mixture.voices is not None
        voices = to_device(mixture.voices, device)
        noise = crops.new_zeros(len(mixture.rows), *crops.shape[1:])
        for voice in range(voices.shape[1]):
            if mixture.pieces is not None:
                speech = self.bank("speech")(to_device(mixture.pieces[:, voice], device), length)
            else:
                assert mixture.crops is not None
                speech = crops[to_device(mixture.crops[:, voice], device)]
            noise += speech * voices[:, voice].reshape(-1, *[1] * (crops.ndim - 1))
        return noise

    @torch.no_grad()
    def mask(self, fbank: Tensor, plan: Plan) -> Tensor:
        """Mask time and frequency of normalised fbank ``(crops, frames, bins)`` with 0, its mean, in place."""
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
    """Add noise to speech at ``snr`` dB of mean power over the crop.

    Both are waveforms ``(count, samples)``, whose power is their square, or energies ``(count, frames, bins)``. If the
    speech or the noise is silent, nothing is added.
    """
    waveforms = speech.ndim == 2
    speech_power, noise_power = (x.square().mean(dim=1) if waveforms else x.mean(dim=(1, 2)) for x in (speech, noise))
    gain = speech_power / (noise_power * 10 ** (snr / 10))
    gain = gain.sqrt() if waveforms else gain
    gain = torch.where((noise_power > 0) & torch.isfinite(gain), gain, torch.zeros_like(gain))
    return torch.addcmul(speech, noise, gain.reshape(-1, *[1] * (speech.ndim - 1)))


def gate(crops: Tensor, share: Tensor) -> Tensor:
    """Set the quietest ``share`` ``(count,)`` of each crop to zero, in blocks, as a noise gate does between words.

    Crops are waveforms ``(count, samples)`` or energies ``(count, frames, bins)``. A block has 20 ms at 16 kHz, or two
    frames. The level that opens the gate is smoothed over 5 blocks.
    """
    waveforms = crops.ndim == 2
    block = GATE_BLOCK_SAMPLES if waveforms else GATE_BLOCK_FRAMES
    power = crops.square() if waveforms else crops.sum(dim=2)
    length = power.shape[1]
    # The last block may be longer than the others.
    level = F.avg_pool1d(power.unsqueeze(1), min(block, length)).squeeze(1)
    level = F.avg_pool1d(level.unsqueeze(1), 5, stride=1, padding=2, count_include_pad=False).squeeze(1)
    muted = (share * level.shape[1]).long().clamp(max=level.shape[1] - 1).unsqueeze(1)
    is_open = level >= level.sort(dim=1).values.gather(1, muted)
    which = (torch.arange(length, device=crops.device) // block).clamp(max=level.shape[1] - 1)
    is_open = is_open[:, which]
    return crops * (is_open if waveforms else is_open.unsqueeze(2))


def perturb_speed(waveforms: Tensor, factor: float) -> Tensor:
    """Play waveforms ``(…, samples)`` ``factor`` times as fast, band-limited; cut or wrap to the same length."""
    num_samples = waveforms.shape[-1]
    resampled = round(num_samples / factor)
    spectrum = torch.fft.rfft(waveforms)
    changed = torch.fft.irfft(spectrum[..., : resampled // 2 + 1], n=resampled) * (resampled / num_samples)
    return changed[..., torch.arange(num_samples, device=waveforms.device) % resampled]
