"""``sdpn-k2 doctor``: the machine and a run, examined before it starts."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from tiny_config import TINY, set_options
from tiny_training import write_corpus

from sdpn_k2.cli import cli
from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.data.multi_crop import StepBatches
from sdpn_k2.training.trainer import Trainer


@pytest.fixture(autouse=True)
def no_compilation(monkeypatch):
    """Do not compile, which takes ten seconds; return what the compiler's check says."""
    said = []
    monkeypatch.setattr("sdpn_k2.training.doctor.compiler_problem", lambda device: said[0] if said else None)
    return said


def test_doctor_says_that_torch_cannot_compile(no_compilation):
    assert "can compile" in doctor().output
    no_compilation.append("no C++ compiler found")
    result = doctor()
    assert result.exit_code == 0 and "uncompiled: no C++ compiler found" in result.output


def doctor(*arguments):
    result = CliRunner().invoke(cli, ["doctor", "--device", "cpu", *set_options(TINY), *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def problems(result):
    """The lines of the problems."""
    return [line for line in result.output.splitlines() if line.startswith("problem")]


def test_doctor_examines_machine_and_run(tiny_cuts, tmp_path):
    result = doctor("--exp", tmp_path / "exp", tiny_cuts)
    assert result.exit_code == 0 and not problems(result), result.output
    for expected in ("Python 3", "14 utterances, 2 steps per epoch, 8 steps (4.0 epochs)", "utterances/s", "whole run"):
        assert expected in result.output
    assert not (tmp_path / "exp").exists()
    assert "sdpn-k2 doctor CUTS" in doctor().output


def test_doctor_finds_what_would_stop_the_run(tiny_cuts, tmp_path):
    result = doctor("--set", "train.batch_size=64", tiny_cuts)
    assert result.exit_code == 1
    (problem,) = problems(result)
    assert "14 utterances" in problem and "train.batch_size = 64" in problem
    manifest = write_corpus(tmp_path, count=9)
    table = CutTable(manifest)
    first, *_ = next(iter(StepBatches(table, 6, 1, seed=0))).indices
    Path(table[first].recording.sources[0].source).write_bytes(b"no audio")
    result = doctor("--set", "train.batch_size=6", manifest)
    assert result.exit_code == 1
    assert any(line.startswith("problem  1 ") and f"'{table[first].id}'" in line for line in problems(result))


def test_doctor_names_the_micro_batch_for_a_full_gpu(tiny_cuts, monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "_train_step", full)
    (problem,) = problems(doctor(tiny_cuts))
    assert "6 utterances" in problem and "train.micro_batch_size=3 " in problem


def test_doctor_looks_at_the_disk_of_the_experiment(tiny_cuts, tmp_path, monkeypatch):
    asked = []

    def usage(path):
        asked.append(path)
        return SimpleNamespace(free=100)

    monkeypatch.setattr("shutil.disk_usage", usage)
    found = problems(doctor("--set", "train.workers=1", "--exp", tmp_path / "a" / "b", tiny_cuts))
    assert set(asked) == {tmp_path}
    assert any("checkpoints:" in line for line in found)
