"""What is found before, or on, the first step of training rather than a day into it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_training import TINY, make_trainer, write_corpus

from sdpn_k2.cli import cli
from sdpn_k2.config import load_config
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.tables import TableWriter
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.training.dev_trials import DevTrials
from sdpn_k2.training.doctor import SHARED_MEMORY
from sdpn_k2.training.optimizer import make_optimizer, set_learning_rate
from sdpn_k2.training.precision import resolve
from sdpn_k2.training.trainer import Trainer


@pytest.fixture(scope="module")
def cuts(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize(
    "frames, trials, message",
    [
        (60, "a b target\na d nontarget\n", "trials: trial 2: d "),
        (60, "a b target\na c target\n", "trials: no nontarget trials"),
        (60, "a b\na c\n", "trials: the trials have no labels"),
        (4, "a b target\na c nontarget\n", "c: 4 frames, .*fewer than 5"),
        (0, "a b target\na c nontarget\n", "c: 60 frames, some NaN"),
    ],
)
def test_unusable_dev_trials_are_refused_at_the_start(tmp_path, frames, trials, message):
    with TableWriter(f"ark,scp:{tmp_path}/feats.ark,{tmp_path}/feats.scp", "matrix") as writer:
        for name in "abc":
            values = np.random.default_rng(0).normal(size=(frames if frames and name == "c" else 60, 80))
            values[0, 0] = values[0, 0] if frames or name != "c" else np.nan
            writer.write(name, values.astype(np.float32))
    (tmp_path / "trials").write_text(trials)
    with pytest.raises(InputError, match=message):
        DevTrials(tmp_path, load_config(None, TINY), torch.device("cpu"))


@pytest.mark.parametrize("capability, expected", [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_bfloat16_is_for_gpus_that_multiply_it(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve("auto", torch.device("cuda:0")) == expected
    assert (
        resolve("bfloat16", torch.device("cuda:0")) == "bfloat16"
        and resolve("float32", torch.device("cuda")) == "float32"
    )


def test_prototypes_learn_at_their_own_rate_without_decay():
    config = load_config(None, TINY + ["train.prototype_lr_scale=7", "train.weight_decay=0.01"])
    model = SDPN(config)
    optimizer = make_optimizer(model, config.train)
    set_learning_rate(optimizer, 0.5)
    rates = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert rates.pop(model.prototypes.weight) == (3.5, 0.0)
    assert rates == {parameter: (0.5, 0.01 if parameter.ndim >= 2 else 0.0) for parameter in model.student.parameters()}


def test_a_micro_batch_that_does_not_divide_is_refused(cuts, tmp_path):
    with pytest.raises(InputError, match="micro_batch_size .4. does not divide train.batch_size .6."):
        make_trainer(cuts, tmp_path, "train.micro_batch_size=4")


@pytest.mark.parametrize(
    "override, message",
    [
        ("crops.global_seconds=9", "crops.global_seconds = 9 is longer than the longest utterance, 1.50 s"),
        ("train.evaluate_every=3", "train.evaluate_every = 3 is not a multiple of train.checkpoint_every = 2"),
    ],
)
def test_settings_that_do_not_suit_the_run_are_refused(cuts, tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        make_trainer(cuts, tmp_path, override, dev=tmp_path)


def test_shards_below_a_file_are_refused(cuts):
    result = CliRunner().invoke(cli, ["shar", str(cuts), f"{cuts}/shards"])
    assert isinstance(result.exception, InputError)
    assert "cannot make this folder: Not a directory" in str(result.exception)


def test_a_gradient_that_is_not_finite_is_told(cuts, tmp_path):
    trainer = make_trainer(cuts, tmp_path)
    weight = trainer.model.student.encoder.linear.weight
    weight.register_hook(lambda gradient: gradient * float("inf") if trainer.step == 2 else gradient)
    with pytest.raises(
        InputError, match="the gradient is not finite at step 3; last good checkpoint: .*step-00000002.pt"
    ):
        trainer.run()


@pytest.mark.skipif(not hasattr(torch.cuda, "OutOfMemoryError"), reason="this torch has no such error")
@pytest.mark.parametrize(
    "override, advice",
    [
        ("train.batch_size=6", "6 utterances at once: take --set train.micro_batch_size=3"),
        ("train.batch_size=7", "7 utterances at once: no smaller micro-batch divides a process's 7 utterances"),
    ],
)
def test_doctor_tells_the_micro_batch_for_a_full_gpu(cuts, monkeypatch, override, advice):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "_train_step", full)
    assert f"problem  the GPU's memory is too small for {advice}" in doctor("--set", override, cuts)


def doctor(*arguments) -> str:
    settings = [word for setting in TINY for word in ("--set", setting)]
    result = CliRunner().invoke(cli, ["doctor", "--device", "cpu", *settings, *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


def test_doctor_looks_at_the_disks_that_are_used(cuts, tmp_path, monkeypatch):
    exp, asked = tmp_path / "a" / "b", []

    def usage(path):
        asked.append(path)
        return SimpleNamespace(free=100)

    monkeypatch.setattr("shutil.disk_usage", usage)
    output = doctor("--set", "train.workers=1", "--exp", exp, cuts)
    assert set(asked) == {tmp_path, SHARED_MEMORY}
    assert "problem  checkpoints:" in output and f"problem  batches that wait in {SHARED_MEMORY}: " in output
