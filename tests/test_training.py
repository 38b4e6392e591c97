"""Training on a tiny corpus: same numbers again, stopped and taken up, and every bad input's one line."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from lhotse import CutSet, Features, Recording
from tiny_training import PROCESS, TINY, command, make_trainer, wait_for_checkpoint, write_corpus

from sdpn_k2.cli import cli
from sdpn_k2.config import load_config
from sdpn_k2.data.banks import Banks
from sdpn_k2.data.cut_selection import select_cuts
from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.data.multi_crop import MultiCropDataset, StepBatches
from sdpn_k2.data.shar import SharTable
from sdpn_k2.errors import InputError
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi.formats.tables import TableWriter
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.models.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from sdpn_k2.signal.fbank import Fbank
from sdpn_k2.training.health import warn_of_collapse
from sdpn_k2.training.schedules import cosine, warmup_cosine
from sdpn_k2.training.trainer import Trainer


@pytest.fixture(scope="module")
def cuts(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def same_weights(first: Path, second: Path) -> bool:
    a, b = load_checkpoint(first), load_checkpoint(second)
    return (
        a.step == b.step
        and all(torch.equal(a.model[name], b.model[name]) for name in a.model)
        and all(torch.equal(a.momentum[name], b.momentum[name]) for name in a.momentum)
    )


@pytest.fixture(scope="module")
def finished(cuts, tmp_path_factory) -> Path:
    """An uninterrupted run."""
    return make_trainer(cuts, tmp_path_factory.mktemp("finished")).run()


def test_a_run_leaves_what_it_should(finished):
    exp = finished.parent
    metrics = [json.loads(line) for line in (exp / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in metrics] == [2, 4, 6, 8]
    assert {"loss_ce", "loss_me", "loss_dr", "prototypes_in_use", "lr", "utterances_per_second"} <= set(metrics[0])
    assert all(np.isfinite(value) for entry in metrics for value in entry.values())
    assert [path.name for path in sorted((exp / "checkpoints").iterdir())] == [
        "step-00000004.pt",
        "step-00000006.pt",
        "step-00000008.pt",
    ]
    assert load_config(exp / "config.yaml") == load_checkpoint(finished).config
    assert list((exp / "tensorboard").iterdir())


def test_the_same_seed_gives_the_same_weights_and_another_does_not(cuts, finished, tmp_path):
    assert same_weights(finished, make_trainer(cuts, tmp_path / "same").run())
    assert not same_weights(finished, make_trainer(cuts, tmp_path / "other", "seed=1").run())


def test_loader_processes_do_not_change_the_weights(cuts, finished, tmp_path):
    assert same_weights(finished, make_trainer(cuts, tmp_path, "train.workers=2").run())


@pytest.mark.parametrize("steps", [1, 4])
def test_killed_and_run_again_ends_with_the_same_bits(cuts, tmp_path, steps):
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(cuts, whole), check=True, capture_output=True, env=environment)
    process = subprocess.Popen(command(cuts, killed), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    wait_for_checkpoint(killed, process, steps)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "final.pt").exists()
    subprocess.run(command(cuts, killed), check=True, capture_output=True, env=environment)
    assert same_weights(whole / "final.pt", killed / "final.pt")
    steps_logged = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps_logged == [2, 4, 6, 8]


def test_schedules():
    assert [warmup_cosine(step, 100, 10, 2.0, 0.5) for step in (0, 5, 10, 99)] == pytest.approx([0, 1.0, 2.0, 0.5])
    halfway = warmup_cosine(10 + 45, 101, 10, 2.0, 0.5)
    assert halfway == pytest.approx(0.5 + 1.5 * 0.5 * (1 + np.cos(np.pi / 2)))
    assert cosine(0, 50, 0.996, 1.0) == 0.996 and cosine(49, 50, 0.996, 1.0) == 1.0


class Numbers(CutTable):
    """A table of which only the length matters."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def test_every_utterance_once_an_epoch_and_processes_share_batches():
    whole = list(StepBatches(Numbers(20), 6, 9, seed=3))
    parts = [list(StepBatches(Numbers(20), 6, 9, seed=3, rank=rank, world_size=2)) for rank in range(2)]
    for (epoch, indices), (_, first), (_, second) in zip(whole, *parts):
        assert indices == first + second
    for epoch in range(3):
        seen = [index for e, indices in whole if e == epoch for index in indices]
        assert len(seen) == len(set(seen)) == 18
    assert whole[:3] != whole[3:6]
    assert list(StepBatches(Numbers(20), 6, 9, seed=3, first_step=4)) == whole[4:]
    with pytest.raises(InputError, match="not a multiple of the 4 processes"):
        StepBatches(Numbers(20), 6, 9, seed=3, world_size=4)


