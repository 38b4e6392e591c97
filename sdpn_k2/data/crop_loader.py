"""Load multi-crop batches, in this process or in others.

Loader processes inherit anonymous shared memory and write their batches there. Nothing is kept in /dev/shm, which is
64 MB in a container by default. They hold no state, so they are simply killed at the end.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import logging
import math
import mmap
import multiprocessing
import os
import signal
from collections import deque
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Callable, Deque, Iterator, List

import numpy as np
import torch
from lhotse.features.io import close_cached_file_handles

from sdpn_k2.data.background import LOOK_SECONDS, Task
from sdpn_k2.data.multi_crop import MultiCropBatch, MultiCropDataset, StepBatches
from sdpn_k2.errors import InputError

# Batches that each loader process has ready or loads. All together have at most this size, but one for each process.
PREFETCHED_BATCHES = 4
SHARED_BYTES = 2 << 30


def multi_crop_loader(
    dataset: MultiCropDataset,
    batches: StepBatches,
    workers: int,
    pin: bool,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[MultiCropBatch]:
    """Yield the batches in the order of ``batches``.

    Args:
        dataset: reads the crops.
        batches: chooses the utterances.
        workers: number of loader processes; with 0, batches are loaded in this process.
        pin: pin the batches in memory, for a GPU.
        stopping: asked while this process waits for a batch; if true, the iteration ends early.

    Raises:
        InputError: too few usable utterances are left to fill a batch; a loader process was killed or cannot start.
    """
    if workers:
        loaded = _load_in_processes(dataset, batches, workers, pin, stopping)
    else:
        loaded = _load_in_thread(dataset, batches, pin, stopping)
    for batch in loaded:
        if len(batch.ids) < batches.share:
            raise InputError(
                f"{dataset.cuts.path}: too few usable utterances are left to fill a batch; "
                f"the first skipped is {batch.skipped[0]}"
            )
        yield batch


def _load_in_thread(
    dataset: MultiCropDataset, batches: StepBatches, pin: bool, stopping: Callable[[], bool]
) -> Iterator[MultiCropBatch]:
    """Yield the batches that a thread reads, one at a time."""
    for key in batches:
        task = Task(functools.partial(dataset.__getitem__, key))
        if not task.wait(stopping):
            return
        batch = task.result()
        yield batch.pin_memory() if pin else batch


def batch_bytes(dataset: MultiCropDataset, utterances: int) -> int:
    """Return the bytes of a batch, with crops of full length."""
    size, crops = dataset.source.size, dataset.crops
    times = size(crops.global_seconds) + crops.num_local * size(crops.local_seconds)
    return utterances * times * math.prod(dataset.source.shape) * np.dtype(dataset.source.dtype).itemsize


def batches_ahead(workers: int, size: int) -> int:
    """Return how many batches of ``size`` bytes are shared with ``workers`` processes: at least one for each."""
    return max(workers, min(workers * PREFETCHED_BATCHES, SHARED_BYTES // size))


def _load_in_processes(
    dataset: MultiCropDataset, batches: StepBatches, workers: int, pin: bool, stopping: Callable[[], bool]
) -> Iterator[MultiCropBatch]:
    """Yield copies of the batches that processes load: batch n by process n modulo ``workers``, into slot n modulo
    the number of slots.
    """
    size = batch_bytes(dataset, batches.share)
    ahead = batches_ahead(workers, size)
    context = multiprocessing.get_context("fork")  # they share the memory, and the table of cuts
    processes: List[BaseProcess] = []
    connections: List[Connection] = []

    def end() -> None:
        for process in processes:
            process.kill()
        for process in processes:
            process.join(LOOK_SECONDS)  # one that waits for hung storage may not end yet

    # Registered after multiprocessing's own handler, hence called before that waits for the processes.
    atexit.register(end)
    try:
        try:
            slots = np.frombuffer(mmap.mmap(-1, ahead * size), np.uint8).reshape(ahead, size)
            close_cached_file_handles()  # processes that inherit a file share its position
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(dataset, slots, theirs, os.getpid()), daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                connections.append(ours)
        except OSError as error:
            raise InputError(
                f"cannot start {workers} loader processes with {ahead * size / 2**30:.1f} GB of memory: "
                f"{error.strerror}; lower train.workers"
            ) from error
        sentinels = [process.sentinel for process in processes]
        numbered = enumerate(batches)
        pending: Deque[int] = deque()

        def send_next() -> None:
            for number, key in itertools.islice(numbered, 1):
                connections[number % workers].send((number % ahead, key))
                pending.append(number)

        try:
            for _ in range(ahead):
                send_next()
            while pending:
                number = pending.popleft()
                connection = connections[number % workers]
                while connection not in (ready := wait([connection, *sentinels], LOOK_SECONDS)):
                    if ready:
                        raise EOFError
                    if stopping():
                        return
                shapes, ids, skipped = connection.recv()
                global_crops, local_crops = _copy(slots[number % ahead].view(dataset.source.dtype), shapes, pin)
                send_next()
                yield MultiCropBatch(global_crops, local_crops, ids, skipped)
        except (EOFError, ConnectionError) as error:
            raise _death(processes) from error
    finally:
        end()
        atexit.unregister(end)


def _copy(values: np.ndarray, shapes: List[torch.Size], pin: bool) -> List[torch.Tensor]:
    """Return copies of the tensors that lie one after the other in ``values``."""
    tensors, start = [], 0
    for shape in shapes:
        part = torch.from_numpy(values[start : start + shape.numel()])
        tensors.append(torch.empty(shape, dtype=part.dtype, pin_memory=pin).copy_(part.view(shape)))
        start += shape.numel()
    return tensors


def _death(processes: List[BaseProcess]) -> Exception:
    """Return the error that says how a loader process ended."""
    ended = wait([process.sentinel for process in processes], LOOK_SECONDS)
    for process in processes:
        if process.sentinel in ended:
            process.join()
        if process.exitcode is not None and process.exitcode < 0:
            return InputError(
                f"a loader process was killed (signal {-process.exitcode}), probably for memory: lower train.workers, "
                "or give the job more memory"
            )
    return RuntimeError("a loader process failed; its error is above")


def _work(dataset: MultiCropDataset, slots: np.ndarray, connection: Connection, trainer: int) -> None:
    """Load the batches that ``trainer`` asks for into the slots that it names, until it ends."""
    # A grid stops a job by signalling all its processes. The trainer saves first, and then ends its loaders.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            while not connection.poll(LOOK_SECONDS):
                if os.getppid() != trainer:
                    return
            slot, key = connection.recv()
            batch: Any = dataset[key]
            values, start = slots[slot].view(dataset.source.dtype), 0
            for crops in (batch.global_crops, batch.local_crops):
                values[start : start + crops.numel()] = crops.numpy().ravel()
                start += crops.numel()
            connection.send(([batch.global_crops.shape, batch.local_crops.shape], batch.ids, batch.skipped))
            del batch, crops  # before the next is loaded
