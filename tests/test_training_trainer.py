"""The training loop on a tiny corpus: the files of a run, reproducible numbers, and errors that stop it."""

import functools
import itertools
import json
import os
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
from tiny_config import TINY
from tiny_training import PROCESS, make_trainer, same_weights, write_corpus

from sdpn_k2.config import load_config
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.tables import TableWriter
from sdpn_k2.models.checkpoint import checkpoint_path, latest_checkpoint, list_checkpoints, load_checkpoint
from sdpn_k2.training import run_log
from sdpn_k2.training.trainer import Trainer


def test_a_run_writes_metrics_checkpoints_and_configuration(tiny_run):
    exp = tiny_run.parent
    metrics = [json.loads(line) for line in (exp / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in metrics] == [2, 4, 6, 8]
    assert {"loss_ce", "loss_me", "loss_dr", "prototypes_in_use", "lr", "utterances_per_second"} <= set(metrics[0])
    assert all(np.isfinite(value) for entry in metrics for value in entry.values())
    assert [path.name for path in sorted((exp / "checkpoints").iterdir())] == [
        "step-00000004.pt",
        "step-00000006.pt",
        "step-00000008.pt",
    ]
    assert load_config(exp / "config.yaml") == load_checkpoint(tiny_run).config
    assert list((exp / "tensorboard").iterdir())


def test_the_log_of_a_batch_job_says_how_the_run_is(tiny_cuts, tmp_path, monkeypatch, caplog):
    """A step takes 7 s by this clock, which the progress reads three times a step."""
    now = itertools.count(step=7 / 3)
    monkeypatch.setattr(run_log, "Progress", functools.partial(run_log.Progress, clock=lambda: next(now)))
    with caplog.at_level("INFO"):
        make_trainer(tiny_cuts, tmp_path, "train.log_every=100", command="sdpn-k2 train …").run()
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("training, steps: ")]
    assert 2 <= len(lines) <= 3 and lines[-1].startswith("training, steps: 8 of 8 (100 %), ")
    values = r"loss \d\.\d{4}, lr \S+, effective rank \d\.\d, [\d.]+ utterances/s"
    assert all(re.search(rf"\d of 8 \(\d+ %\), {values}(, 0:00:\d\d left)?$", line) for line in lines)
    session = json.loads((tmp_path / "training.json").read_text())["sessions"]
    assert [each["first_step"] for each in session] == [0]
    assert session[0]["precision"] == "float32" and session[0]["processes"] == 1 and session[0]["device"]
    assert session[0]["started"]["command"] == "sdpn-k2 train …"


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tiny_cuts, tiny_run, tmp_path):
    assert same_weights(tiny_run, make_trainer(tiny_cuts, tmp_path / "same").run())
    assert not same_weights(tiny_run, make_trainer(tiny_cuts, tmp_path / "other", "seed=1").run())


def test_loader_processes_do_not_change_the_weights(tiny_cuts, tiny_run, tmp_path):
    assert same_weights(tiny_run, make_trainer(tiny_cuts, tmp_path, "train.workers=2").run())


def test_a_micro_batch_as_large_as_the_batch_changes_nothing(tiny_cuts, tiny_run, tmp_path):
    assert same_weights(tiny_run, make_trainer(tiny_cuts, tmp_path, "train.micro_batch_size=6").run())


@pytest.mark.parametrize("settings", [["train.micro_batch_size=3"], ["method=dino"]])
def test_every_kind_of_run_trains(tiny_cuts, tmp_path, settings):
    trainer = make_trainer(tiny_cuts, tmp_path, *settings)
    before = trainer.model.teacher.encoder.linear.weight.clone()
    trainer.run()
    assert not torch.equal(before, trainer.model.teacher.encoder.linear.weight)


def test_training_on_stored_fbank(tiny_fbank_cuts, tmp_path):
    first = make_trainer(tiny_fbank_cuts, tmp_path / "first", "input=fbank")
    assert list(first.views.augment.banks) == ["noise"] and first.views.augment.rirs is None
    assert same_weights(first.run(), make_trainer(tiny_fbank_cuts, tmp_path / "again", "input=fbank").run())