@pytest.fixture(scope="module")
def shards(fbank_cuts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shar") / "train"
    result = CliRunner().invoke(cli, ["shar", "--shard-size", "4", str(fbank_cuts), str(folder)])
    assert result.exit_code == 0, result.output
    return folder


def test_shards_hold_the_same_cuts_in_random_order(fbank_cuts, shards):
    table, cuts = SharTable(shards), {cut.id: cut for cut in CutSet.from_file(fbank_cuts)}
    ids = [table[index].id for index in range(len(table))]
    assert sorted(ids) == sorted(cuts) and ids != list(cuts)
    for index in (0, 5, 13):
        cut = table[index]
        np.testing.assert_array_equal(cut.load_audio(), cuts[cut.id].load_audio())
        np.testing.assert_array_equal(cut.load_features(), cuts[cut.id].load_features())
    # lhotse reads them too.
    assert [cut.id for cut in CutSet.from_shar(in_dir=shards)] == ids


def test_of_shards_only_what_is_trained_on_is_read(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "shards")
    for tar in (tmp_path / "shards").glob("recording.*.tar"):
        tar.write_bytes(b"")
    trainer = make_trainer(tmp_path / "shards", tmp_path / "exp", "input=fbank")
    trainer.run()
    assert not trainer._skipped


def test_shards_are_visited_a_few_at_a_time(shards, monkeypatch):
    monkeypatch.setattr("sdpn_k2.data.shar.SHARDS_AT_ONCE", 2)
    table = SharTable(shards)
    order = table.permutation(np.random.default_rng(0))
    assert sorted(order) == list(range(14))
    shard = np.searchsorted([4, 8, 12], order, side="right")
    assert len(set(shard[:6])) <= 2 and len(set(shard)) == 4
    assert list(order) != list(table.permutation(np.random.default_rng(1)))


@pytest.mark.parametrize("input", ["waveform", "fbank"])
def test_training_from_shards_is_resumed_to_the_same_bits(shards, tmp_path, input):
    whole = make_trainer(shards, tmp_path / "whole", f"input={input}").run()
    first = list_checkpoints(whole.parent / "checkpoints")[0]
    config = load_config(None, TINY + [f"input={input}"])
    assert same_weights(whole, Trainer(config, shards, shards, tmp_path / "again", PROCESS, resume=str(first)).run())


def test_a_corrupted_utterance_in_a_shard_is_replaced(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "shards")
    tar = tmp_path / "shards" / "recording.000001.tar"
    data = bytearray(tar.read_bytes())
    data[512:560] = b"x" * 48  # the head of the first audio file
    tar.write_bytes(data)
    broken = SharTable(shards)[4].id
    dataset = MultiCropDataset(SharTable(tmp_path / "shards"), load_config(None, TINY))
    batch = dataset[(0, (3, 4, 5))]
    assert len(batch.skipped) == 1 and batch.skipped[0].key == broken and len(set(batch.ids)) == 3


def test_broken_shard_folders(shards, tmp_path):
    with pytest.raises(InputError, match="no shards"):
        SharTable(tmp_path)
    shutil.copytree(shards, tmp_path / "cut")
    tar = tmp_path / "cut" / "recording.000000.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(InputError, match="recording.000000.tar: cut short"):
        SharTable(tmp_path / "cut")[3]
    (tmp_path / "cut" / "recording.000001.tar").unlink()
    with pytest.raises(InputError, match="recording.000001.tar: no such file"):
        SharTable(tmp_path / "cut")


def test_crops_are_pieces_of_the_utterance_and_short_ones_wrap(cuts):
    dataset = MultiCropDataset(CutTable(cuts), load_config(None, TINY))
    batch = dataset[(0, tuple(range(14)))]
    assert batch.global_crops.shape == (14, 16000) and batch.local_crops.shape == (4, 14, 8000)
    for position, cut in enumerate(CutSet.from_file(cuts)):
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


def test_select_cuts_carry_no_labels_and_count(cuts, tmp_path):
    config = load_config(None, TINY + ["crops.min_seconds=0.6"])
    summary = select_cuts(CutSet.from_file(cuts), config, tmp_path / "selected.jsonl.gz")
    kept = list(CutSet.from_file(tmp_path / "selected.jsonl.gz"))
    assert summary.dropped_short == 14 - len(kept) == 3
    assert summary.utterances == len(kept) and summary.local_crops == 4 * len(kept)
    assert summary.seconds == pytest.approx(sum(cut.duration for cut in kept))
    assert all(not cut.supervisions for cut in kept)


def test_noise_beyond_the_budget_takes_turns(cuts):
    """Every turn's part depends on the seed and the turn alone, and a run taken up reads the same."""
    manifests = cuts.parent / "noise"
    manifests.mkdir(exist_ok=True)
    recordings = [cut.recording for cut in CutSet.from_file(cuts)]
    write_manifest(recordings, manifests / "recordings_noise.jsonl.gz")
    write_manifest(recordings[:2], manifests / "recordings_music.jsonl.gz")  # fits whole
    seconds = 6.0  # for both kinds
    config = load_config(None, TINY + [f"augment.bank_gb={seconds * 32000 / 2**30}", "augment.rotate_steps=2"])
    whole = sum(cut.recording.num_samples for cut in CutSet.from_file(cuts))
    banks = Banks(manifests, config, torch.device("cpu"))
    music = banks.augment.banks["music"]
    contents = []
    for step in range(6):
        banks.rotate(step)
        contents.append(banks.augment.banks["noise"].recordings.clone())
    assert all(3 * 16000 <= len(content) <= 5 * 16000 < whole for content in contents)
    assert torch.equal(contents[0], contents[1]) and torch.equal(contents[2], contents[3])
    assert len({content.numpy().tobytes() for content in contents}) == 3
    assert banks.augment.banks["music"] is music
    again = Banks(manifests, config, torch.device("cpu"), step=5).augment.banks
    assert torch.equal(again["noise"].recordings, contents[5]) and torch.equal(
        again["music"].recordings, music.recordings
    )


def test_noise_that_fits_stays(cuts, tmp_path):
    write_manifest([cut.recording for cut in CutSet.from_file(cuts)], tmp_path / "recordings_noise.jsonl.gz")
    banks = Banks(tmp_path, load_config(None, TINY), torch.device("cpu"))
    before = banks.augment.banks["noise"]
    banks.rotate(5000)
    assert banks.augment.banks["noise"] is before
    assert len(before.recordings) == sum(cut.recording.num_samples for cut in CutSet.from_file(cuts))


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


def test_noise_as_fbank_of_other_bins_is_refused(fbank_cuts, tmp_path):
    shutil.copy(fbank_cuts, tmp_path / "cuts_noise.jsonl.gz")
    with pytest.raises(InputError, match="14 of 14 .*80 bins.*40"):
        Banks(tmp_path, load_config(None, TINY + ["input=fbank", "features.num_mel_bins=40"]), torch.device("cpu"))


def test_noise_at_another_rate_is_resampled(tmp_path):
    time = np.arange(44100) / 44100
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 440 * time), 44100)
    write_manifest([Recording.from_file(tmp_path / "tone.wav")], tmp_path / "recordings_noise.jsonl.gz")
    samples = Banks(tmp_path, load_config(None, TINY), torch.device("cpu")).augment.banks["noise"].recordings.numpy()
    assert len(samples) == 16000
    assert np.abs(np.fft.rfft(samples)).argmax() == 440


