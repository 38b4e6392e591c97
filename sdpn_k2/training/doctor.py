"""Check a training run before it starts: the machine, the data, the time of a step, memory and disk."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterator, NamedTuple, Optional

import torch
from torch import Tensor

from sdpn_k2.config import Config
from sdpn_k2.data.crop_loader import batch_bytes, batches_ahead, multi_crop_loader
from sdpn_k2.device import Process
from sdpn_k2.errors import InputError
from sdpn_k2.models.checkpoint import Checkpoint, save_checkpoint
from sdpn_k2.training.compilation import compiler_problem
from sdpn_k2.training.precision import resolve
from sdpn_k2.training.trainer import Trainer

TIMED_STEPS = 3
# Above this share of a step's time, loading is likely to hold training up.
MAX_LOADING_SHARE = 0.8


class Finding(NamedTuple):
    """One line of the output."""

    level: str  # ok, note or problem
    text: str


def examine(
    config: Config, cuts: Optional[Path], manifests: Optional[Path], process: Process, exp: Path
) -> Iterator[Finding]:
    """Examine the machine, and the run if there are training cuts."""
    yield from examine_machine(exp)
    if cuts is None:
        yield Finding("note", "only the machine was checked; to check a training run, use sdpn-k2 doctor CUTS")
        return
    try:
        yield from examine_run(config, cuts, manifests or cuts.parent, process, exp)
    except InputError as error:
        yield Finding("problem", str(error))


def examine_machine(exp: Path) -> Iterator[Finding]:
    """Examine Python, torch, devices, k2, ffmpeg and disk."""
    yield Finding("ok", f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPU cores")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            chosen = resolve("auto", torch.device("cuda", index))
            memory = f"{card.total_memory / 2**30:.0f} GB"
            yield Finding("ok", f"GPU {index}: {card.name}, {memory}; precision auto is {chosen}")
    else:
        chosen = resolve("auto", torch.device("cpu"))
        yield Finding("note", f"torch finds no GPU: training runs on the CPU, in {chosen}")
    problem = compiler_problem(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if problem is None:
        yield Finding("ok", "torch can compile (train.compile)")
    else:
        yield Finding("note", f"torch cannot compile, so training runs uncompiled: {problem}")
    if importlib.util.find_spec("k2") is None:
        yield Finding("note", "k2 is not installed: sdpn-k2 vad decodes in torch instead")
    else:
        yield Finding("ok", "k2 is installed")
    if shutil.which("ffmpeg") is None:
        yield Finding("note", "ffmpeg is not installed: m4a files (VoxCeleb2 as published) cannot be read")
    else:
        yield Finding("ok", "ffmpeg is installed")
    yield Finding("ok", f"{_free_gb(exp):.0f} GB free for {exp}")


def examine_run(config: Config, cuts: Path, manifests: Path, process: Process, exp: Path) -> Iterator[Finding]:
    """Check the configuration against the data, and time some steps to predict the run's time, memory and disk.

    Raises:
        InputError: an error that would also stop the run itself.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, cuts, manifests, Path(folder), process)
        yield from _data(trainer)

        start = time.perf_counter()
        batch = next(multi_crop_loader(trainer.dataset, trainer.batches, workers=0, pin=False))
        loading_seconds = time.perf_counter() - start
        if batch.skipped:
            key, reason = batch.skipped[0]
            text = f"{len(batch.skipped)} unusable utterances in the first batch; the first is '{key}': {reason}"
            yield Finding("problem", text)

        step_seconds = _mean_step_seconds(trainer)
        speed = f"{step_seconds:.2f} s, {trainer.batches.share / step_seconds:.0f} utterances/s"
        yield Finding("ok", f"one step: {speed}; peak memory {trainer.peak_memory_gb():.1f} GB")
        yield from _loading(trainer, loading_seconds, step_seconds)
        yield Finding("ok", f"whole run: about {step_seconds * trainer.num_steps / 3600:.1f} h")
        yield _checkpoints(trainer, Path(folder) / "size.pt", exp)


def _mean_step_seconds(trainer: Trainer) -> float:
    """Return the seconds of a step, as the mean over the run's lengths of crops."""
    key, growth = next(iter(trainer.batches)), trainer.config.crops.growth
    seconds = {
        share: trainer.time_steps(trainer.dataset[key._replace(share=share)], TIMED_STEPS) for share in set(growth)
    }
    return sum(seconds[share] for share in growth) / len(growth)


def _data(trainer: Trainer) -> Iterator[Finding]:
    steps, steps_per_epoch = trainer.num_steps, trainer.batches.steps_per_epoch
    yield Finding(
        "ok",
        f"{len(trainer.dataset.cuts)} utterances, {steps_per_epoch} steps per epoch, {steps} steps "
        f"({steps / steps_per_epoch:.1f} epochs)",
    )
    augment = trainer.banks.augment
    kinds = [*augment.banks, *(["rir"] if augment.rirs is not None else [])]
    if kinds:
        yield Finding("ok", f"augmentation: {', '.join(kinds)}")
    else:
        yield Finding("note", "no noise and no impulse responses; the only noise is babble from the batch")


def _loading(trainer: Trainer, loading_seconds: float, step_seconds: float) -> Iterator[Finding]:
    """Compare the time that loader processes need with that of a step, and say how much memory they share."""
    workers = trainer.config.train.workers
    share = loading_seconds / max(1, workers) / step_seconds
    yield _judge(
        share < MAX_LOADING_SHARE,
        f"loading a batch: {loading_seconds:.2f} s in one process; {max(1, workers)} need {share:.0%} of a step",
        advice="raise train.workers",
    )
    if workers:
        size = batch_bytes(trainer.dataset, trainer.batches.share)
        ahead = batches_ahead(workers, size)
        yield Finding("ok", f"loaded ahead: at most {ahead} batches, {ahead * size / 2**30:.2f} GB of memory")


def _checkpoints(trainer: Trainer, path: Path, exp: Path) -> Finding:
    """Compare the disk space that the kept checkpoints need with what is free. Write one to ``path`` to measure it."""
    train = trainer.config.train
    momentum: Dict[str, Tensor] = {f"momentum.{name}": p for name, p in trainer.model.student.named_parameters()}
    save_checkpoint(path, Checkpoint(0, trainer.config, trainer.model.state_dict(), momentum))
    kept = train.keep_checkpoints + 1
    if train.keep_every:
        kept += int(trainer.num_steps / trainer.batches.steps_per_epoch / train.keep_every)
    need, free = kept * path.stat().st_size / 2**30, _free_gb(exp)
    return _judge(
        need < free,
        f"checkpoints: {need:.1f} GB of disk at most, {free:.0f} GB free",
        advice="free space, or lower train.keep_checkpoints",
    )


def _judge(good: bool, text: str, *, advice: str) -> Finding:
    return Finding("ok", text) if good else Finding("problem", f"{text}: {advice}")


def _free_gb(path: Path) -> float:
    """Return the GB free on the disk where ``path`` is or would be."""
    existing = next(parent for parent in [path, *path.resolve().parents] if parent.exists())
    return shutil.disk_usage(existing).free / 2**30
