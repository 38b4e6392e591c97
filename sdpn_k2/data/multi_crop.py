"""Multi-crop batches: one decode per utterance, random global and local crops, waveforms int16 until the device.

Nothing here keeps state: which utterances form step ``s`` and where their crops start depends only on the seed and
``s``, so a run is taken up anywhere, by any number of loader processes, without a trace.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import logging
import multiprocessing
import os
import signal
from dataclasses import dataclass, field
from typing import Iterator, List, Tuple, Union

import numpy as np
import torch
from lhotse import MonoCut
from torch.utils.data import DataLoader, Dataset, Sampler

from sdpn_k2.config import Config
from sdpn_k2.data.cuts import CutTable
from sdpn_k2.data.shar import SharTable
from sdpn_k2.errors import InputError
from sdpn_k2.signal.fbank import Fbank

# Crops of one utterance that lie within this many seconds are cut from one decoded span; others are read singly.
MAX_SPAN_SECONDS = 60.0
# Batches that each loader process has ready.
PREFETCHED_BATCHES = 4

BatchKey = Tuple[int, Tuple[int, ...]]  # epoch, indices of utterances


class StepBatches(Sampler):
    """The utterances of each step from ``first_step`` to ``num_steps``: every epoch its own permutation of the table.

    Each process takes its own part of every global batch. What does not fill a last batch is left out of that epoch.
    """

    def __init__(
        self,
        table: Union[CutTable, SharTable],
        batch_size: int,
        num_steps: int,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        """``batch_size`` counts the utterances of all processes.

        Raises:
            InputError: fewer utterances than a batch, or a batch that the processes cannot share evenly.
        """
        if len(table) < batch_size:
            raise InputError(
                f"the corpus has {len(table)} utterances, fewer than train.batch_size = {batch_size}: "
                "take a smaller batch or more data"
            )
        if batch_size % world_size:
            raise InputError(f"train.batch_size = {batch_size} is not a multiple of the {world_size} processes")
        self.table, self.batch_size, self.seed = table, batch_size, seed
        self.first_step, self.num_steps = first_step, num_steps
        self.steps_per_epoch = len(table) // batch_size
        share = batch_size // world_size
        self.part = slice(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return max(0, self.num_steps - self.first_step)

    def __iter__(self) -> Iterator[BatchKey]:
        epoch, order = -1, np.empty(0, np.int64)
        for step in range(self.first_step, self.num_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self.table.permutation(np.random.default_rng([self.seed, epoch]))
            start = step % self.steps_per_epoch * self.batch_size
            yield epoch, tuple(order[start : start + self.batch_size][self.part].tolist())


@dataclass
class MultiCropBatch:
    """Crops of a batch of utterances: int16 waveforms (time = samples), or float32 fbank (time = frames, then bins).

    Attributes:
        global_crops: ``(utterances, time[, bins])``.
        local_crops: ``(views, utterances, time[, bins])``.
        ids: the utterances.
        skipped: ``id: reason`` of utterances that could not be used and were replaced by others.
    """

    global_crops: torch.Tensor
    local_crops: torch.Tensor
    ids: List[str]
    skipped: List[str] = field(default_factory=list)

    def pin_memory(self) -> MultiCropBatch:
        self.global_crops = self.global_crops.pin_memory()
        self.local_crops = self.local_crops.pin_memory()
        return self


class MultiCropDataset(Dataset):
    """Maps a :data:`BatchKey` to a :class:`MultiCropBatch`."""

    def __init__(self, cuts: Union[CutTable, SharTable], config: Config):
        self.cuts, self.num_local, self.seed = cuts, config.crops.num_local, config.seed
        self.source = (WaveformSource if config.input == "waveform" else FbankSource)(config)
        self.global_size, self.local_size = map(
            self.source.size, (config.crops.global_seconds, config.crops.local_seconds)
        )

    def __getitem__(self, key: BatchKey) -> MultiCropBatch:
        epoch, indices = key
        taken = set(indices)
        global_crops = np.empty((len(indices), self.global_size, *self.source.shape), self.source.dtype)
        local_crops = np.empty((self.num_local, len(indices), self.local_size, *self.source.shape), self.source.dtype)
        ids, skipped = [], []
        for position, index in enumerate(indices):
            while True:
                name = f"utterance {index + 1}"
                try:
                    cut = self.cuts[index]
                    name = cut.id
                    crops = self.read_crops(cut, np.random.default_rng([self.seed, epoch, index]))
                    break
                except Exception as error:  # lhotse's backends raise many kinds
                    skipped.append(f"{name}: {' '.join(str(error).split())[:200]}")
                    index = self._substitute(index, taken, skipped)
            global_crops[position] = crops[0]
            local_crops[:, position] = crops[1:]
            ids.append(name)
        return MultiCropBatch(torch.from_numpy(global_crops), torch.from_numpy(local_crops), ids, skipped)

    def _substitute(self, index: int, taken: set, skipped: List[str]) -> int:
        """The next utterance of the manifest that is not in the batch yet."""
        for step in range(1, len(self.cuts)):
            candidate = (index + step) % len(self.cuts)
            if candidate not in taken:
                taken.add(candidate)
                return candidate
        raise InputError(f"{self.cuts.path}: too few usable utterances left to fill a batch; the first: {skipped[0]}")

    def read_crops(self, cut: MonoCut, rng: np.random.Generator) -> List[np.ndarray]:
        """The global crop, then the local crops of ``cut``. A short utterance is wrapped around.

        Raises:
            InputError: NaN, or silence in all that was read. Whatever lhotse raises when it cannot decode the cut.
        """
        total = self.source.length(cut)
        sizes = [self.global_size] + [self.local_size] * self.num_local
        starts = [int(rng.integers(total - size + 1 if total >= size else total)) for size in sizes]
        spans = [(start, start + size) if total >= size else (0, total) for start, size in zip(starts, sizes)]
        first, last = min(start for start, _ in spans), max(end for _, end in spans)
        if last - first <= self.source.size(MAX_SPAN_SECONDS):
            whole = self.source.read(cut, first, last)
            read = [whole]
            pieces = [whole[start - first : end - first] for start, end in spans]
        else:
            read = pieces = [self.source.read(cut, start, end) for start, end in spans]
        if not any(piece.any() for piece in read):
            raise InputError("silent: every sample is zero")
        return [
            piece if len(piece) == size else np.take(piece, np.arange(start, start + size), axis=0, mode="wrap")
            for piece, start, size in zip(pieces, starts, sizes)
        ]


class WaveformSource:
    """Cuts as int16 samples."""

    dtype, shape = np.int16, ()

    def __init__(self, config: Config):
        self.sample_rate = config.features.sample_rate

    def size(self, seconds: float) -> int:
        """Samples of a crop of ``seconds``."""
        return round(seconds * self.sample_rate)

    def length(self, cut: MonoCut) -> int:
        """Samples of ``cut``."""
        return round(cut.duration * self.sample_rate)

    def read(self, cut: MonoCut, first: int, last: int) -> np.ndarray:
        """Samples ``first`` to ``last`` of the cut, resampled where its recording has another rate."""
        audio = cut.recording.resample(self.sample_rate).load_audio(
            channels=cut.channel,
            offset=cut.start + first / self.sample_rate,
            duration=(last - first) / self.sample_rate,
        )[0]
        if not np.isfinite(audio).all():
            raise InputError("NaN or infinite samples")
        samples = np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)
        if len(samples) != last - first:
            # Durations are rounded in manifests, and a resampled file may be a sample short.
            if last - first - len(samples) > self.sample_rate // 100:
                raise InputError(f"{len(samples)} samples decoded where {last - first} were expected")
            samples = np.resize(samples, last - first)
        return samples


class FbankSource:
    """Cuts as their stored fbank, with as many frames a crop as its waveform would give."""

    dtype = np.float32

    def __init__(self, config: Config):
        self.shape = (config.features.num_mel_bins,)
        self._fbank = Fbank(config.features)
        self._sample_rate = config.features.sample_rate

    def size(self, seconds: float) -> int:
        """Frames of a crop of ``seconds``."""
        return self._fbank.num_frames(round(seconds * self._sample_rate))

    def length(self, cut: MonoCut) -> int:
        """Frames of ``cut``.

        Raises:
            InputError: it has no features, or of another dimension.
        """
        if not cut.has_features:
            raise InputError("no stored features, which input: fbank needs (stage 1 makes them)")
        if cut.num_features != self.shape[0]:
            raise InputError(f"stored features of {cut.num_features} bins, not {self.shape[0]}")
        return cut.num_frames

    def read(self, cut: MonoCut, first: int, last: int) -> np.ndarray:
        """Frames ``first`` to ``last`` of the cut."""
        fbank = cut.load_features()[first:last]
        if not np.isfinite(fbank).all():
            raise InputError("NaN or infinite features")
        return fbank


def multi_crop_loader(
    dataset: MultiCropDataset, batches: StepBatches, workers: int, pin: bool
) -> Iterator[MultiCropBatch]:
    """The batches in the order of ``batches``, made by ``workers`` processes, or here with none.

    Raises:
        InputError: what a loader process has met, as it was raised there.
    """
    options = {}
    if workers:
        ending = multiprocessing.Value(ctypes.c_bool, False, lock=False)
        # Registered after multiprocessing's own handler, hence called before it ends and awaits the workers.
        atexit.register(setattr, ending, "value", True)
        options = {
            "num_workers": workers,
            "worker_init_fn": functools.partial(_start_worker, ending),
            "prefetch_factor": PREFETCHED_BATCHES,
        }
    for batch in DataLoader(_ErrorsAsData(dataset), sampler=batches, batch_size=None, pin_memory=pin, **options):
        if isinstance(batch, InputError):
            raise batch
        yield batch


class _ErrorsAsData(Dataset):
    """A dataset that answers with its InputError: torch would raise it with the worker's traceback as its message."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, key: BatchKey) -> Union[MultiCropBatch, InputError]:
        try:
            return self.dataset[key]
        except InputError as error:
            return error


def _start_worker(ending: ctypes.c_bool, worker: int) -> None:
    """Prepare a loader process; ``ending`` is shared with the main process, which sets it when it exits."""
    torch.set_num_threads(1)

    def leave_with_the_trainer(*_) -> None:
        if ending.value:
            os._exit(0)

    # A grid stops a job by a signal to all its processes; the trainer saves first and then ends its workers.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave_with_the_trainer)
    leave_with_the_trainer()  # a signal may have come before
    logging.getLogger().setLevel(logging.ERROR)
