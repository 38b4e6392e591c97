"""Noise and impulse responses on the device: turns, rates, and recordings that are refused."""

import shutil

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording
from tiny_config import TINY

from sdpn_k2.config import load_config
from sdpn_k2.data.banks import Banks
from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.errors import InputError


def test_noise_beyond_the_budget_rotates(tiny_cuts, tmp_path):
    """The part of a turn depends only on the seed and the turn, so that a resumed run reads the same."""
    manifests = tmp_path
    recordings = [cut.recording for cut in CutSet.from_file(tiny_cuts)]
    write_manifest(recordings, manifests / "recordings_noise.jsonl.gz")
    write_manifest(recordings[:2], manifests / "recordings_music.jsonl.gz")  # fits whole
    seconds = 8.0  # for both kinds
    config = load_config(None, TINY + [f"augment.bank_gb={seconds * 32000 / 2**30}", "augment.rotate_steps=2"])
    whole = sum(cut.recording.num_samples for cut in CutSet.from_file(tiny_cuts))
    banks = Banks(manifests, config, torch.device("cpu"))
    music = banks.augment.banks["music"]
    contents = []
    for step in range(6):
        banks.rotate(step)
        contents.append(banks.augment.banks["noise"].recordings.clone())
    assert all(0.5 * 16000 < len(content) <= 2 * 16000 < whole for content in contents)
    assert torch.equal(contents[0], contents[1]) and torch.equal(contents[2], contents[3])
    assert len({content.numpy().tobytes() for content in contents}) == 3
    assert banks.augment.banks["music"] is music
    again = Banks(manifests, config, torch.device("cpu"), step=5).augment.banks
    assert torch.equal(again["noise"].recordings, contents[5]) and torch.equal(
        again["music"].recordings, music.recordings
    )


@pytest.mark.parametrize("kind", ["waveform", "fbank"])
def test_all_that_is_kept_fits_the_budget(tiny_fbank_cuts, tmp_path, kind):
    """Noise, impulse responses and the part that is read meanwhile; a single recording that is too long is cut."""
    cuts = list(CutSet.from_file(tiny_fbank_cuts))
    write_manifest(cuts, tmp_path / "cuts_noise.jsonl.gz")
    for name in ("noise", "music", "speech", "rir"):
        write_manifest([cut.recording for cut in cuts], tmp_path / f"recordings_{name}.jsonl.gz")
    budget = 40000 * (3 if kind == "fbank" else 4)
    settings = [f"augment.bank_gb={budget / 2**30}", "augment.rotate_steps=2", "augment.rir_seconds=0.1"]
    banks = Banks(tmp_path, load_config(None, [*TINY, *settings, f"input={kind}"]), torch.device("cpu"))
    augment = banks.augment
    assert (augment.rirs is None) == (kind == "fbank")
    responses = 0 if augment.rirs is None else augment.rirs.taps.numpy().nbytes
    assert responses <= 40000
    for step in range(0, 6, 2):
        banks.rotate(step)
        banks.rotate(step + 1)
        kept = [augment.bank(name) for name in ("noise", "music", "speech")] + list(banks._next.result().values())
        sizes = [bank.recordings.numpy().nbytes for bank in kept]
        assert len(sizes) == 6 and min(sizes) > 0 and sum(sizes) + responses <= budget


def test_noise_that_fits_does_not_rotate(tiny_cuts, tmp_path):
    write_manifest([cut.recording for cut in CutSet.from_file(tiny_cuts)], tmp_path / "recordings_noise.jsonl.gz")
    banks = Banks(tmp_path, load_config(None, TINY), torch.device("cpu"))
    before = banks.augment.banks["noise"]
    banks.rotate(5000)
    assert banks.augment.banks["noise"] is before
    assert len(before.recordings) == sum(cut.recording.num_samples for cut in CutSet.from_file(tiny_cuts))


def test_silent_noise_and_responses_are_refused(tmp_path):
    recordings = []
    for index in range(3):
        path = tmp_path / f"n{index}.wav"
        soundfile.write(path, np.full(4000, 0.0 if index < 2 else 0.1), 16000)
        recordings.append(Recording.from_file(path))
    for kind in ("noise", "rir"):
        (tmp_path / kind).mkdir(exist_ok=True)
        write_manifest(recordings, tmp_path / kind / f"recordings_{kind}.jsonl.gz")
        with pytest.raises(InputError, match=f"recordings_{kind}.jsonl.gz: 2 of 3 .*silent"):
            Banks(tmp_path / kind, load_config(None, TINY), torch.device("cpu"))


def test_noise_as_fbank_with_other_bins_is_refused(tiny_fbank_cuts, tmp_path):
    shutil.copy(tiny_fbank_cuts, tmp_path / "cuts_noise.jsonl.gz")
    with pytest.raises(InputError, match="14 of 14 .*80 bins.*40"):
        Banks(tmp_path, load_config(None, TINY + ["input=fbank", "features.num_mel_bins=40"]), torch.device("cpu"))


def test_noise_at_another_rate_is_resampled(tmp_path):
    time = np.arange(44100) / 44100
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 440 * time), 44100)
    write_manifest([Recording.from_file(tmp_path / "tone.wav")], tmp_path / "recordings_noise.jsonl.gz")
    samples = Banks(tmp_path, load_config(None, TINY), torch.device("cpu")).augment.banks["noise"].recordings.numpy()
    assert len(samples) == 16000
    assert np.abs(np.fft.rfft(samples)).argmax() == 440
