"""How training ends before its time: signals, errors, and what they leave behind."""

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from lhotse import CutSet
from tiny_training import PROCESS, TINY, command, make_trainer, wait_for_checkpoint, write_corpus

from sdpn_k2.cli import cli
from sdpn_k2.config import load_config
from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.errors import InputError
from sdpn_k2.models.checkpoint import checkpoint_path, latest_checkpoint, load_checkpoint
from sdpn_k2.training.trainer import Trainer


@pytest.fixture(scope="module")
def cuts(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("workers, number", [(0, signal.SIGTERM), (1, signal.SIGTERM), (1, signal.SIGUSR1)])
def test_a_signal_to_all_its_processes_saves_and_leaves_with_75(cuts, tmp_path, workers, number):
    arguments = command(cuts, tmp_path, f"train.workers={workers}", "train.steps=100000")
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    wait_for_checkpoint(tmp_path, process, 2)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors.decode()
    assert number.name.encode() in errors and b"Traceback" not in errors
    load_checkpoint(latest_checkpoint(tmp_path / "checkpoints"))


SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(0.5)
    print("saved", flush=True)
    sys.exit(int(sys.argv[1]))
signal.signal(signal.SIGTERM, save)
print("started", flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize(
    "whole_group, name, status", [(True, "python", 75), (False, "python", 75), (False, "torchrun", 1)]
)
def test_the_recipe_passes_signals_on_and_waits(tmp_path, number, whole_group, name, status):
    (tmp_path / "saves.py").write_text(SAVES)
    (tmp_path / name).symlink_to(sys.executable)
    stages = Path(__file__).resolve().parents[1] / "utils" / "stages.sh"
    script = f"set -euo pipefail; PATH={tmp_path}:$PATH; . {stages}; run_until_saved {name} saves.py {status}; echo on"
    # Tests that run in the background have SIGINT ignored, which a shell cannot undo.
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "started\n"
    (os.killpg if whole_group and number == signal.SIGTERM else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert (output, process.returncode) == ("saved\n", 75)


BREAK_THE_STEP = """
from sdpn_k2.training.trainer import Trainer
def broken(self, batch, diagnose):
    raise RuntimeError("the step broke")
Trainer._train_step = broken
from sdpn_k2.cli import main
main()
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_the_step_ends_the_process(cuts, tmp_path, workers):
    arguments = command(cuts, tmp_path, f"train.workers={workers}")[3:]
    result = subprocess.run([sys.executable, "-c", BREAK_THE_STEP, *arguments], capture_output=True, timeout=100)
    assert result.returncode == 1 and b"the step broke" in result.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_loader_process_cannot_use_is_one_line(cuts, tmp_path, workers):
    arguments = command(cuts, tmp_path, f"train.workers={workers}", "input=fbank")
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    error = result.stderr.splitlines()[-1]
    assert error.startswith(f"sdpn-k2: error: {cuts}: too few usable utterances") and "no stored features" in error


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_tar_header_costs_the_utterances_behind_it(tmp_path, workers):
    corpus = write_corpus(tmp_path, count=40)
    result = CliRunner().invoke(cli, ["shar", "--shard-size", "20", str(corpus), str(tmp_path / "shards")])
    assert result.exit_code == 0, result.output
    tar = tmp_path / "shards" / "recording.000001.tar"
    data = bytearray(tar.read_bytes())
    with tarfile.open(tar) as archive:
        start = archive.getmembers()[2 * 19].offset  # of the shard's last utterance
    data[start : start + 100] = b"x" * 100
    tar.write_bytes(data)
    trainer = make_trainer(tmp_path / "shards", tmp_path / "exp", f"train.workers={workers}", "train.batch_size=20")
    trainer.run()
    (message,) = trainer._skipped.values()
    assert "recording.000001.tar: cut short" in message


@pytest.fixture(scope="module")
def finished(cuts, tmp_path_factory) -> Path:
    return make_trainer(cuts, tmp_path_factory.mktemp("finished")).run()


@pytest.mark.parametrize(
    "change, there",
    [
        (lambda cuts: cuts[:13], "13 utterances"),
        (lambda cuts: [*cuts[1:], cuts[0]], "14 utterances"),
        (lambda cuts: [cuts[0].truncate(duration=0.4, preserve_id=True), *cuts[1:]], "14 utterances"),
    ],
)
def test_a_checkpoint_of_other_utterances_is_not_taken_up(cuts, finished, tmp_path, change, there):
    write_manifest(change(list(CutSet.from_file(cuts))), tmp_path / "cuts.jsonl.gz")
    with pytest.raises(InputError, match=f"other utterances .14 utterances, digest .* there, {there}, digest .* now"):
        make_trainer(tmp_path / "cuts.jsonl.gz", finished.parent)
    assert load_checkpoint(finished).step == 8


def test_the_same_utterances_in_another_place_are_taken_up(finished, tmp_path):
    trainer = make_trainer(write_corpus(tmp_path), finished.parent)
    assert trainer.step == 8 and trainer.run() == finished


def test_a_run_resumed_at_its_end_from_elsewhere_leaves_its_final_checkpoint(cuts, finished, tmp_path):
    final = make_trainer(cuts, tmp_path, resume=str(finished)).run()
    ours, given = load_checkpoint(final), load_checkpoint(finished)
    assert ours.step == 8 and all(torch.equal(ours.model[name], given.model[name]) for name in given.model)


def test_a_run_of_no_step_is_refused(cuts, tmp_path):
    settings = [setting for setting in TINY if not setting.startswith("train.steps")] + ["train.epochs=0.2"]
    with pytest.raises(InputError, match="train.epochs = 0.2 of 2 steps each make no step"):
        Trainer(load_config(None, settings), cuts, cuts.parent, tmp_path, PROCESS)


@pytest.mark.parametrize("name", ["student.encoder.linear.weight", "teacher.encoder.norm.running_var"])
def test_weights_that_are_not_finite_are_not_saved(cuts, tmp_path, name):
    trainer = make_trainer(cuts, tmp_path)
    update = trainer.model.update_teacher

    def broken_at_step_4(momentum):
        update(momentum)
        if trainer.step == 3:
            trainer.model.state_dict()[name].view(-1)[0] = float("inf")

    trainer.model.update_teacher = broken_at_step_4
    last = checkpoint_path(tmp_path / "checkpoints", 2)
    with pytest.raises(InputError, match=f"not finite after step 4 .{name}, 1 in all.*last good checkpoint: {last}"):
        trainer.run()
    assert latest_checkpoint(tmp_path / "checkpoints") == last and not (tmp_path / "final.pt").exists()


FILL_THE_DISK = """
import resource, signal
from sdpn_k2.training.trainer import Trainer
step = Trainer._train_step
def then_full(self, batch, diagnose):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    return step(self, batch, diagnose)
Trainer._train_step = then_full
from sdpn_k2.cli import main
main()
"""


def test_a_full_disk_is_one_line(cuts, tmp_path):
    arguments = command(cuts, tmp_path, "train.log_every=1", "train.checkpoint_every=8")[3:]
    arguments = [sys.executable, "-c", FILL_THE_DISK, *arguments]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1 and f"sdpn-k2: error: {tmp_path}: cannot write metrics.jsonl" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_experiment_folder_that_cannot_be_made_is_one_line(cuts):
    result = subprocess.run(command(cuts, Path("/dev/null/x")), capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("sdpn-k2: error: /dev/null/x: cannot make")