@pytest.fixture(scope="module")
def fbank_cuts(cuts, tmp_path_factory) -> Path:
    """The same corpus as stored fbank, and noise beside it."""
    folder = tmp_path_factory.mktemp("fbank")
    fbank = Fbank(load_config().features)
    items = []
    with TableWriter(f"ark,scp:{folder}/feats.ark,{folder}/feats.scp", "matrix") as writer:
        for cut in CutSet.from_file(cuts):
            frames = fbank(torch.from_numpy(cut.load_audio()))[0].numpy()
            writer.write(cut.id, frames)
            cut = cut.truncate(duration=len(frames) / 100, preserve_id=True)
            cut.features = Features(
                type="kaldi-fbank",
                num_frames=len(frames),
                num_features=80,
                frame_shift=0.01,
                sampling_rate=16000,
                start=0,
                duration=len(frames) / 100,
                storage_type="kaldiio",
                storage_path=str(folder / "feats.scp"),
                storage_key=cut.id,
                recording_id=cut.recording_id,
                channels=0,
            )
            items.append(cut)
    write_manifest(items, folder / "cuts.jsonl.gz")
    write_manifest([cut.recording for cut in items[:5]], folder / "recordings_noise.jsonl.gz")
    return folder / "cuts.jsonl.gz"


