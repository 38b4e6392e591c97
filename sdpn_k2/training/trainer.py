"""The training loop: batches in, checkpoints out.

A step depends on the seed, the step's number and the weights alone (batches, crops and augmentation are drawn from
generators seeded by them), so a checkpoint needs no generator states and a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import resource
import signal
import time
import zlib
from collections import deque
from pathlib import Path
from typing import Dict, Iterator, Optional, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.config import Config, config_differences, config_to_yaml
from sdpn_k2.data.banks import Banks
from sdpn_k2.data.cut_selection import check_crop_lengths
from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.data.multi_crop import MultiCropBatch, MultiCropDataset, StepBatches, multi_crop_loader
from sdpn_k2.data.shar import SharTable
from sdpn_k2.device import Process
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output, make_folder
from sdpn_k2.methods.dino import DINO
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.models.checkpoint import (
    Checkpoint,
    checkpoint_path,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from sdpn_k2.progress import Progress
from sdpn_k2.training.dev_trials import DevTrials
from sdpn_k2.training.distributed import Agreement, average_gradients, synchronised
from sdpn_k2.training.gradient_cache import loss_and_gradients
from sdpn_k2.training.health import warn_of_collapse
from sdpn_k2.training.initialisation import initial_weights
from sdpn_k2.training.metrics_log import MetricsLog
from sdpn_k2.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from sdpn_k2.training.precision import autocast
from sdpn_k2.training.schedules import cosine, warmup_cosine
from sdpn_k2.training.views import Views, on_device

log = logging.getLogger(__name__)

MAX_SKIPPED_SHARE = 0.05
# Utterances after which the share of skipped ones is judged.
SKIPPED_GRACE_UTTERANCES = 200
# Steps that compilation (a minute or two) must have ahead of it to pay.
COMPILE_MIN_STEPS = 2000
# What a resumed run may change: how it is computed and reported, not what; micro-batches come nearest to an exception,
# since batch normalisation sees one at a time.
RESUME_MAY_CHANGE = {
    "train.workers",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.keep_every",
    "train.evaluate_every",
    "train.compile",
    "train.micro_batch_size",
}


class Interrupted(Exception):
    """SIGTERM or SIGUSR1 came; a checkpoint was written."""


class Trainer:
    """One run of training in ``exp``."""

    def __init__(
        self,
        config: Config,
        cuts: Path,
        manifests: Path,
        exp: Path,
        process: Process,
        resume: str = "auto",
        dev: Optional[Path] = None,
        init: Optional[Path] = None,
    ):
        """
        Args:
            config: resolved configuration.
            cuts: manifest of the training cuts, or a folder of Shar shards.
            manifests: folder with the manifests of noise and impulse responses, where there are any.
            exp: experiment folder.
            process: this process.
            resume: ``auto`` takes the run up from the newest checkpoint in ``exp``, where there is one; ``none`` starts
                anew (checkpoints already there are an error); else a checkpoint to take up.
            init: checkpoint whose weights a run starts from that is not resumed.
            dev: Kaldi data directory with trials (and feats.scp or wav.scp), on which the teacher is evaluated on the way.

        Raises:
            InputError: unusable data, a checkpoint in ``exp`` of another configuration or of other data, or a run of
                no step.
        """
        self.config, self.exp, self.process = config, exp, process
        self.checkpoints = exp / "checkpoints"
        make_folder(self.checkpoints)
        # Of shards only what is trained on is read.
        field = "recording" if config.input == "waveform" else "features"
        table = SharTable(cuts, [field]) if cuts.is_dir() else CutTable(cuts)
        self.dataset = MultiCropDataset(table, config)
        self.data, longest = _describe(table)
        steps_per_epoch = len(table) // config.train.batch_size
        self.num_steps = config.train.steps
        if self.num_steps is None:
            self.num_steps = round(config.train.epochs * steps_per_epoch)

        torch.manual_seed(config.seed)
        method = {"sdpn": SDPN, "dino": DINO}[config.method](config)
        self.model = synchronised(method, process).to(process.device)
        self.optimizer = make_optimizer(self.model, config.train)
        self.step = 0
        self._together = Agreement(process)
        self._resume(resume)
        if init is not None and self.step == 0:
            self.model.load_state_dict(initial_weights(init, config, self.model.state_dict()))
            log.info("started from the weights of %s", init)
        same = dataclasses.replace(config, train=dataclasses.replace(config.train, workers=0))
        self._together.require_same(
            {
                "configuration": f"{zlib.crc32(config_to_yaml(same).encode()):08x}",
                "data": self.data,
                "step": self.step,
                "weights": f"{_checksum(self.model.state_dict()):08x}",
            }
        )
        self.batches = StepBatches(
            table,
            config.train.batch_size,
            self.num_steps,
            seed=config.seed,
            first_step=self.step,
            rank=process.rank,
            world_size=process.world_size,
        )
        check_crop_lengths(config, longest)
        if self.num_steps < 1:
            raise InputError(
                f"train.epochs = {config.train.epochs:g} of {steps_per_epoch} steps each make no step: "
                "take more of them, or set train.steps"
            )
        share = config.train.batch_size // process.world_size
        if share % (config.train.micro_batch_size or share):
            raise InputError(
                f"train.micro_batch_size = {config.train.micro_batch_size} does not divide a process's "
                f"share of the batch, {share} utterances"
            )
        self._compile()
        if dev is not None and config.train.evaluate_every % config.train.checkpoint_every:
            raise InputError(
                f"train.evaluate_every = {config.train.evaluate_every} is not a multiple of "
                f"train.checkpoint_every = {config.train.checkpoint_every}: only what is saved can be kept "
                "as the best"
            )
        self.dev = DevTrials(dev, config, process.device) if dev is not None and process.is_main else None
        self.banks = Banks(manifests, config, process.device, self.step)
        self.views = Views(config, self.banks.augment).to(process.device)
        self._stop_signal: Optional[int] = None
        self._skipped: Dict[str, str] = {}
        self._recent_ids: deque = deque(maxlen=config.train.log_every)

    def run(self) -> Path:
        """Train to the end; returns ``exp/final.pt``, a link to the last checkpoint.

        Raises:
            InputError: loss not finite, too many unusable utterances, a checkpoint cannot be written.
            Interrupted: SIGTERM or SIGUSR1; a checkpoint was written.
        """
        if self.process.is_main:
            with atomic_output(self.exp / "config.yaml", "w") as stream:
                stream.write(config_to_yaml(self.config))
        previous = {number: signal.signal(number, self._remember_signal) for number in (signal.SIGTERM, signal.SIGUSR1)}
        try:
            if self.step < self.num_steps:
                with self._full_memory_explained():
                    self._train()
            elif not checkpoint_path(self.checkpoints, self.step).exists():
                self._save()  # resumed at its end, from another folder
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._link_final()

    def _train(self) -> None:
        train, process = self.config.train, self.process
        loader = multi_crop_loader(self.dataset, self.batches, train.workers, pin=process.device.type == "cuda")
        batches = on_device(loader, process.device)
        metrics = MetricsLog(self.exp, self.step) if process.is_main else None
        progress = Progress(self.num_steps, "training, steps", self.step) if process.is_main else None
        log.info(
            "training from step %d to %d, batch %d, on %s", self.step, self.num_steps, train.batch_size, process.device
        )
        self.model.train()
        since, logged_step, waited = time.perf_counter(), self.step, 0.0
        try:
            while self.step < self.num_steps:
                asked = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - asked
                self._note_skipped(batch)
                last = self.step + 1 == self.num_steps
                logging_step = (self.step + 1) % train.log_every == 0 or last
                loss, statistics = self._train_step(batch, logging_step)
                self.step += 1
                if logging_step or process.device.type == "cpu":
                    self._check_finite(loss, statistics["gradient_norm"])
                if process.is_main and logging_step:
                    elapsed = time.perf_counter() - since
                    count = (self.step - logged_step) * train.batch_size
                    values = {name: float(value) for name, value in statistics.items()}
                    values.update(
                        utterances_per_second=count / elapsed,
                        data_wait_share=waited / elapsed,
                        skipped_utterances=len(self._skipped),
                        peak_memory_gb=self.peak_memory_gb(),
                    )
                    warn_of_collapse(self.step, values, self._num_prototypes(), train.batch_size)
                    metrics.write(self.step, values)
                    since, logged_step, waited = time.perf_counter(), self.step, 0.0
                if process.is_main:
                    progress.update(**({"loss": f"{float(loss):.4f}"} if logging_step else {}))
                stopping = self._together.any(self._stop_signal is not None)
                if self.step % train.checkpoint_every == 0 or last or stopping:
                    self._check_finite(loss, statistics["gradient_norm"])
                    self._save()
                if last or stopping:
                    self._together.wait()  # a launcher ends the others when one process leaves
                if self.dev is not None and (self.step % (train.evaluate_every or train.checkpoint_every) == 0 or last):
                    self._evaluate(metrics)
                if stopping and not last:
                    name = signal.Signals(self._stop_signal).name if self._stop_signal else "another process's signal"
                    raise Interrupted(
                        f"stopped by {name} after step {self.step}; run again to go on from "
                        f"{checkpoint_path(self.checkpoints, self.step)}"
                    )
        finally:
            if process.is_main:
                metrics.close()
                progress.close()

    def _train_step(self, batch: MultiCropBatch, diagnose: bool):
        """One step; returns the loss and, as scalars on the device, its statistics."""
        train, step = self.config.train, self.step
        global_batch = train.batch_size
        peak = train.base_lr * global_batch / 256
        lr = warmup_cosine(step, self.num_steps, round(train.warmup * self.num_steps), peak, train.final_lr)
        set_learning_rate(self.optimizer, lr)
        ema_momentum = cosine(step, self.num_steps, *train.ema_momentum)

        self.banks.rotate(step)
        rng = np.random.default_rng([self.config.seed, self.process.rank, step])
        global_view, local_views = self.views(batch, rng)
        self.optimizer.zero_grad(set_to_none=True)
        context = autocast(train.precision, self.process.device)
        loss, statistics = loss_and_gradients(
            self.model, global_view, local_views, context, train.micro_batch_size, diagnose
        )
        for parameter in self.model.frozen_parameters(step // self.batches.steps_per_epoch):
            parameter.grad = None
        average_gradients(self.model.parameters(), self.process)
        gradient_norm = clip_gradients(self.model.student, train.clip_norm)
        self.optimizer.step()
        self.model.update_teacher(ema_momentum)
        return loss, {**statistics, "gradient_norm": gradient_norm, "lr": lr, "ema_momentum": ema_momentum}

    @contextlib.contextmanager
    def _full_memory_explained(self) -> Iterator[None]:
        """A full GPU is an InputError that names the micro-batch to take."""
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            share = self.config.train.batch_size // self.process.world_size
            size = self.config.train.micro_batch_size or share
            smaller = max((n for n in range(2, size // 2 + 1) if share % n == 0), default=None)
            advice = (
                f"take --set train.micro_batch_size={smaller} (the batch stays as it is)"
                if smaller is not None
                else f"no smaller micro-batch divides a process's {share} utterances, so take another train.batch_size"
            )
            raise InputError(f"the GPU's memory is too small for {size} utterances at once: {advice}") from error

    def _check_finite(self, loss: Tensor, gradient_norm: Tensor) -> None:
        name = "loss" if not torch.isfinite(loss) else "gradient" if not torch.isfinite(gradient_norm) else None
        if name is not None:
            kept = latest_checkpoint(self.checkpoints)
            since = "" if self.process.device.type == "cpu" else f", or up to {len(self._recent_ids) - 1} steps before"
            raise InputError(
                f"the {name} is not finite at step {self.step}{since}; last good checkpoint: {kept or 'none yet'}; "
                f"utterances of that step: {' '.join(self._recent_ids[-1][:5])} …; "
                "lower train.base_lr or look at their audio"
            )

    def _note_skipped(self, batch: MultiCropBatch) -> None:
        self._recent_ids.append(batch.ids)
        for utterance, reason in batch.skipped:
            if utterance not in self._skipped:
                self._skipped[utterance] = f"{utterance}: {reason}"
                log.warning("skipped utterance %s: %s", utterance, reason)
        seen = min(len(self.dataset.cuts), (self.step + 1) * self.config.train.batch_size)
        if len(self._skipped) > MAX_SKIPPED_SHARE * seen and seen >= min(
            SKIPPED_GRACE_UTTERANCES, len(self.dataset.cuts)
        ):
            raise InputError(
                f"{len(self._skipped)} of {seen} utterances could not be read, more than "
                f"{MAX_SKIPPED_SHARE:.0%}; the first: {next(iter(self._skipped.values()))}"
            )

    def _remember_signal(self, number: int, frame) -> None:
        self._stop_signal = number

    def _num_prototypes(self) -> int:
        return self.config.objective.num_prototypes if self.config.method == "sdpn" else self.config.dino.num_outputs

    def time_steps(self, batch: MultiCropBatch, count: int) -> float:
        """Median seconds of ``count`` training steps on ``batch``, after one that does not count; spoils the weights."""
        self.model.train()
        batch = next(on_device([batch], self.process.device))
        seconds = []
        for _ in range(count + 1):
            start = time.perf_counter()
            with self._full_memory_explained():
                loss, _ = self._train_step(batch, False)
                float(loss)  # waits for the device
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[1:]))

    def peak_memory_gb(self) -> float:
        """The most memory in use so far: of the GPU, or of this process."""
        if self.process.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.process.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def _compile(self) -> None:
        """Compile the networks where it pays. Names of parameters stay as they are."""
        choice = self.config.train.compile
        pays = self.process.device.type == "cuda" and self.num_steps - self.step >= COMPILE_MIN_STEPS
        if choice == "on" or (choice == "auto" and pays):
            if not hasattr(torch.nn.Module, "compile"):
                raise InputError(f"train.compile: torch {torch.__version__} cannot compile modules; set it to off")
            self.model.student.compile()
            self.model.teacher.compile()

    def _resume(self, resume: str) -> None:
        newest = self._together.from_main(latest_checkpoint(self.checkpoints))
        path = newest if resume in ("auto", "none") else Path(resume)
        if path is None:
            return
        if resume == "none":
            raise InputError(f"{path} is there, but --resume none starts anew: take another folder, or remove it")
        checkpoint = load_checkpoint(path)
        differences = [
            f"{key} ({old} there, {new} now)"
            for key, old, new in config_differences(checkpoint.config, self.config)
            if key not in RESUME_MAY_CHANGE
        ]
        if differences:
            raise InputError(
                f"{path} was trained with another configuration: {', '.join(differences)}; "
                "take another folder, or --resume none in an empty one"
            )
        if checkpoint.data not in ("", self.data):
            raise InputError(
                f"{path} was trained on other utterances ({checkpoint.data} there, {self.data} now): take "
                f"another folder, or remove {self.checkpoints} to train anew"
            )
        if newest is not None and newest.name > checkpoint_path(self.checkpoints, checkpoint.step).name:
            raise InputError(
                f"--resume {path}: {newest} is of a later step, and --resume auto would go on from there: "
                "take another folder, or remove the later checkpoints"
            )
        self.model.load_state_dict(checkpoint.model)
        for name, parameter in self.model.named_parameters():
            if name in checkpoint.momentum:
                buffer = checkpoint.momentum[name].to(parameter.device)
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.step = checkpoint.step
        log.info("resumed from %s", path)

    def _save(self) -> None:
        bad = [name for name, values in self.model.state_dict().items() if not torch.isfinite(values).all()]
        if bad:
            kept = latest_checkpoint(self.checkpoints)
            raise InputError(
                f"the weights are not finite after step {self.step} ({bad[0]}, {len(bad)} in all); "
                f"last good checkpoint: {kept or 'none yet'}; lower train.base_lr"
            )
        if not self.process.is_main:
            return
        momentum = {
            name: self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.model.named_parameters()
            if "momentum_buffer" in self.optimizer.state.get(parameter, {})
        }
        path = checkpoint_path(self.checkpoints, self.step)
        save_checkpoint(path, Checkpoint(self.step, self.config, self.model.state_dict(), momentum, self.data))
        period = round(self.config.train.keep_every * self.batches.steps_per_epoch)
        remove_old_checkpoints(self.checkpoints, self.config.train.keep_checkpoints, period)
        log.info("wrote %s", path)

    def _evaluate(self, metrics: MetricsLog) -> None:
        """EER of the teacher on the dev trials; the best checkpoint so far stays as ``exp/best.pt``."""
        value = self.dev.eer(self.model.teacher.encoder)
        metrics.write(self.step, {"dev_eer": value})
        log.info("step %d: dev EER %.2f %%", self.step, value)
        record = self.exp / "best_dev_eer"
        best = float(record.read_text().split()[0]) if record.is_file() else float("inf")
        path = checkpoint_path(self.checkpoints, self.step)
        if value < best and path in list_checkpoints(self.checkpoints):
            link = self.exp / ".best.pt.new"
            link.unlink(missing_ok=True)
            os.link(path, link)
            link.replace(self.exp / "best.pt")
            with atomic_output(record, "w") as stream:
                stream.write(f"{value:.4f} {path.name}\n")

    def _link_final(self) -> Path:
        final = self.exp / "final.pt"
        if self.process.is_main:
            link = self.exp / ".final.pt.new"
            link.unlink(missing_ok=True)
            link.symlink_to(checkpoint_path(self.checkpoints, self.num_steps).relative_to(self.exp))
            link.replace(final)
        return final


def _describe(table: Union[CutTable, SharTable]) -> Tuple[str, float]:
    """How many utterances there are, and a digest of their ids, spans and order, not of where they lie; the longest (s)."""
    digest, longest = hashlib.blake2b(digest_size=8), 0.0
    for span in table.spans():
        digest.update(repr(span).encode())
        longest = max(longest, span[2])
    return f"{len(table)} utterances, digest {digest.hexdigest()}", longest


def _checksum(state: Dict[str, Tensor]) -> int:
    """CRC-32 of tensors' bytes."""
    checksum = 0
    for tensor in state.values():
        checksum = zlib.crc32(np.ascontiguousarray(tensor.cpu().numpy()), checksum)
    return checksum
