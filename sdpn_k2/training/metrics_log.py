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
from torch.utils.tensorboard.summary import hparams

from sdpn_k2.config import Config, config_items, config_to_yaml
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output

# The groups of TensorBoard's charts; metrics that are not here, such as those of collapse, are in health/.
GROUPS = {
    "loss/": ("loss", "loss_ce", "loss_me", "loss_dr"),
    "speed/": ("utterances_per_second", "data_wait_share", "peak_memory_gb", "seconds"),
    "schedule/": ("lr", "ema_momentum"),
}
# Charts that TensorBoard's table of hyper-parameters shows beside them.
OUTCOMES = ("loss", "effective_rank", "dev_eer")


def tag(metric: str) -> str:
    """Return the name of a metric's chart in TensorBoard, such as ``loss/loss_ce``."""
    groups = [group for group, members in GROUPS.items() if metric in members]
    return (groups or ["health/"])[0] + metric


log = logging.getLogger(__name__)


class MetricsLog:
    """metrics.jsonl (one object per logged step) and TensorBoard events in ``exp``.

    Entries of an earlier run after ``first_step`` are removed. Every entry has ``seconds``, the time of training so
    far. All methods raise InputError when a write fails.

    Args:
        exp: the experiment folder.
        first_step: number of steps that were done before.
        config: the configuration, which TensorBoard shows as text and as hyper-parameters.

    Attributes:
        dev_eers: EERs on the dev trials that were logged before ``first_step``, in per cent.
    """

    def __init__(self, exp: Path, first_step: int, config: Config):
        self._exp = exp
        path = exp / "metrics.jsonl"
        # A killed run may have logged steps that the resumed one repeats.
        kept = [line for line in _complete_lines(path) if _step(line) <= first_step]
        before = float(json.loads(kept[-1]).get("seconds", 0.0)) if kept else 0.0
        self.dev_eers = [entry["dev_eer"] for entry in map(json.loads, kept) if "dev_eer" in entry]
        self._started = time.perf_counter() - before
        with atomic_output(path, "w") as stream:
            stream.write("".join(kept))
        self._report_failed_thread = threading.excepthook
        threading.excepthook = self._failed_thread
        with self._writing():
            self._stream = path.open("a", encoding="utf-8")
            self._tensorboard = SummaryWriter(str(exp / "tensorboard"), purge_step=first_step + 1)
            self._write_config(config, first_step)

    def _write_config(self, config: Config, first_step: int) -> None:
        text = "".join(
            f"    {line}\n" for line in config_to_yaml(config).splitlines()
        )  # Markdown: indented is verbatim
        self._tensorboard.add_text("configuration", text, first_step)
        values = {
            name: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
            for name, value in config_items(config).items()
        }
        # SummaryWriter.add_hparams would open a run of its own, without the charts of this one.
        assert self._tensorboard.file_writer is not None
        for summary in hparams(values, {tag(metric): 0.0 for metric in OUTCOMES}):
            self._tensorboard.file_writer.add_summary(summary, first_step)

    def write(self, step: int, metrics: Dict[str, float]) -> None:
        """Log the metrics of one step."""
        metrics = {**metrics, "seconds": time.perf_counter() - self._started}
        rounded = {name: float(f"{value:.6g}") for name, value in metrics.items()}
        with self._writing():
            self._stream.write(json.dumps({"step": step, **rounded}) + "\n")
            self._stream.flush()
            for name, value in rounded.items():
                self._tensorboard.add_scalar(tag(name), value, step)

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
