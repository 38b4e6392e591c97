"""The metrics of a training run: metrics.jsonl, TensorBoard events, and the throughput between two entries."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from pathlib import Path
from typing import Dict, Iterator, List

from torch.utils.tensorboard import SummaryWriter

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output

log = logging.getLogger(__name__)


class MetricsLog:
    """metrics.jsonl (one object per logged step) and TensorBoard events in ``exp``.

    Entries of an earlier run after ``first_step`` are removed. All methods raise InputError when a write fails.
    """

    def __init__(self, exp: Path, first_step: int):
        self._exp = exp
        path = exp / "metrics.jsonl"
        # A killed run may have logged steps that the resumed one repeats.
        kept = [line for line in _complete_lines(path) if _step(line) <= first_step]
        with atomic_output(path, "w") as stream:
            stream.write("".join(kept))
        self._report_failed_thread = threading.excepthook
        threading.excepthook = self._failed_thread
        with self._writing():
            self._stream = path.open("a", encoding="utf-8")
            self._tensorboard = SummaryWriter(str(exp / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, metrics: Dict[str, float]) -> None:
        """Log the metrics of one step."""
        rounded = {name: float(f"{value:.6g}") for name, value in metrics.items()}
        with self._writing():
            self._stream.write(json.dumps({"step": step, **rounded}) + "\n")
            self._stream.flush()
            for name, value in rounded.items():
                self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both."""
        try:
            with self._writing():
                self._stream.close()
                self._tensorboard.close()
        finally:
            threading.excepthook = self._report_failed_thread

    def _failed_thread(self, failure: threading.ExceptHookArgs) -> None:
        """Report the exception that ended a thread, except TensorBoard's: its next call raises it again."""
        if not issubclass(failure.exc_type, OSError):
            self._report_failed_thread(failure)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self._exp}: cannot write metrics.jsonl or tensorboard/: {error.strerror or error}"
            ) from error


class Throughput:
    """Utterances per second since the last reading, and the share of that time spent waiting for data."""

    def __init__(self) -> None:
        self._start, self._waited, self._utterances = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def count(self, utterances: int) -> None:
        """Count the utterances of a step."""
        self._utterances += utterances

    def read(self) -> Dict[str, float]:
        """Return ``utterances_per_second`` and ``data_wait_share``, and restart the count."""
        elapsed = time.perf_counter() - self._start
        values = {
            "utterances_per_second": self._utterances / elapsed,
            "data_wait_share": self._waited / elapsed,
        }
        self._start, self._waited, self._utterances = time.perf_counter(), 0.0, 0
        return values


def _complete_lines(path: Path) -> List[str]:
    """Return the lines of an earlier run; leave out damaged ones with a warning."""
    if not path.is_file():
        return []
    kept = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            _step(line)
            kept.append(f"{line}\n")
        except (ValueError, LookupError, TypeError, RecursionError):
            if number < len(lines):  # the last one may be cut short: the run was killed while it wrote
                log.warning("%s:%d: left out a damaged line", path, number)
    return kept


def _step(line: str) -> int:
    step = json.loads(line)["step"]
    if not isinstance(step, int):
        raise TypeError("the step is not a whole number")
    return step