def test_stored_fbank_gives_crops_of_the_same_frames(cuts, fbank_cuts):
    config = load_config(None, TINY + ["input=fbank"])
    batch = MultiCropDataset(CutTable(fbank_cuts), config)[(0, tuple(range(14)))]
    assert batch.global_crops.shape == (14, 98, 80) and batch.local_crops.shape == (4, 14, 48, 80)
    for position, cut in enumerate(CutSet.from_file(fbank_cuts)):
        frames = cut.load_features()
        for crop in [batch.global_crops[position], *batch.local_crops[:, position]]:
            start = np.abs(frames - crop[0].numpy()).sum(1).argmin()
            expected = np.take(frames, np.arange(start, start + len(crop)), axis=0, mode="wrap")
            np.testing.assert_array_equal(crop.numpy(), expected)


def test_training_on_stored_fbank(fbank_cuts, tmp_path):
    first = make_trainer(fbank_cuts, tmp_path / "first", "input=fbank")
    assert list(first.views.augment.banks) == ["noise"] and first.views.augment.rirs is None
    assert same_weights(first.run(), make_trainer(fbank_cuts, tmp_path / "again", "input=fbank").run())


def test_stored_fbank_is_asked_for_where_there_is_none(cuts, tmp_path):
    with pytest.raises(InputError, match="no stored features"):
        make_trainer(cuts, tmp_path, "input=fbank").run()


def test_chunks_are_averaged(finished):
    extractor = Extractor.load(finished, max_duration=0.5)
    fbank = np.random.default_rng(0).normal(size=(120, 80)).astype(np.float32)
    parts = np.array_split(fbank, 3)
    expected = np.mean([extractor.embed_fbank([part])[0] for part in parts], axis=0)
    np.testing.assert_allclose(extractor.embed_fbank([fbank])[0], expected, rtol=1e-4, atol=1e-6)
    assert extractor.embed(np.random.default_rng(1).normal(size=3200) * 0.1).shape == (8,)
    with pytest.raises(InputError, match="too short"):
        extractor.embed(np.zeros(800))


def test_average_is_the_mean_of_the_weights(finished, tmp_path):
    paths = list_checkpoints(finished.parent / "checkpoints")
    result = CliRunner().invoke(
        cli, ["average", "--last", "2", str(finished.parent / "checkpoints"), str(tmp_path / "a.pt")]
    )
    assert result.exit_code == 0, result.output
    ours, (first, second) = load_checkpoint(tmp_path / "a.pt"), map(load_checkpoint, paths[-2:])
    for name, tensor in ours.model.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(
                tensor.double(), (first.model[name].double() + second.model[name].double()) / 2, rtol=1e-6, atol=1e-9
            )
    assert Extractor.load(tmp_path / "a.pt").embed(np.ones(4000)).shape == (8,)


