"""What a run will meet, found out before it starts: the machine, the data, one batch timed."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Iterator, Optional, Tuple

import torch

from sdpn_k2.config import Config
from sdpn_k2.data.multi_crop import PREFETCHED_BATCHES, multi_crop_loader
from sdpn_k2.device import Process
from sdpn_k2.errors import InputError
from sdpn_k2.models.checkpoint import Checkpoint, save_checkpoint
from sdpn_k2.training.precision import resolve
from sdpn_k2.training.trainer import Trainer

TIMED_STEPS = 3
SHARED_MEMORY = Path("/dev/shm")

Finding = Tuple[str, str]  # "ok", "note" or "problem"; what was found


def examine_machine(exp: Path) -> Iterator[Finding]:
    """Python, torch, devices, k2, ffmpeg, memory and disk."""
    yield "ok", f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPU cores"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            chosen = resolve("auto", torch.device("cuda", index))
            yield "ok", f"GPU {index}: {card.name}, {card.total_memory / 2**30:.0f} GB; precision auto is {chosen}"
    else:
        chosen = resolve("auto", torch.device("cpu"))
        yield "note", f"no GPU that torch can use: training runs on the CPU, in {chosen}"
    if importlib.util.find_spec("k2") is None:
        yield "note", "k2 is not installed: sdpn-k2 vad decodes in torch instead"
    else:
        yield "ok", "k2 is installed"
    if shutil.which("ffmpeg") is None:
        yield "note", "ffmpeg is not installed: m4a (VoxCeleb2 as published) cannot be read"
    else:
        yield "ok", "ffmpeg is installed"
    yield "ok", f"{_free_gb(exp):.0f} GB free for {exp}"


def _free_gb(path: Path) -> float:
    """GB free on the disk where ``path`` is or would be."""
    existing = next(parent for parent in [path, *path.resolve().parents] if parent.exists())
    return shutil.disk_usage(existing).free / 2**30


def examine_run(config: Config, cuts: Path, manifests: Path, process: Process, exp: Path) -> Iterator[Finding]:
    """The configuration against the data, and some steps timed on the device: time, memory and disk of the whole run.

    Raises:
        InputError: what would also stop the run itself.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, cuts, manifests, Path(folder), process)
        batches, augment = trainer.batches, trainer.banks.augment
        yield (
            "ok",
            (
                f"{len(trainer.dataset.cuts)} utterances, {batches.steps_per_epoch} steps an epoch, "
                f"{trainer.num_steps} steps ({trainer.num_steps / batches.steps_per_epoch:.1f} epochs)"
            ),
        )
        have = [*augment.banks, *(["rir"] if augment.rirs is not None else [])]
        yield (
            ("ok", f"augmentation: {', '.join(have)}")
            if have
            else ("note", "no noise and no impulse responses: augmentation is babble from the batch alone")
        )

        start = time.perf_counter()
        batch = next(multi_crop_loader(trainer.dataset, batches, workers=0, pin=False))
        loading = time.perf_counter() - start
        if batch.skipped:
            yield (
                "problem",
                f"{len(batch.skipped)} unusable utterances in the first batch; the first: {': '.join(batch.skipped[0])}",
            )
        seconds = trainer.time_steps(batch, TIMED_STEPS)
        size = config.train.batch_size // process.world_size
        yield (
            "ok",
            f"one step: {seconds:.2f} s, {size / seconds:.0f} utterances/s; peak memory {trainer.peak_memory_gb():.1f} GB",
        )
        workers = max(1, config.train.workers)
        share = loading / workers / seconds
        yield (
            ("ok" if share < 0.8 else "problem"),
            (
                f"loading a batch: {loading:.2f} s in one process, so {workers} loader processes take {share:.0%} of a step"
                + ("" if share < 0.8 else ": raise train.workers")
            ),
        )
        if config.train.workers and SHARED_MEMORY.is_dir():
            batch_bytes = sum(crops.numel() * crops.element_size() for crops in (batch.global_crops, batch.local_crops))
            need, free = config.train.workers * PREFETCHED_BATCHES * batch_bytes / 2**30, _free_gb(SHARED_MEMORY)
            yield (
                ("ok" if need < free else "problem"),
                (
                    f"batches that wait in {SHARED_MEMORY}: {need:.2f} GB at most, {free:.1f} GB free"
                    + ("" if need < free else ": lower train.workers, or give the container more shared memory")
                ),
            )
        yield "ok", f"whole run: about {seconds * trainer.num_steps / 3600:.1f} h"

        momentum = {f"momentum.{name}": p for name, p in trainer.model.student.named_parameters()}
        path = Path(folder) / "size.pt"
        save_checkpoint(path, Checkpoint(0, config, trainer.model.state_dict(), momentum))
        kept = config.train.keep_checkpoints + 1
        if config.train.keep_every:
            kept += int(trainer.num_steps / batches.steps_per_epoch / config.train.keep_every)
        need = kept * path.stat().st_size / 2**30
        free = _free_gb(exp)
        yield ("ok" if need < free else "problem"), f"checkpoints: {need:.1f} GB of disk at most, {free:.0f} GB free"


def examine(
    config: Config, cuts: Optional[Path], manifests: Optional[Path], process: Process, exp: Path
) -> Iterator[Finding]:
    """Machine, and run where there is data for it."""
    yield from examine_machine(exp)
    if cuts is None:
        yield "note", "no training cuts given: the run was not examined (sdpn-k2 doctor CUTS)"
        return
    try:
        yield from examine_run(config, cuts, manifests or cuts.parent, process, exp)
    except InputError as error:
        yield "problem", str(error)
