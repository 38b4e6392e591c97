"""Fbank, augmentation and masks against per-item float64 references."""

import dataclasses

import kaldi_native_fbank as knf
import numpy as np
import pytest
import torch
from torch import nn

from sdpn_k2.config import AugmentConfig, FeaturesConfig
from sdpn_k2.errors import InputError
from sdpn_k2.pcm import INT16_SCALE
from sdpn_k2.signal.augment import Augment, NoiseBank, RirBank, add_noise, align_direct_path, perturb_speed
from sdpn_k2.signal.fbank import CPU_BLOCK_FRAMES, Fbank, instance_norm
from sdpn_k2.signal.front_end import front_end

RATE = 16000


@pytest.mark.parametrize("samples", [399, 400, 3200, 32000])
def test_fbank_equals_kaldi_native_fbank(samples):
    waveform = (np.random.default_rng(0).normal(size=samples) * 0.1).astype(np.float32)
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    reference = knf.OnlineFbank(options)
    reference.accept_waveform(RATE, (waveform * INT16_SCALE).tolist())
    expected = [reference.get_frame(i) for i in range(reference.num_frames_ready)]
    fbank = Fbank(FeaturesConfig())
    assert fbank.num_frames(samples) == len(expected)
    if expected:
        ours = fbank(torch.from_numpy(waveform)[None])[0].numpy()
        np.testing.assert_allclose(ours, np.stack(expected), atol=2e-3)


@pytest.mark.parametrize("kind", ["fbank", "melspec"])
def test_features_are_computed_in_blocks_of_bounded_memory(kind, monkeypatch):
    waveforms, blocks, rfft = 0.1 * torch.randn(40, 32000), [], torch.fft.rfft
    features = front_end(FeaturesConfig(kind=kind, low_freq=0.0))
    expected = torch.cat([features(w[None]) for w in waveforms])
    monkeypatch.setattr(torch.fft, "rfft", lambda x, *rest, **options: blocks.append(x) or rfft(x, *rest, **options))
    torch.testing.assert_close(features(waveforms), expected, rtol=0, atol=1e-4)
    assert sum(map(len, blocks)) == 40 and max(block.shape[:2].numel() for block in blocks) <= CPU_BLOCK_FRAMES


def test_silence_is_finite():
    fbank = Fbank(FeaturesConfig())(torch.zeros(1, 16000))
    assert torch.isfinite(instance_norm(fbank)).all()


def test_instance_norm():
    x = torch.randn(2, 3, 50, 8, dtype=torch.float64) * 5 + 2
    y = x.numpy()
    expected = (y - y.mean(2, keepdims=True)) / np.sqrt(y.var(2, keepdims=True) + 1e-5)
    np.testing.assert_allclose(instance_norm(x).numpy(), expected, atol=1e-10)


def speech(count, samples=8000, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, samples)).astype(np.float32) * 0.1)


def bank(seed, count=5):
    rng = np.random.default_rng(seed)
    return NoiseBank([rng.integers(-8000, 8000, size=rng.integers(500, 20000)).astype(np.int16) for _ in range(count)])


def rirs(seed=0):
    rng = np.random.default_rng(seed)
    return RirBank([rng.normal(size=n) * np.exp(-np.arange(n) / 300) for n in (50, 900, 4000)], 2000)


def test_add_noise_has_the_drawn_snr():
    clean, noise = speech(6), speech(6, seed=1) * torch.rand(6, 1)
    snr = torch.tensor([0.0, 3.0, 7.5, 13.0, 15.0, 20.0])
    added = add_noise(clean, noise, snr).double() - clean.double()
    measured = 10 * torch.log10(clean.double().square().mean(1) / added.square().mean(1))
    np.testing.assert_allclose(measured.numpy(), snr.numpy(), atol=0.01)


def test_silent_speech_or_noise_adds_nothing():
    clean, noise = speech(2), speech(2, seed=1)
    clean[0], noise[1] = 0, 0
    torch.testing.assert_close(add_noise(clean, noise, torch.tensor([10.0, 10.0])), clean)


def test_reverberation_equals_convolution():
    reverb, clean = rirs(), speech(3)
    index = np.array([2, 0, 2])
    ours = reverb(clean, index)
    for row, which in enumerate(index):
        expected = np.convolve(clean[row].double().numpy(), reverb.taps[which].double().numpy())[: clean.shape[1]]
        assert np.abs(ours[row].numpy() - expected).max() < 1e-4 * np.abs(expected).max()