@pytest.mark.parametrize("workers", [0, 1])
def test_utterances_without_stored_fbank_fail_in_one_line(tiny_cuts, tmp_path, workers):
    with pytest.raises(InputError, match=f"^{tiny_cuts}: .*input: fbank") as caught:
        make_trainer(tiny_cuts, tmp_path, "input=fbank", f"train.workers={workers}").run()
    assert "Traceback" not in str(caught.value)


def test_only_the_field_in_use_is_read_from_shards(tiny_shards, tmp_path):
    shutil.copytree(tiny_shards, tmp_path / "shards")
    for tar in (tmp_path / "shards").glob("recording.*.tar"):
        tar.write_bytes(b"")
    trainer = make_trainer(tmp_path / "shards", tmp_path / "exp", "input=fbank")
    trainer.run()
    assert not trainer._skipped


def test_every_so_many_epochs_a_checkpoint_stays(tiny_cuts, tmp_path):
    # An epoch has two steps. The first checkpoint after epochs 1, 2 and 3 is kept, and the newest.
    settings = ("train.checkpoint_every=1", "train.keep_checkpoints=1", "train.keep_every=1")
    exp = make_trainer(tiny_cuts, tmp_path, *settings).run().parent
    assert [int(path.stem[5:]) for path in list_checkpoints(exp / "checkpoints")] == [2, 4, 6, 8]


