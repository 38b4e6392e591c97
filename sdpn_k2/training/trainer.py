"""The training loop: batches in, checkpoints out.

A step depends only on the seed, the step's number and the weights: batches, crops and augmentation are drawn from
generators that these seed. So a checkpoint needs no generator states, and a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import resource
import signal
import time
import zlib
from collections import deque
from pathlib import Path
from typing import Any, Deque, Dict, Iterator, List, NoReturn, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.config import Config, config_to_yaml
from sdpn_k2.data.banks import Banks
from sdpn_k2.data.crop_loader import multi_crop_loader
from sdpn_k2.data.cut_selection import check_crop_lengths
from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.data.multi_crop import MultiCropBatch, MultiCropDataset, StepBatches
from sdpn_k2.data.shar import SharTable
from sdpn_k2.device import Process, device_name
from sdpn_k2.errors import InputError, Skipped, check_skipped, error_context
from sdpn_k2.methods import METHODS, Method
from sdpn_k2.models.checkpoint import Checkpoint, load_weights
from sdpn_k2.provenance import provenance
from sdpn_k2.training.compilation import compiler_problem
from sdpn_k2.training.dev_trials import DevTrials
from sdpn_k2.training.distributed import Agreement, average_gradients, synchronised
from sdpn_k2.training.gradient_cache import micro_batch_gradients
from sdpn_k2.training.initialisation import initial_weights
from sdpn_k2.training.optimizer import (
    clip_gradients,
    make_optimizer,
    momentum_buffers,
    set_learning_rate,
    set_momentum_buffers,
)
from sdpn_k2.training.precision import autocast, resolve
from sdpn_k2.training.run_folder import RunFolder
from sdpn_k2.training.run_log import RunLog
from sdpn_k2.training.schedules import cosine, warmup_cosine
from sdpn_k2.training.sessions import Session, write_session
from sdpn_k2.training.views import Views, on_device

log = logging.getLogger(__name__)

# The share of skipped utterances is judged once this many have been seen.
SKIPPED_GRACE_UTTERANCES = 200
# Compilation takes a minute or two, which pays off in runs of at least this many steps.
COMPILE_MIN_STEPS = 2000
# Every crop length has graphs of its own; at this number, further ones would run uncompiled.
MAX_GRAPHS = 64


class Interrupted(Exception):
    """The run stopped on SIGTERM, SIGUSR1 or SIGINT, after writing a checkpoint."""


class Trainer:
    """One training run."""

    def __init__(
        self,
        config: Config,
        cuts: Path,
        manifests: Path,
        exp: Path,
        process: Process,
        *,
        resume: str = "auto",
        dev: Optional[Path] = None,
        init: Optional[Path] = None,
        command: str = "",
    ):
        """Prepare a run, or the continuation of one.

        Args:
            config: resolved configuration.
            cuts: manifest of the training cuts, or a folder of Shar shards.
            manifests: folder with the manifests of noise and impulse responses, if there are any.
            exp: experiment folder.
            process: this process.
            resume: ``auto`` continues from the newest checkpoint in ``exp``, if there is one; ``none`` starts a new run
                and fails if ``exp`` has checkpoints; anything else is the path of the checkpoint to continue from.
            dev: Kaldi data directory with trials (and feats.scp or wav.scp) on which to evaluate the teacher, or a
                trial list in one.
            init: checkpoint whose weights a new run starts from.
            command: command line, for the record.

        Raises:
            InputError: unusable data; settings that do not suit the data, the processes or this torch; a checkpoint in
                ``exp`` of another configuration or of other data.
        """
        self.config, self.exp, self.process, self.command = config, exp, process, command
        if config.train.deterministic == "on":
            _require_deterministic_algorithms()
        self._stop_signal: Optional[int] = None
        self._skipped: Dict[str, Skipped] = {}
        self._recent_ids: Deque[List[str]] = deque(maxlen=config.train.log_every)
        self._open_data(cuts)
        self._check_settings(dev)
        self._together = Agreement(process)
        self.folder = RunFolder(exp, config, self.data)
        self._make_model()
        self._open_dev(dev)
        self._resume(resume, init)
        self._require_same_start()
        self._compile()
        self._make_views(manifests)

    def _open_data(self, cuts: Path) -> None:
        """Open the cuts, and plan the batches of the whole run."""
        config, process = self.config, self.process
        # Read only the field of the shards that training uses.
        field = "recording" if config.input == "waveform" else "features"
        table = SharTable(cuts, [field]) if cuts.is_dir() else CutTable(cuts)
        self.cuts = cuts
        self.dataset = MultiCropDataset(table, config)
        self.data = f"{len(table)} utterances, digest {table.digest}"
        self.longest_seconds = table.longest_seconds
        steps_per_epoch = len(table) // config.train.batch_size
        self.num_steps = config.train.steps or round(config.train.epochs * steps_per_epoch)
        self.batches = StepBatches(
            table,
            config.train.batch_size,
            self.num_steps,
            seed=config.seed,
            rank=process.rank,
            world_size=process.world_size,
            growth=config.crops.growth,
        )

    def _check_settings(self, dev: Optional[Path]) -> None:
        """Raise InputError where the configuration does not suit the data, the processes or this torch."""
        train = self.config.train
        check_crop_lengths(self.config, self.longest_seconds)
        if self.num_steps < 1:
            raise InputError(
                f"train.epochs = {train.epochs:g} is less than one step, as an epoch has "
                f"{self.batches.steps_per_epoch}: raise it, or set train.steps"
            )
        share = self.batches.share
        if share % (train.micro_batch_size or share):
            raise InputError(
                f"train.micro_batch_size = {train.micro_batch_size} does not divide a process's share of the batch, "
                f"{share} utterances"
            )
        if dev is not None and train.evaluate_every % train.checkpoint_every:
            raise InputError(
                f"train.evaluate_every = {train.evaluate_every} is not a multiple of train.checkpoint_every = "
                f"{train.checkpoint_every}: only a saved checkpoint can be kept as the best"
            )

    def _make_model(self) -> None:
        torch.manual_seed(self.config.seed)
        method: Method = METHODS[self.config.method](self.config)
        self.model = synchronised(method, self.process).to(self.process.device)
        self.optimizer = make_optimizer(self.model, self.config.train)
        self.step = 0

    def _open_dev(self, dev: Optional[Path]) -> None:
        """Open the dev trials in rank 0, which alone evaluates."""
        self.evaluates = dev is not None
        self.dev: Optional[DevTrials] = None
        if dev is not None:
            self.dev = self._together.on_main(lambda: DevTrials(dev, self.config, self.process.device))

    def _resume(self, resume: str, init: Optional[Path]) -> None:
        """Load the checkpoint to continue from, or the weights that a new run starts with."""
        find = self.folder.newest_readable if resume == "auto" else lambda: self.folder.newest
        newest = self._together.on_main_value(find)
        path = newest if resume in ("auto", "none") else Path(resume)
        if path is not None:
            if resume == "none":
                raise InputError(f"--resume none: {path} already exists; use another folder, or remove it")
            checkpoint = self.folder.load_for_resuming(path, newest)
            load_weights(self.model, checkpoint.model, path)
            with error_context(path):
                set_momentum_buffers(self.optimizer, self.model, checkpoint.momentum)
            self.step = checkpoint.step
            log.info("resumed from %s", path)
        if init is not None and self.step == 0:
            self.model.load_state_dict(initial_weights(init, self.config, self.model.state_dict()))
            log.info("started from the weights of %s", init)
        self.batches.first_step = self.step

    def _require_same_start(self) -> None:
        """Raise InputError unless all processes have the same configuration, data, step and weights."""
        if self.process.world_size == 1:
            return  # the checksum of the weights takes time
        comparable = dataclasses.replace(self.config, train=dataclasses.replace(self.config.train, workers=0))
        self._together.require_same(
            {
                "configuration": f"{zlib.crc32(config_to_yaml(comparable).encode()):08x}",
                "data": self.data,
                "step": self.step,
                "weights": f"{_checksum(self.model.state_dict()):08x}",
            }
        )

    def _compile(self) -> None:
        """Compile the networks where it pays off, each for its own shapes. Names of parameters stay the same."""
        choice = self.config.train.compile
        pays = self.process.device.type == "cuda" and self.num_steps - self.step >= COMPILE_MIN_STEPS
        self.compiled = choice == "on" or (choice == "auto" and pays)
        if self.compiled:
            problem = compiler_problem(self.process.device)
            if self._together.any(problem is not None):
                log.warning("not compiled (train.compile=%s): %s", choice, problem or "another process cannot")
                self.compiled = False
                return
            # Both networks share the limit, and micro-batches run the student in two ways.
            torch._dynamo.config.cache_size_limit = MAX_GRAPHS
            self.model.student.compile(dynamic=False)
            self.model.teacher.compile(dynamic=False)

    def _make_views(self, manifests: Path) -> None:
        self.banks = Banks(manifests, self.config, self.process.device, self.step)
        self.views = Views(self.config, self.banks.augment).to(self.process.device)

    def run(self) -> Path:
        """Train to the end. Return ``exp/final.pt``, a link to the last checkpoint.

        Raises:
            InputError: a loss that is not finite, too many unusable utterances, a checkpoint that cannot be written.
            Interrupted: SIGTERM, SIGUSR1 or SIGINT arrived; a checkpoint was written.
        """
        with self.folder.locked() if self.process.is_main else contextlib.nullcontext(), self._signals_remembered():
            if self.process.is_main:
                self.folder.write_config()
            if self.step < self.num_steps:
                with self._full_memory_explained():
                    self._train()
            elif not self.folder.checkpoint(self.step).exists():
                self._save()  # resumed from the last step of a run in another folder
            if self.process.is_main:
                self.folder.link_final(self.num_steps)
        return self.folder.final

    def _train(self) -> None:
        train, process = self.config.train, self.process
        on_gpu, stopping = process.device.type == "cuda", lambda: self._stop_signal is not None
        loader = multi_crop_loader(self.dataset, self.batches, train.workers, pin=on_gpu, stopping=stopping)
        batches = on_device(loader, process.device)
        run_log = None
        if process.is_main:
            write_session(self.exp, self._session())
            run_log = RunLog(self.exp, self.config, self.step, self.num_steps)
        log.info(
            "training from step %d to %d, batch %d, on %s", self.step, self.num_steps, train.batch_size, process.device
        )
        self.model.train()
        try:
            self._loop(batches, run_log)
        finally:
            if run_log is not None:
                run_log.close()

    def _session(self) -> Session:
        """Describe what this process computes on, and how."""
        process = self.process
        return Session(
            first_step=self.step,
            device=device_name(process.device),
            processes=process.world_size,
            precision=resolve(self.config.train.precision, process.device),
            compiled=self.compiled,
            started=provenance(self.command),
        )

    def _loop(self, batches: Iterator[MultiCropBatch], run_log: Optional[RunLog]) -> None:
        """Run step after step; only rank 0 has a log."""
        train, first = self.config.train, self.step
        while self.step < self.num_steps:
            with run_log.waiting() if run_log is not None else contextlib.nullcontext():
                batch = next(batches, None)
                if not self.banks.rotate(self.step, lambda: self._stop_signal is not None):
                    batch = None
            if self._together.any(batch is None or self._stop_signal is not None):
                self._interrupt()
            assert batch is not None
            self._note_skipped(batch)
            last = self.step + 1 == self.num_steps
            logging_step = (self.step + 1) % train.log_every == 0 or last

            # The first line of the log should say how the embeddings are, too.
            statistics = self._train_step(batch, logging_step or self.step == first)
            self.step += 1

            # On a GPU, reading the loss waits for the device.
            if logging_step or self.process.device.type == "cpu":
                self._check_finite(statistics)
            if run_log is not None:
                costs = {"skipped_utterances": len(self._skipped), "peak_memory_gb": self.peak_memory_gb()}
                run_log.write_step(self.step, statistics, costs, logging_step)

            if self.step % train.checkpoint_every == 0 or last:
                self._check_finite(statistics)
                self._save()
            if last:
                self._together.wait()  # a launcher ends the other processes when one exits
            if self.evaluates and (self.step % (train.evaluate_every or train.checkpoint_every) == 0 or last):
                self._together.on_main(lambda: self._evaluate(run_log))

    def _interrupt(self) -> NoReturn:
        """Save, wait for the other processes, and raise Interrupted."""
        self._save()
        self._together.wait()  # a launcher ends the other processes when one exits
        name = signal.Signals(self._stop_signal).name if self._stop_signal else "another process's signal"
        raise Interrupted(
            f"stopped by {name} after step {self.step}; run the same command again to continue from "
            f"{self.folder.checkpoint(self.step)}"
        )

    def _train_step(self, batch: MultiCropBatch, diagnose: bool) -> Dict[str, Any]:
        """Do one step. Return its statistics: scalars on the device, or numbers."""
        train, step = self.config.train, self.step
        lr, ema_momentum = self._schedules()
        set_learning_rate(self.optimizer, lr)
        global_view, local_views = self.views(batch, np.random.default_rng([self.config.seed, self.process.rank, step]))

        self.optimizer.zero_grad(set_to_none=True)
        statistics = self._gradients(global_view, local_views, diagnose)
        for parameter in self.model.frozen_parameters(step // self.batches.steps_per_epoch):
            parameter.grad = None
        average_gradients(self.model.parameters(), self.process)
        gradient_norm = clip_gradients(self.model.student, train.clip_norm)
        self.optimizer.step()
        self.model.update_teacher(ema_momentum)
        return {**statistics, "gradient_norm": gradient_norm, "lr": lr, "ema_momentum": ema_momentum}

    def _schedules(self) -> Tuple[float, float]:
        """Return the learning rate and the EMA momentum of this step."""
        train = self.config.train
        lr = warmup_cosine(
            self.step,
            self.num_steps,
            warmup_steps=round(train.warmup * self.num_steps),
            peak=train.base_lr * train.batch_size / 256,
            end=train.final_lr,
        )
        return lr, cosine(self.step, self.num_steps, *train.ema_momentum)

    def _gradients(self, global_view: Tensor, local_views: Tensor, diagnose: bool) -> Dict[str, Tensor]:
        """Add the gradients of a batch to the parameters' ``grad``; return its statistics."""
        precision = autocast(self.config.train.precision, self.process.device)
        size = self.config.train.micro_batch_size or self.batches.share
        if size < self.batches.share:
            _, statistics = micro_batch_gradients(
                self.model, global_view, local_views, size=size, precision=precision, diagnose=diagnose
            )
            return statistics
        with precision:
            loss, statistics = self.model(global_view, local_views, diagnose)
        loss.backward()
        return statistics

    def _note_skipped(self, batch: MultiCropBatch) -> None:
        """Log utterances that are skipped for the first time. Raise InputError if there are too many."""
        self._recent_ids.append(batch.ids)
        for skipped in batch.skipped:
            if skipped.key not in self._skipped:
                self._skipped[skipped.key] = skipped
                log.warning("skipped utterance %s: %s", skipped.key, skipped.reason)
        total = len(self.dataset.cuts)
        seen = min(total, (self.step + 1) * self.config.train.batch_size)
        if seen >= min(SKIPPED_GRACE_UTTERANCES, total):
            check_skipped(list(self._skipped.values()), seen, where=self.cuts)

    def _check_finite(self, statistics: Dict[str, Any]) -> None:
        for name, key in (("loss", "loss"), ("gradient", "gradient_norm")):
            if not torch.isfinite(statistics[key]):
                earlier = len(self._recent_ids) - 1
                since = "" if self.process.device.type == "cpu" else f" or up to {earlier} steps earlier"
                raise InputError(
                    f"the {name} is not finite at step {self.step}{since}; {self._last_good()}; utterances of that "
                    f"step: {' '.join(self._recent_ids[-1][:5])} …; lower train.base_lr, or check their audio"
                )

    def _save(self) -> None:
        """Write a checkpoint (rank 0). Raise InputError, in every process, if weights are not finite."""
        bad = [name for name, values in self.model.state_dict().items() if not torch.isfinite(values).all()]
        if bad:
            raise InputError(
                f"the weights are not finite after step {self.step} ({bad[0]}, {len(bad)} in all); "
                f"{self._last_good()}; lower train.base_lr"
            )
        self._together.on_main(self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        momentum = momentum_buffers(self.optimizer, self.model)
        checkpoint = Checkpoint(self.step, self.config, self.model.state_dict(), momentum, self.data)
        self.folder.save(checkpoint, self.batches.steps_per_epoch)

    def _last_good(self) -> str:
        return f"last good checkpoint: {self.folder.newest or 'none yet'}"

    def _evaluate(self, run_log: Optional[RunLog]) -> None:
        """Log the EER of the teacher on the dev trials, and keep the best checkpoint (rank 0)."""
        assert self.dev is not None and run_log is not None
        value = self.dev.eer(self.model.teacher.encoder)
        run_log.write_dev_eer(self.step, value)
        log.info("step %d: dev EER %.2f %%", self.step, value)
        self.folder.keep_best(self.step, value)

    @contextlib.contextmanager
    def _signals_remembered(self) -> Iterator[None]:
        """Record SIGTERM, SIGUSR1 and SIGINT, so that the run ends before the next step; two SIGINT end it now."""

        def remember(number: int, _: object) -> None:
            # A launcher may pass on an interrupt of the terminal as SIGTERM, too: only two of a kind are impatience.
            if number == self._stop_signal == signal.SIGINT:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGINT)
            if self._stop_signal != signal.SIGINT:
                self._stop_signal = number
            if number == signal.SIGINT:
                log.warning("interrupted: saving a checkpoint first; once more ends the run without it")

        numbers = [signal.SIGTERM, signal.SIGUSR1]
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as in background jobs
            numbers.append(signal.SIGINT)
        previous = {number: signal.signal(number, remember) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def _full_memory_explained(self) -> Iterator[None]:
        """Turn running out of GPU memory into an InputError that suggests a micro-batch size."""
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            share = self.batches.share
            size = self.config.train.micro_batch_size or share
            smaller = max((n for n in range(2, size // 2 + 1) if share % n == 0), default=None)
            advice = (
                f"use --set train.micro_batch_size={smaller} (the batch itself stays the same)"
                if smaller is not None
                else f"no smaller micro-batch divides a process's {share} utterances; use another train.batch_size"
            )
            raise InputError(f"the GPU's memory is too small for {size} utterances at once: {advice}") from error

    def time_steps(self, batch: MultiCropBatch, count: int) -> float:
        """Return the median seconds of ``count`` steps on ``batch``, after one untimed step. The weights change."""
        self.model.train()
        batch = next(on_device([batch], self.process.device))
        seconds = []
        for _ in range(count + 1):
            start = time.perf_counter()
            with self._full_memory_explained():
                float(self._train_step(batch, False)["loss"])  # waits for the device
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[1:]))

    def peak_memory_gb(self) -> float:
        """Return the peak memory so far: of the GPU, or of this process."""
        if self.process.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.process.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _require_deterministic_algorithms() -> None:
    """Make torch use deterministic algorithms, and raise RuntimeError for an operation that has none."""
    # cuBLAS reads this when CUDA computes the first matrix product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def _checksum(state: Dict[str, Tensor]) -> int:
    """Return the CRC-32 of the tensors' bytes."""
    checksum = 0
    for tensor in state.values():
        checksum = zlib.crc32(np.ascontiguousarray(tensor.cpu().numpy()).data, checksum)
    return checksum