def test_responses_start_at_the_direct_path_with_unit_energy():
    aligned = align_direct_path(np.array([0.0, 0.1, -2.0, 1.0, 0.5]))
    np.testing.assert_allclose(aligned, np.array([-2.0, 1.0, 0.5]) / np.sqrt(5.25), rtol=1e-6)
    with pytest.raises(InputError, match="silent"):
        align_direct_path(np.zeros(10))


def test_bank_pieces_wrap_around():
    pieces_from = NoiseBank([np.arange(5, dtype=np.int16), np.arange(100, 103, dtype=np.int16)])
    pieces = torch.tensor([[0, 3, 5], [5, 1, 3]])
    expected = np.array([[3, 4, 0, 1, 2, 3, 4], [101, 102, 100, 101, 102, 100, 101]]) / INT16_SCALE
    np.testing.assert_allclose(pieces_from(pieces, 7).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("kinds", [("noise", "speech", "music"), ("noise",), ()])
@pytest.mark.parametrize("with_rirs", [True, False])
@pytest.mark.parametrize("block", [3, 1024])
def test_whole_augmentation_equals_the_per_item_reference(kinds, with_rirs, block, monkeypatch):
    monkeypatch.setattr("sdpn_k2.signal.augment.BLOCK_CROPS", block)
    views, utterances = 2, 8
    banks = nn.ModuleDict({kind: bank(i) for i, kind in enumerate(kinds)})
    augment = Augment(AugmentConfig(), banks, rirs() if with_rirs else None)
    clean = speech(views * utterances)
    for step in range(4):
        plan = augment.draw(views, utterances, np.random.default_rng(step))
        ours = augment(clean, plan)
        expected = clean.double().numpy().copy()
        for row, which in zip(plan.reverb_rows, plan.reverb_index):
            taps = augment.rirs.taps[which].double().numpy()
            expected[row] = np.convolve(expected[row], taps)[: clean.shape[1]]
        for kind, mixture in plan.mixtures:
            for n, row in enumerate(mixture.rows):
                noise = np.zeros(clean.shape[1])
                if kind != "babble":
                    voices = [(kind, mixture.pieces[n])]
                elif mixture.crops is None:
                    voices = [("speech", p) for p, on in zip(mixture.pieces[n], mixture.voices[n]) if on]
                else:
                    voices = [(None, c) for c, on in zip(mixture.crops[n], mixture.voices[n]) if on]
                if kind == "babble":
                    assert 3 <= len(voices) <= 7
                for source, which in voices:
                    if source is None:
                        assert which % utterances != row % utterances
                        noise += clean[which].double().numpy()
                    else:
                        base, offset, length = which
                        samples = banks[source].recordings.numpy()[base : base + length].astype(float) / INT16_SCALE
                        noise += samples[(offset + np.arange(len(noise))) % length]
                power, noise_power = (expected[row] ** 2).mean(), (noise**2).mean()
                expected[row] += noise * np.sqrt(power / noise_power / 10 ** (mixture.snr[n] / 10))
        np.testing.assert_allclose(ours.numpy(), expected, atol=2e-4 * np.abs(expected).max())
    assert torch.equal(clean, speech(views * utterances))


def test_shares_of_effects_and_snr_ranges():
    augment = Augment(AugmentConfig(), nn.ModuleDict({"noise": bank(0), "music": bank(1)}), rirs())
    crops, reverbs, noises, snr = 0, 0, 0, {"noise": [], "babble": [], "music": []}
    untouched = 0
    for step in range(40):
        plan = augment.draw(4, 64, np.random.default_rng(step))
        rows = [set(mixture.rows) for _, mixture in plan.mixtures]
        crops += 256
        reverbs += len(plan.reverb_rows)
        noises += sum(map(len, rows))
        untouched += 256 - len(set(plan.reverb_rows).union(*rows))
        for kind, mixture in plan.mixtures:
            snr[kind].extend(mixture.snr)
    # Three standard deviations of 10,240 draws are about 0.015.
    assert untouched / crops == pytest.approx(1 / 6, abs=0.015)
    assert reverbs / crops == pytest.approx(0.5 * 0.25 + 2 / 6, abs=0.015)
    assert noises / crops == pytest.approx(0.5 * 0.75 + 2 / 6, abs=0.015)
    for kind, (low, high) in {"noise": (0, 15), "babble": (13, 20), "music": (5, 15)}.items():
        assert len(snr[kind]) / noises == pytest.approx(1 / 3, abs=0.02)
        assert low <= min(snr[kind]) < low + 0.5 and high - 0.5 < max(snr[kind]) <= high


def test_masks_are_zero_and_within_their_widths():
    config = dataclasses.replace(AugmentConfig(), mask_prob=1.0)
    augment = Augment(config, nn.ModuleDict(), None)
    plan = augment.draw(2, 50, np.random.default_rng(0))
    masked = augment.mask(torch.ones(100, 198, 80), plan)
    frames = (masked == 0).all(2).sum(1)
    bins = (masked == 0).all(1).sum(1)
    assert set(frames.tolist()) <= set(range(10)) and int(frames.max()) == 9
    assert set(bins.tolist()) <= set(range(6)) and int(bins.max()) == 5
    assert torch.equal((masked == 0).sum((1, 2)), frames * 80 + bins * 198 - frames * bins)


def test_masks_fall_on_a_fifth_of_the_utterances():
    augment = Augment(AugmentConfig(), nn.ModuleDict(), None)
    widths = [augment.draw(4, 64, np.random.default_rng(step)).time_mask[:, 1] for step in range(50)]
    share = np.mean([(w.reshape(4, 64) > 0).any(0) for w in widths])
    assert share == pytest.approx(0.2, abs=0.03)


def test_draws_repeat():
    augment = Augment(AugmentConfig(), nn.ModuleDict({"noise": bank(0)}), rirs())
    first, second = (augment(speech(32), augment.draw(4, 8, np.random.default_rng([0, 0, 7]))) for _ in range(2))
    assert torch.equal(first, second)


def test_energies_mix_at_the_drawn_snr():
    """Compare crops of fbank with the per-item reference on energies."""
    rng = np.random.default_rng(0)
    recordings = [rng.normal(8, 2, size=(n, 10)).astype(np.float32) for n in (30, 90)]
    augment = Augment(AugmentConfig(), nn.ModuleDict({"noise": NoiseBank(list(recordings))}))
    clean = torch.from_numpy(rng.normal(10, 2, size=(16, 40, 10)).astype(np.float32))
    plan = augment.draw(2, 8, np.random.default_rng(1))
    expected = np.exp(clean.double().numpy())
    energies, checked = expected.copy(), 0
    for kind, mixture in plan.mixtures:
        for n, row in enumerate(mixture.rows):
            if kind == "noise":
                base, offset, length = mixture.pieces[n]
                whole = np.concatenate(recordings).astype(float)[base : base + length]
                noise = np.exp(whole[(offset + np.arange(40)) % length])
            else:
                noise = sum(energies[c] for c, on in zip(mixture.crops[n], mixture.voices[n]) if on)
            scale = energies[row].mean() / noise.mean() / 10 ** (mixture.snr[n] / 10)
            expected[row] = energies[row] + scale * noise
            checked += 1
    assert checked >= 5
    np.testing.assert_allclose(augment(clean, plan).numpy(), np.log(expected), atol=1e-4)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_moves_every_frequency_by_the_factor(factor):
    time = np.arange(16000) / RATE
    # Whole periods, so that the crop's end does not matter.
    tone = torch.from_numpy(np.sin(2 * np.pi * 500 * time).astype(np.float32))
    changed = perturb_speed(tone, factor)
    assert changed.shape == tone.shape
    resampled = round(16000 / factor)
    kept = min(16000, resampled)
    expected = np.sin(2 * np.pi * 500 * 16000 / resampled * time)[:kept]
    np.testing.assert_allclose(changed[:kept].numpy(), expected, atol=1e-4)


def test_all_crops_of_an_utterance_have_one_speed():
    config = dataclasses.replace(AugmentConfig(), speed_factors=(0.9, 1.0, 1.1))
    augment = Augment(config, nn.ModuleDict())
    plan = augment.draw(4, 60, np.random.default_rng(0))
    changed = {int(u): factor for factor, utterances in plan.speed for u in utterances}
    assert set(changed.values()) == {0.9, 1.1} and 20 < len(changed) < 58
    local, whole = speech(240).unflatten(0, (4, 60)), speech(60, seed=5)
    after_local, after_whole = augment.change_speed(local.clone(), plan), augment.change_speed(whole.clone(), plan)
    for utterance in range(60):
        factor = changed.get(utterance, 1.0)
        pairs = [(after_whole[utterance], whole[utterance])]
        pairs += [(after_local[view, utterance], local[view, utterance]) for view in range(4)]
        for after, before in pairs:
            assert torch.equal(after, before if factor == 1.0 else perturb_speed(before, factor))