def test_dev_trials_are_evaluated_and_the_best_checkpoint_stays(tiny_cuts, tiny_run, tmp_path):
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
    settings = ("train.checkpoint_every=1", "train.keep_checkpoints=1")
    final = make_trainer(tiny_cuts, tmp_path / "exp", *settings, dev=dev).run()
    metrics = [json.loads(line) for line in (tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()]
    eers = {entry["step"]: entry["dev_eer"] for entry in metrics if "dev_eer" in entry}
    assert list(eers) == list(range(1, 9))
    best = load_checkpoint(tmp_path / "exp" / "best.pt").step
    assert eers[best] == min(eers.values()) and best == min(step for step in eers if eers[step] == eers[best])
    # Evaluation does not change the run.
    assert same_weights(final, tiny_run)


def test_weights_of_one_process_are_not_summed(tiny_cuts, tmp_path, monkeypatch):
    monkeypatch.setattr("sdpn_k2.training.trainer._checksum", lambda _: pytest.fail("takes time"))
    make_trainer(tiny_cuts, tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(tiny_cuts, tmp_path):
    run = make_trainer(tiny_cuts, tmp_path, "train.log_every=1")
    run.model.student.encoder.linear.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="the loss is not finite at step 1; last good checkpoint: none yet"):
        run.run()


def test_a_deterministic_run_repeats(tiny_cuts, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        runs = [make_trainer(tiny_cuts, tmp_path / name, "train.deterministic=true").run() for name in ("a", "b")]
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
    assert same_weights(*runs)
    ours, others = (load_checkpoint(run).model for run in (runs[0], tiny_run))
    for name, tensor in others.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=1e-3)


# Settings and data that do not fit are found before anything is built.


@pytest.mark.parametrize(
    "override, message",
    [
        ("crops.global_seconds=9", r"crops.global_seconds = 9 .*1\.50 s"),
        ("train.evaluate_every=3", "train.evaluate_every = 3 .* train.checkpoint_every = 2"),
        ("train.micro_batch_size=4", r"train.micro_batch_size \(4\) .* train.batch_size \(6\)"),
        ("train.batch_size=64", "14 utterances, .* train.batch_size = 64"),
    ],
)
def test_settings_that_do_not_suit_the_run_are_refused(tiny_cuts, tmp_path, monkeypatch, override, message):
    monkeypatch.setattr("sdpn_k2.training.trainer.METHODS", {})
    with pytest.raises(InputError, match=message):
        make_trainer(tiny_cuts, tmp_path / "exp", override, dev=tmp_path)
    assert not (tmp_path / "exp").exists()


def test_a_run_without_steps_is_refused(tiny_cuts, tmp_path):
    settings = [setting for setting in TINY if not setting.startswith("train.steps")] + ["train.epochs=0.2"]
    with pytest.raises(InputError, match="train.epochs = 0.2 .* 2: .*train.steps"):
        Trainer(load_config(None, settings), tiny_cuts, tiny_cuts.parent, tmp_path, PROCESS)


def test_corpus_of_one_utterance(tmp_path):
    with pytest.raises(InputError, match="1 utterances, .* train.batch_size = 2"):
        make_trainer(write_corpus(tmp_path / "one", count=1), tmp_path / "exp", "train.batch_size=2")


# What stops a run on its way.


@pytest.mark.parametrize(
    "override, advice",
    [
        ("train.batch_size=6", "6 utterances .* train.micro_batch_size=3 "),
        ("train.batch_size=7", "7 utterances .* 7 utterances; .* train.batch_size$"),
    ],
)
def test_a_full_gpu_names_the_micro_batch_to_try(tiny_cuts, tmp_path, override, advice):
    trainer = make_trainer(tiny_cuts, tmp_path, override)

    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    trainer._train_step = full
    with pytest.raises(InputError, match=advice):
        trainer.run()


def test_loss_that_is_not_finite_stops_and_names_step_and_utterances(tiny_cuts, tmp_path):
    trainer = make_trainer(tiny_cuts, tmp_path)
    healthy = trainer.views.forward

    def broken_at_step_5(batch, rng):
        global_view, local_views = healthy(batch, rng)
        return global_view, local_views * (float("nan") if trainer.step == 4 else 1.0)

    trainer.views.forward = broken_at_step_5
    with pytest.raises(InputError, match=r"loss .* step 5; .*step-00000004.pt; .* spk\d-\d\d spk\d-\d\d .*base_lr"):
        trainer.run()
    kept = load_checkpoint(latest_checkpoint(tmp_path / "checkpoints"))
    assert kept.step == 4 and all(torch.isfinite(t).all() for t in kept.model.values())


def test_a_gradient_that_is_not_finite_stops(tiny_cuts, tmp_path):
    trainer = make_trainer(tiny_cuts, tmp_path)
    weight = trainer.model.student.encoder.linear.weight
    weight.register_hook(lambda gradient: gradient * float("inf") if trainer.step == 2 else gradient)
    with pytest.raises(InputError, match=r"gradient .* step 3; .*step-00000002.pt"):
        trainer.run()


@pytest.mark.parametrize("name", ["student.encoder.linear.weight", "teacher.encoder.norm.running_var"])
def test_weights_that_are_not_finite_are_not_saved(tiny_cuts, tmp_path, name):
    trainer = make_trainer(tiny_cuts, tmp_path)
    update = trainer.model.update_teacher

    def broken_at_step_4(momentum):
        update(momentum)
        if trainer.step == 3:
            trainer.model.state_dict()[name].view(-1)[0] = float("inf")

    trainer.model.update_teacher = broken_at_step_4
    last = checkpoint_path(tmp_path / "checkpoints", 2)
    with pytest.raises(InputError, match=f"step 4 .{name}, 1 in all.*{last}"):
        trainer.run()
    assert latest_checkpoint(tmp_path / "checkpoints") == last and not (tmp_path / "final.pt").exists()


def test_unreadable_silent_and_nan_audio_is_replaced_and_counted(tmp_path, caplog):
    manifest = write_corpus(tmp_path, count=80)
    (tmp_path / "spk1-01.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "spk2-05.wav", np.zeros(8000), 16000)
    soundfile.write(tmp_path / "spk0-09.wav", np.full(24000, np.nan, np.float32), 16000, subtype="FLOAT")
    trainer = make_trainer(manifest, tmp_path / "exp", "train.batch_size=20", "train.steps=6")
    trainer.run()
    reasons = {name[:7]: skipped.reason for name, skipped in trainer._skipped.items()}
    assert set(reasons) == {"spk1-01", "spk2-05", "spk0-09"}
    assert "silent" in reasons["spk2-05"] and "NaN" in reasons["spk0-09"]
    assert all(f"skipped utterance {name}" in caplog.text for name in reasons)
    last = json.loads((tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["skipped_utterances"] == 3


def test_too_many_unreadable_utterances_fail(tmp_path):
    manifest = write_corpus(tmp_path, count=20)
    for name in ("spk0-00", "spk1-01", "spk2-02", "spk0-03"):
        (tmp_path / f"{name}.wav").write_bytes(b"no audio")
    with pytest.raises(InputError, match=f"{manifest}: . of 20 .* 5 %.*'spk"):
        make_trainer(manifest, tmp_path / "exp", "train.batch_size=10", "train.steps=6").run()