def test_every_so_many_epochs_a_checkpoint_stays(cuts, tmp_path):
    # Two steps an epoch; checkpoints after every step; kept: the first after epochs 1, 2, 3 and the newest.
    exp = (
        make_trainer(cuts, tmp_path, "train.checkpoint_every=1", "train.keep_checkpoints=1", "train.keep_every=1")
        .run()
        .parent
    )
    assert [int(path.stem[5:]) for path in list_checkpoints(exp / "checkpoints")] == [2, 4, 6, 8]


def test_signs_of_collapse_are_told(caplog):
    healthy = {"prototypes_in_use": 120.0, "effective_rank": 30.0, "mean_cosine": 0.1}
    assert warn_of_collapse(5, healthy, 128, 64) == []
    assert warn_of_collapse(5, healthy, 65536, 64) == []
    with caplog.at_level("WARNING"):
        assert (
            len(warn_of_collapse(7, {"prototypes_in_use": 2.0, "effective_rank": 1.2, "mean_cosine": 0.99}, 128, 64))
            == 3
        )
    assert "step 7: collapse? only 2.0 of 128 prototypes" in caplog.text


def test_dev_trials_are_evaluated_and_the_best_checkpoint_stays(cuts, tmp_path):
    rng = np.random.default_rng(0)
    dev = tmp_path / "dev"
    dev.mkdir()
    names = [f"s{speaker}-{index}" for speaker in range(3) for index in range(3)]
    with TableWriter(f"ark,scp:{dev}/feats.ark,{dev}/feats.scp", "matrix") as writer:
        for name in names:
            writer.write(name, rng.normal(size=(60, 80)).astype(np.float32))
    (dev / "trials").write_text(
        "".join(f"{a} {b} {'target' if a[:2] == b[:2] else 'nontarget'}\n" for a in names for b in names if a < b)
    )
    config = load_config(None, TINY + ["train.checkpoint_every=1", "train.keep_checkpoints=1"])
    final = Trainer(config, cuts, cuts.parent, tmp_path / "exp", PROCESS, dev=dev).run()
    metrics = [json.loads(line) for line in (tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()]
    eers = {entry["step"]: entry["dev_eer"] for entry in metrics if "dev_eer" in entry}
    assert list(eers) == list(range(1, 9))
    best = load_checkpoint(tmp_path / "exp" / "best.pt").step
    assert eers[best] == min(eers.values()) and best == min(step for step in eers if eers[step] == eers[best])
    # Evaluation on the way changes nothing.
    assert same_weights(final, make_trainer(cuts, tmp_path / "without").run())


def test_resume_from_a_given_checkpoint_and_none(cuts, finished, tmp_path):
    first = list_checkpoints(finished.parent / "checkpoints")[0]
    config = load_config(None, TINY)
    assert same_weights(finished, Trainer(config, cuts, cuts.parent, tmp_path, PROCESS, resume=str(first)).run())
    with pytest.raises(InputError, match="--resume none starts anew"):
        Trainer(config, cuts, cuts.parent, tmp_path, PROCESS, resume="none")
    with pytest.raises(InputError, match=f"--resume {first}: .*step-00000008.pt is of a later step"):
        Trainer(config, cuts, cuts.parent, tmp_path, PROCESS, resume=str(first))


def doctor(*arguments):
    settings = [word for setting in TINY for word in ("--set", setting)]
    result = CliRunner().invoke(cli, ["doctor", "--device", "cpu", *settings, *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_doctor_examines_machine_and_run(cuts, tmp_path):
    result = doctor("--exp", tmp_path / "exp", cuts)
    assert result.exit_code == 0, result.output
    for expected in ("Python 3", "14 utterances, 2 steps an epoch, 8 steps (4.0 epochs)", "utterances/s", "whole run"):
        assert expected in result.output
    assert not (tmp_path / "exp").exists()
    assert "was not examined" in doctor().output


def test_doctor_finds_what_would_stop_the_run(cuts, tmp_path):
    result = doctor("--set", "train.batch_size=64", cuts)
    assert result.exit_code == 1 and "problem  the corpus has 14 utterances, fewer than" in result.output
    manifest = write_corpus(tmp_path, count=9)
    table = CutTable(manifest)
    _, (first, *_) = next(iter(StepBatches(table, 6, 1, seed=0)))
    Path(table[first].recording.sources[0].source).write_bytes(b"no audio")
    result = doctor("--set", "train.batch_size=6", manifest)
    assert result.exit_code == 1
    assert f"problem  1 unusable utterances in the first batch; the first: {table[first].id}" in result.output


def test_a_run_starts_from_given_weights(cuts, finished, tmp_path):
    config = load_config(None, TINY + ["train.steps=4", "objective.num_prototypes=9"])
    trainer = Trainer(config, cuts, cuts.parent, tmp_path, PROCESS, init=finished)
    given, ours = load_checkpoint(finished).model, trainer.model.state_dict()
    assert trainer.step == 0
    assert all(torch.equal(ours[name], given[name]) for name in ours if name != "prototypes.weight")
    assert ours["prototypes.weight"].shape == (9, 6)
    with pytest.raises(InputError, match="does not fit this configuration: model.channels"):
        Trainer(
            load_config(None, TINY + ["model.channels=32"]), cuts, cuts.parent, tmp_path / "x", PROCESS, init=finished
        )


def test_two_processes_train_one_model_and_one_of_them_writes(cuts, tmp_path):
    settings = [word for setting in TINY for word in ("--set", setting)]
    arguments = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "sdpn_k2",
        "train",
        "--device",
        "cpu",
        *settings,
        str(cuts),
        str(tmp_path),
    ]
    environment = dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert load_checkpoint(tmp_path / "final.pt").step == 8
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]
    assert result.stdout.count("final.pt: trained") == 1


# Bad input.


def test_crops_longer_than_every_utterance(cuts, tmp_path):
    for name in ("global", "local"):
        config = load_config(None, TINY + [f"crops.{name}_seconds=9"])
        with pytest.raises(InputError, match=f"crops.{name}_seconds = 9 .*1.50 s"):
            select_cuts(CutSet.from_file(cuts), config, tmp_path / "selected.jsonl.gz")


@pytest.mark.skipif(not hasattr(torch.cuda, "OutOfMemoryError"), reason="this torch has no such error")
def test_a_full_gpu_tells_the_micro_batch_to_try(cuts, tmp_path):
    trainer = make_trainer(cuts, tmp_path)

    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    trainer._train_step = full
    with pytest.raises(InputError, match="too small for 6 utterances at once: take --set train.micro_batch_size=3"):
        trainer.run()


def test_batch_larger_than_the_corpus(cuts, tmp_path):
    with pytest.raises(InputError, match="14 utterances, fewer than train.batch_size = 64"):
        make_trainer(cuts, tmp_path, "train.batch_size=64")


def test_corpus_of_one_utterance(tmp_path):
    with pytest.raises(InputError, match="1 utterances, fewer than"):
        make_trainer(write_corpus(tmp_path / "one", count=1), tmp_path / "exp", "train.batch_size=2")


def test_checkpoint_of_another_configuration_is_not_taken_up(finished, cuts):
    with pytest.raises(InputError, match=r"objective.temperature \(0.1 there, 0.2 now\)"):
        make_trainer(cuts, finished.parent, "objective.temperature=0.2")


def test_loss_that_is_not_finite_stops_and_names_step_and_utterances(cuts, tmp_path):
    make_trainer(cuts, tmp_path).run()
    trainer = make_trainer(cuts, tmp_path / "bad")
    healthy = trainer.views.forward

    def broken_at_step_5(batch, rng):
        global_view, local_views = healthy(batch, rng)
        return global_view, local_views * (float("nan") if trainer.step == 4 else 1.0)

    trainer.views.forward = broken_at_step_5
    with pytest.raises(
        InputError, match=r"not finite at step 5; .*step-00000004.pt; utterances of that step: spk\d-\d\d"
    ):
        trainer.run()
    kept = load_checkpoint(latest_checkpoint(tmp_path / "bad" / "checkpoints"))
    assert kept.step == 4 and all(torch.isfinite(t).all() for t in kept.model.values())


def test_unreadable_silent_and_nan_audio_is_replaced_and_counted(tmp_path, caplog):
    manifest = write_corpus(tmp_path, count=80)
    (tmp_path / "spk1-01.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "spk2-05.wav", np.zeros(8000), 16000)
    soundfile.write(tmp_path / "spk0-09.wav", np.full(24000, np.nan, np.float32), 16000, subtype="FLOAT")
    trainer = make_trainer(manifest, tmp_path / "exp", "train.batch_size=20", "train.steps=6")
    trainer.run()
    assert {name[:7] for name in trainer._skipped} == {"spk1-01", "spk2-05", "spk0-09"}
    messages = " ".join(trainer._skipped.values())
    assert "silent" in messages and "NaN" in messages
    last = json.loads((tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["skipped_utterances"] == 3


def test_too_many_unreadable_utterances_fail(tmp_path):
    manifest = write_corpus(tmp_path, count=20)
    for name in ("spk0-00", "spk1-01", "spk2-02", "spk0-03"):
        (tmp_path / f"{name}.wav").write_bytes(b"no audio")
    with pytest.raises(InputError, match="of 20 utterances could not be read"):
        make_trainer(manifest, tmp_path / "exp", "train.batch_size=10", "train.steps=6").run()


def test_broken_checkpoints(finished, tmp_path):
    whole = finished.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"student": {"module.backbone.w": torch.zeros(2)}}, tmp_path / "foreign.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"x": Path("a")}, tmp_path / "pickle.pt")
    for name, message in (
        ("cut", "not a complete checkpoint"),
        ("foreign", r"not an sdpn_k2 checkpoint.*student"),
        ("empty", "not a complete"),
        ("pickle", "refused"),
        ("none", "cannot read"),
    ):
        with pytest.raises(InputError, match=message):
            load_checkpoint(tmp_path / f"{name}.pt")


def test_checkpoints_hold_what_weights_only_reads_on_every_torch(finished):
    def kinds(value):
        if isinstance(value, dict):
            return set().union(*[kinds(v) for v in value.values()], {type(k) for k in value})
        return {type(value)}

    content = torch.load(finished, weights_only=True)
    assert kinds(content) == {str, int, torch.Tensor}
    assert json.loads(content["meta"])["config"]["train"]["batch_size"] == 6


def test_full_disk_keeps_the_earlier_checkpoint(tmp_path):
    config = load_config(None, TINY)
    checkpoint = Checkpoint(1, config, SDPN(config).state_dict(), {})
    path = tmp_path / "step.pt"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    script = (
        "import resource, signal, sys, torch; from pathlib import Path; from sdpn_k2.models import checkpoint as c\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "loaded = c.load_checkpoint(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try:\n    c.save_checkpoint(Path(sys.argv[1]), loaded)\n"
        "except c.InputError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert "cannot write" in result.stdout and not result.stderr, result.stderr
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_broken_manifests(tmp_path):
    (tmp_path / "empty.jsonl.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "junk.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(InputError, match="no cuts"):
        CutTable(tmp_path / "empty.jsonl.gz")
    with pytest.raises(InputError, match="junk.jsonl:1: "):
        CutTable(tmp_path / "junk.jsonl")[0]
    for name in ("cut.jsonl.gz", "absent.jsonl.gz"):
        with pytest.raises(InputError, match="cannot read"):
            CutTable(tmp_path / name)
