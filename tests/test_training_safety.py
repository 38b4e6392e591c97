"""Training beside damaged checkpoints, other runs, hung storage, impatient people and missing compilers."""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lhotse import CutSet
from tiny_training import command, copy_run, make_trainer, same_weights

from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.errors import InputError
from sdpn_k2.training import compilation, trainer

PATCHED = """
import sys, time
from sdpn_k2.training.trainer import Trainer
{patch}
from sdpn_k2.cli import main
main()
"""


def start(arguments, patch: str = "", **options) -> subprocess.Popen:
    """Start a training in the foreground, where SIGINT is not ignored."""
    return subprocess.Popen(
        [sys.executable, "-c", PATCHED.format(patch=patch), *arguments[3:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def wait_for(process: subprocess.Popen, text: str) -> None:
    """Wait for a line of the training's log."""
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"the run ended before it said '{text}'")


@pytest.fixture
def fifo_cuts(tiny_cuts, tmp_path) -> Path:
    """The tiny corpus, of which every recording is a FIFO that nobody writes."""
    os.mkfifo(tmp_path / "fifo.wav")
    cuts = list(CutSet.from_file(tiny_cuts))
    for cut in cuts:
        cut.recording.sources[0].source = str(tmp_path / "fifo.wav")
    write_manifest(cuts, tmp_path / "cuts.jsonl.gz")
    return tmp_path / "cuts.jsonl.gz"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_while_storage_hangs(fifo_cuts, tmp_path, workers, number):
    process = start(command(fifo_cuts, tmp_path / "exp", f"train.workers={workers}"))
    wait_for(process, "training from step 0")
    time.sleep(0.5)
    process.send_signal(number)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert time.monotonic() - began < 30 and number.name in errors and "Traceback" not in errors
    assert (tmp_path / "exp/checkpoints/step-00000000.pt").is_file()


@pytest.mark.slow
def test_a_second_interrupt_ends_the_run_at_once(tiny_cuts, tmp_path):
    slow = "Trainer._save = lambda self: (print('saving', file=sys.stderr, flush=True), time.sleep(100))"
    process = start(command(tiny_cuts, tmp_path / "exp", "train.workers=0", "train.checkpoint_every=9999"), slow)
    wait_for(process, "training from step 0")
    process.send_signal(signal.SIGINT)
    wait_for(process, "saving")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT


def test_interrupt_and_terminate_together_save(tiny_cuts, tmp_path):
    """A launcher passes on Ctrl-C as SIGTERM, while the terminal sends SIGINT to all: that is one request."""
    run = make_trainer(tiny_cuts, tmp_path / "exp")
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with run._signals_remembered():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            assert run._stop_signal == signal.SIGINT
            run._stop_signal = None
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("size", [0, 1000])
def test_the_checkpoint_before_a_damaged_one_is_used(tiny_cuts, tiny_run, tmp_path, size, caplog):
    exp = copy_run(tiny_run, tmp_path / "exp")
    newest = sorted((exp / "checkpoints").glob("*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:size])
    final = make_trainer(tiny_cuts, exp).run()
    (warning,) = [
        record.message
        for record in caplog.records
        if record.levelno == logging.WARNING and "collapse" not in record.message
    ]
    assert newest.name in warning and f"{newest.name}.damaged" in warning
    assert same_weights(final, tiny_run) and newest.with_name(f"{newest.name}.damaged").stat().st_size == size


def test_damaged_checkpoints_only(tiny_cuts, tiny_run, tmp_path):
    exp = copy_run(tiny_run, tmp_path / "exp")
    paths = sorted((exp / "checkpoints").glob("*.pt"))
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(InputError, match=f"{paths[-1]}: .*remove {exp}/checkpoints"):
        make_trainer(tiny_cuts, exp)
    assert sorted((exp / "checkpoints").glob("*.pt")) == paths


def test_one_training_in_a_folder(tiny_cuts, tmp_path):
    first, second = (make_trainer(tiny_cuts, tmp_path / "exp") for _ in range(2))
    with first.folder.locked():
        with pytest.raises(InputError, match=rf"exp: another .*process {os.getpid()} on {os.uname().nodename}\)"):
            second.run()
    second.run()


def test_the_lock_of_a_killed_run_is_taken_over(tiny_cuts, tmp_path):
    """Its loader processes do not keep the lock, either."""
    exp = tmp_path / "exp"
    exp.mkdir()
    script = (
        "import os, sys, time; from pathlib import Path; from sdpn_k2.files import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'x'):\n"
        "    child = os.fork() or time.sleep(60)\n"
        "    print(child, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, exp / ".lock"], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        run = make_trainer(tiny_cuts, exp)
        with pytest.raises(InputError, match=f"process {process.pid} on "):
            run.run()
        process.kill()
        process.wait()
        run.run()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_file_system_without_links_and_locks(tiny_cuts, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    run = make_trainer(tiny_cuts, tmp_path / "exp")
    final = run.run()
    assert not final.is_symlink() and same_weights(final, sorted((tmp_path / "exp/checkpoints").glob("*.pt"))[-1])
    run.folder.keep_best(run.step, 1.0)
    assert same_weights(tmp_path / "exp" / "best.pt", final)
    make_trainer(tiny_cuts, tmp_path / "exp").run()


def test_without_a_compiler_training_goes_on(tiny_cuts, tiny_run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trainer, "compiler_problem", lambda device: "no C++ compiler found")
    final = make_trainer(tiny_cuts, tmp_path / "exp", "train.compile=on").run()
    (warning,) = [
        record.message
        for record in caplog.records
        if record.levelno == logging.WARNING and "collapse" not in record.message
    ]
    assert "train.compile=on" in warning and "no C++ compiler found" in warning
    assert same_weights(final, tiny_run)


@pytest.mark.skipif(not hasattr(torch.nn.Module, "compile"), reason="this torch cannot compile")
def test_a_missing_compiler_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    script = (
        "import torch, torch._inductor.config as c; from sdpn_k2.training.compilation import compiler_problem\n"
        "c.cpp.cxx = ('/none/such/compiler',)\n"
        "problem = compiler_problem(torch.device('cpu')); print(problem); assert problem and '\\n' not in problem"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_old_torch_cannot_compile(monkeypatch):
    monkeypatch.delattr(torch.nn.Module, "compile", raising=False)
    compilation.compiler_problem.cache_clear()
    assert "cannot compile" in compilation.compiler_problem(torch.device("cpu"))
    compilation.compiler_problem.cache_clear()
