"""Training that ends early: signals, errors, and the files that remain."""

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_training import command, make_trainer, wait_for_checkpoint, write_corpus

from sdpn_k2.cli import cli
from sdpn_k2.data.shar import write_shar
from sdpn_k2.errors import InputError
from sdpn_k2.models.checkpoint import latest_checkpoint, load_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_its_processes_saves_and_exits_with_75(tiny_cuts, tmp_path, number):
    arguments = command(tiny_cuts, tmp_path, "train.workers=1", "train.steps=100000")
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


@pytest.mark.slow
def test_an_error_in_the_step_ends_the_process_and_its_loader(tiny_cuts, tmp_path):
    arguments = command(tiny_cuts, tmp_path, "train.workers=1")[3:]
    result = subprocess.run([sys.executable, "-c", BREAK_THE_STEP, *arguments], capture_output=True, timeout=100)
    assert result.returncode == 1 and b"the step broke" in result.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_tar_header_costs_the_utterances_behind_it(tmp_path, workers):
    corpus = write_corpus(tmp_path, count=40)
    write_shar(corpus, tmp_path / "shards", 20, 0)
    tar = tmp_path / "shards" / "recording.000001.tar"
    data = bytearray(tar.read_bytes())
    with tarfile.open(tar) as archive:
        start = archive.getmembers()[2 * 19].offset  # of the shard's last utterance
    data[start : start + 100] = b"x" * 100
    tar.write_bytes(data)
    trainer = make_trainer(tmp_path / "shards", tmp_path / "exp", f"train.workers={workers}", "train.batch_size=20")
    trainer.run()
    (skipped,) = trainer._skipped.values()
    assert "recording.000001.tar: " in skipped.reason


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


@pytest.mark.slow
def test_a_full_disk_is_one_line(tiny_cuts, tmp_path):
    arguments = command(tiny_cuts, tmp_path, "train.log_every=1", "train.checkpoint_every=8")[3:]
    arguments = [sys.executable, "-c", FILL_THE_DISK, *arguments]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1 and f"sdpn-k2: error: {tmp_path}: " in result.stderr
    assert "metrics.jsonl" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["train", "shar"])
def test_a_folder_that_cannot_be_created_is_an_input_error(tiny_cuts, name):
    folder = f"{tiny_cuts}/below-a-file"
    arguments = ["train", "--device", "cpu"] if name == "train" else ["shar"]
    result = CliRunner().invoke(cli, [*arguments, str(tiny_cuts), folder])
    assert isinstance(result.exception, InputError) and f"{tiny_cuts}/" in str(result.exception)
