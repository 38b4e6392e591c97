"""Multi-crop batches: crops of usual and unusual recordings, replacements, and the order of utterances."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording
from tiny_config import TINY

from sdpn_k2.config import load_config
from sdpn_k2.data import multi_crop
from sdpn_k2.data.crop_loader import multi_crop_loader
from sdpn_k2.data.cut_selection import select_cuts
from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.data.multi_crop import MultiCropDataset, StepBatches
from sdpn_k2.errors import InputError


def dataset_of(folder: Path, samples: np.ndarray, rate: int = 16000, *overrides: str) -> MultiCropDataset:
    soundfile.write(folder / "a.wav", samples, rate)
    write_manifest([Recording.from_file(folder / "a.wav").to_cut()], folder / "cuts.jsonl.gz")
    return MultiCropDataset(CutTable(folder / "cuts.jsonl.gz"), load_config(None, [*TINY, *overrides]))


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("seconds", [0.7, 3.0])
def test_recordings_of_another_rate_are_resampled(tmp_path, rate, seconds):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)
    dataset = dataset_of(tmp_path, tone, rate, "crops.global_seconds=0.5")
    batch = dataset[(0, (0,))]
    for crop in [batch.global_crops[0], *batch.local_crops[:, 0]]:
        assert len(crop) == 8000
        assert np.abs(np.fft.rfft(crop.numpy() * np.hanning(8000))).argmax() == 220  # bins of 2 Hz


@pytest.mark.parametrize("span", [60.0, 0.1])
def test_an_utterance_may_have_silent_crops(tmp_path, monkeypatch, span):
    monkeypatch.setattr(multi_crop, "MAX_SPAN_SECONDS", span)
    samples = np.zeros(160000)
    samples[::16000] = 0.5
    dataset = dataset_of(tmp_path, samples)
    for epoch in range(5):
        batch = dataset[(epoch, (0,))]
        silent = [not crop.any() for crop in batch.local_crops[:, 0]]
        assert batch.global_crops.any() and batch.skipped == [] and any(silent)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corpus_without_usable_utterances_is_refused(tmp_path, workers):
    dataset = dataset_of(tmp_path, np.zeros(160000))
    batch = dataset[(0, (0,))]
    assert batch.ids == [] and [name for name, _ in batch.skipped] == [dataset.cuts[0].id]
    loader = multi_crop_loader(dataset, StepBatches(dataset.cuts, 1, 1, seed=0), workers, pin=False)
    with pytest.raises(InputError, match=f"cuts.jsonl.gz: .*'{dataset.cuts[0].id}': silent"):
        next(loader)


@pytest.mark.parametrize("seconds, fits", [(1.0, True), (1.1, False)])
def test_utterances_may_be_as_short_as_a_crop(tmp_path, seconds, fits):
    soundfile.write(tmp_path / "a.wav", np.full(16000, 0.1), 16000)
    # 98 frames of 25 ms every 10 ms: cuts with features end as their frames are counted.
    cuts = [Recording.from_file(tmp_path / "a.wav").to_cut().truncate(duration=0.98)]
    config = load_config(None, [*TINY, f"crops.global_seconds={seconds}"])
    if fits:
        assert select_cuts(cuts, config, tmp_path / "selected.jsonl.gz").utterances == 1
    else:
        with pytest.raises(InputError, match="crops.global_seconds = 1.1 .*0.98 s"):
            select_cuts(cuts, config, tmp_path / "selected.jsonl.gz")


def test_crops_are_pieces_of_the_utterance_and_short_ones_wrap(tiny_cuts):
    dataset = MultiCropDataset(CutTable(tiny_cuts), load_config(None, TINY))
    batch = dataset[(0, tuple(range(14)))]
    assert batch.global_crops.shape == (14, 16000) and batch.local_crops.shape == (4, 14, 8000)
    for position, cut in enumerate(CutSet.from_file(tiny_cuts)):
        samples = soundfile.read(cut.recording.sources[0].source, dtype="int16")[0]
        endless = np.tile(samples, 5)
        for crop in [batch.global_crops[position], *batch.local_crops[:, position]]:
            crop = crop.numpy()
            starts = np.flatnonzero(endless[: len(samples)] == crop[0])
            fits = [s for s in starts if np.array_equal(endless[s : s + len(crop)], crop)]
            assert fits
            if len(samples) >= len(crop):
                assert fits[0] + len(crop) <= len(samples)
    again, later = dataset[(0, (3, 5))], dataset[(1, (3, 5))]
    assert torch.equal(again.local_crops, batch.local_crops[:, [3, 5]])
    assert not torch.equal(again.local_crops, later.local_crops)


def test_stored_fbank_gives_crops_of_the_same_frames(tiny_fbank_cuts):
    config = load_config(None, TINY + ["input=fbank"])
    batch = MultiCropDataset(CutTable(tiny_fbank_cuts), config)[(0, tuple(range(14)))]
    assert batch.global_crops.shape == (14, 98, 80) and batch.local_crops.shape == (4, 14, 48, 80)
    for position, cut in enumerate(CutSet.from_file(tiny_fbank_cuts)):
        frames = cut.load_features()
        for crop in [batch.global_crops[position], *batch.local_crops[:, position]]:
            start = np.abs(frames - crop[0].numpy()).sum(1).argmin()
            expected = np.take(frames, np.arange(start, start + len(crop)), axis=0, mode="wrap")
            np.testing.assert_array_equal(crop.numpy(), expected)


@pytest.mark.parametrize("input, sizes", [("waveform", (16000, 8000)), ("fbank", (98, 48))])
def test_crops_grow_in_equal_parts_of_the_run(tiny_fbank_cuts, input, sizes):
    config = load_config(None, [*TINY, f"input={input}", "crops.growth=[0.5, 0.75, 1]"])
    dataset = MultiCropDataset(CutTable(tiny_fbank_cuts), config)
    keys = list(StepBatches(dataset.cuts, 2, 7, seed=0, growth=config.crops.growth))
    assert [key.share for key in keys] == [0.5, 0.5, 0.5, 0.75, 0.75, 1, 1]
    assert list(StepBatches(dataset.cuts, 2, 7, seed=0, growth=config.crops.growth, first_step=3)) == keys[3:]
    lengths = [(batch.global_crops.shape[1], batch.local_crops.shape[2]) for batch in map(dataset.__getitem__, keys)]
    # A frame is 10 ms; the window of the last one takes 15 ms more.
    half = {"waveform": (8000, 4000), "fbank": (48, 23)}[input]
    assert lengths[0] == half and lengths[-1] == sizes


class Numbers(CutTable):
    """A table of which only the length matters."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def test_every_utterance_occurs_once_per_epoch_and_processes_share_batches():
    whole = list(StepBatches(Numbers(20), 6, 9, seed=3))
    parts = [list(StepBatches(Numbers(20), 6, 9, seed=3, rank=rank, world_size=2)) for rank in range(2)]
    for together, first, second in zip(whole, *parts):
        assert together.indices == first.indices + second.indices
    for epoch in range(3):
        seen = [index for key in whole if key.epoch == epoch for index in key.indices]
        assert len(seen) == len(set(seen)) == 18
    assert whole[:3] != whole[3:6]
    assert list(StepBatches(Numbers(20), 6, 9, seed=3, first_step=4)) == whole[4:]
    with pytest.raises(InputError, match="train.batch_size = 6 .* 4 "):
        StepBatches(Numbers(20), 6, 9, seed=3, world_size=4)
