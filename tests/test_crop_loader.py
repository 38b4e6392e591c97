"""Loader processes: the same batches in bounded memory, and what happens to those that die or wait for ever."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from lhotse import CutSet, Recording
from tiny_config import TINY
from tiny_training import command, wait_for_checkpoint, write_corpus

from sdpn_k2.config import load_config
from sdpn_k2.data import crop_loader
from sdpn_k2.data.crop_loader import batch_bytes, batches_ahead, multi_crop_loader
from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.data.multi_crop import MultiCropDataset, StepBatches
from sdpn_k2.errors import InputError


def load(cuts, workers, steps=30, *overrides, **options):
    dataset = MultiCropDataset(CutTable(cuts), load_config(None, [*TINY, *overrides]))
    return multi_crop_loader(dataset, StepBatches(dataset.cuts, 6, steps, seed=0), workers, pin=False, **options)


def children():
    """The process ids of the loaders of this process."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


@pytest.mark.parametrize("ahead", [None, 1])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", ["waveform", "fbank"])
def test_processes_load_the_same_batches(tiny_fbank_cuts, monkeypatch, kind, workers, ahead):
    """Batches that the reader keeps stay as they were, although their shared memory is used again."""
    if ahead:
        monkeypatch.setattr(crop_loader, "SHARED_BYTES", 1)
    before = children()
    expected, found = (list(load(tiny_fbank_cuts, n, 30, f"input={kind}")) for n in (0, workers))
    assert len(expected) == len(found) == 30
    for one, other in zip(expected, found):
        assert torch.equal(one.global_crops, other.global_crops) and torch.equal(one.local_crops, other.local_crops)
        assert (one.ids, one.skipped) == (other.ids, other.skipped)
    assert children() == before


@pytest.mark.parametrize("kind", ["waveform", "fbank"])
def test_the_size_of_a_batch_is_known_beforehand(tiny_fbank_cuts, kind):
    dataset = MultiCropDataset(CutTable(tiny_fbank_cuts), load_config(None, [*TINY, f"input={kind}"]))
    (batch,) = load(tiny_fbank_cuts, 0, 1, f"input={kind}")
    held = sum(crops.numel() * crops.element_size() for crops in (batch.global_crops, batch.local_crops))
    assert batch_bytes(dataset, 6) == held


@pytest.mark.parametrize(
    "workers, size, expected", [(2, 1 << 20, 8), (8, 1 << 20, 32), (8, 150 << 20, 13), (16, 2 << 30, 16)]
)
def test_batches_ahead_are_bounded_by_memory(workers, size, expected):
    assert batches_ahead(workers, size) == expected


def test_a_killed_process_is_an_input_error(tiny_cuts):
    before = children()
    batches = load(tiny_cuts, 2)
    next(batches)
    os.kill([pid for pid in children() if pid not in before][1], signal.SIGKILL)
    with pytest.raises(InputError, match=r"killed \(signal 9\).*lower train.workers"):
        list(batches)
    assert children() == before


def test_a_failing_process_is_an_error_not_a_wait(tiny_cuts, monkeypatch):
    monkeypatch.setattr(MultiCropDataset, "__getitem__", lambda *_: 1 // 0)
    with pytest.raises(RuntimeError, match="a loader process failed"):
        next(load(tiny_cuts, 2))


def test_memory_that_the_machine_refuses_is_an_input_error(tiny_cuts, monkeypatch):
    monkeypatch.setattr(crop_loader, "batches_ahead", lambda *_: 1 << 40)
    with pytest.raises(InputError, match="cannot start 2 loader processes with .* GB .*lower train.workers"):
        next(load(tiny_cuts, 2))


def waiting_corpus(folder):
    """Return cuts of which one is a FIFO that nobody writes."""
    cuts = write_corpus(folder, count=6)
    path = folder / "waits.wav"
    first, *others = CutSet.from_file(cuts)
    os.rename(first.recording.sources[0].source, path)
    write_manifest([Recording.from_file(path).to_cut(), *others], cuts)
    path.unlink()
    os.mkfifo(path)
    return cuts


def test_a_reader_that_stops_does_not_wait(tmp_path):
    asked = []
    before = children()
    assert list(load(waiting_corpus(tmp_path), 1, stopping=lambda: asked.append(1) or len(asked) == 2)) == []
    assert len(asked) == 2 and children() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_heard_while_data_are_awaited(tmp_path, number):
    arguments = command(waiting_corpus(tmp_path), tmp_path / "exp", "train.workers=2")
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "training from step 0" in line:
            break
    process.send_signal(number)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 75 and "after step 0" in errors and "Traceback" not in errors, errors
    assert (tmp_path / "exp" / "checkpoints" / "step-00000000.pt").is_file()


@pytest.mark.slow
def test_a_killed_loader_ends_training_in_one_line(tiny_cuts, tmp_path):
    arguments = command(tiny_cuts, tmp_path, "train.workers=1", "train.steps=100000")
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(tmp_path, process, 1)
    (loader,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(loader), signal.SIGKILL)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and "Traceback" not in errors
    assert re.search("^sdpn-k2: error: a loader process was killed", errors, re.MULTILINE), errors


@pytest.mark.slow
def test_loaders_end_with_a_killed_trainer(tiny_cuts, tmp_path):
    process = subprocess.Popen(command(tiny_cuts, tmp_path, "train.workers=2", "train.steps=100000"))
    wait_for_checkpoint(tmp_path, process, 1)
    loaders = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    assert len(loaders) == 2
    while any(Path(f"/proc/{pid}").exists() for pid in loaders):
        time.sleep(0.05)
