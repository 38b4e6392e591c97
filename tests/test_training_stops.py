"""How training ends before its time: signals, errors, and what they leave behind."""

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdpn_k2.cli import cli
from sdpn_k2.engine.checkpoint import latest_checkpoint, load_checkpoint
from tiny_training import command, make_trainer, wait_for_checkpoint, write_corpus


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


BREAK_THE_STEP = """
from sdpn_k2.engine.trainer import Trainer
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
