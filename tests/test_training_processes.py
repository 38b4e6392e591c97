"""Training by two processes that a scheduler started, each with its own command."""

import json
import os
import signal
import socket
import subprocess
import sys
from typing import List

import pytest
from tiny_training import command, make_trainer, wait_for_checkpoint

from sdpn_k2.models.checkpoint import latest_checkpoint, load_checkpoint

pytestmark = pytest.mark.slow


def start(*commands: list) -> List[subprocess.Popen]:
    """Start processes of rank 0, 1, …"""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = dict(
        os.environ,
        OMP_NUM_THREADS="1",
        GLOO_SOCKET_IFNAME="lo",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
        WORLD_SIZE=str(len(commands)),
    )
    return [
        subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(environment, RANK=str(rank))
        )
        for rank, arguments in enumerate(commands)
    ]


def finish(processes: List[subprocess.Popen]) -> List[str]:
    """Return what each wrote to stderr."""
    try:
        return [process.communicate(timeout=120)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_processes_that_start_differently_are_refused(tiny_cuts, tmp_path):
    processes = start(command(tiny_cuts, tmp_path), command(tiny_cuts, tmp_path, "train.base_lr=0.5"))
    for process, errors in zip(processes, finish(processes)):
        assert process.returncode == 1, errors
        assert "sdpn-k2: error: process 1 " in errors and "configuration" in errors and "Traceback" not in errors


def test_rank_0_chooses_the_checkpoint_and_writes(tiny_cuts, tmp_path):
    trainer = make_trainer(tiny_cuts, tmp_path / "exp")
    trainer.num_steps = 4
    trainer.run()
    processes = start(command(tiny_cuts, tmp_path / "exp"), command(tiny_cuts, tmp_path / "empty"))
    errors = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "resumed from" in errors[0] and load_checkpoint(tmp_path / "exp" / "final.pt").step == 8
    steps = [json.loads(line)["step"] for line in (tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8] and not list((tmp_path / "empty").rglob("*.pt"))


def test_a_dev_set_that_rank_0_cannot_read_ends_all(tiny_cuts, tmp_path):
    arguments = [*command(tiny_cuts, tmp_path / "exp"), "--dev", str(tmp_path)]
    processes = start(arguments, arguments)
    for rank, errors in enumerate(finish(processes)):
        assert processes[rank].returncode == 1 and f"{tmp_path}: no trial list" in errors
        assert ("process 0 failed: " in errors) == (rank == 1) and "Traceback" not in errors


ON_MAIN = """
import os, sys, time
from sdpn_k2.device import start_process
from sdpn_k2.errors import InputError
from sdpn_k2.training.distributed import Agreement
process = start_process("cpu")
together = Agreement(process)
assert together.on_main(lambda: process.rank) == (0 if process.is_main else None)
def end():
    if sys.argv[1] == "error":
        raise ValueError("it broke")
    os._exit(3)
try:
    together.on_main(end)
except (ValueError, InputError) as error:
    print(type(error).__name__, error, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "how, main, other",
    [("error", "ValueError it broke", "process 0 failed: it broke"), ("exit", "", "process 0 ended")],
)
def test_what_ends_rank_0_ends_those_that_wait_for_it(how, main, other):
    arguments = [sys.executable, "-c", ON_MAIN, how]
    errors = finish(start(arguments, arguments))
    assert main in errors[0] and f"InputError {other}" in errors[1]


def test_a_signal_to_one_process_stops_all_at_the_same_step(tiny_cuts, tmp_path):
    arguments = command(tiny_cuts, tmp_path, "train.steps=100000", "train.log_every=100000")
    processes = start(arguments, arguments)
    wait_for_checkpoint(tmp_path, processes[0], 2)
    processes[1].send_signal(signal.SIGTERM)
    errors = finish(processes)
    assert [process.returncode for process in processes] == [75, 75], errors
    load_checkpoint(latest_checkpoint(tmp_path / "checkpoints"))
