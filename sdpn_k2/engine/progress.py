"""What a run tells: a progress bar on a terminal and log lines elsewhere, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import Dict, Iterable, Iterator, Optional

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output

log = logging.getLogger(__name__)


class Progress:
    """Progress over ``total`` items: a bar where stderr is a terminal, else about ``num_lines`` log lines."""

    def __init__(self, total: int, name: str, initial: int = 0, num_lines: int = 20):
        self.name, self.total, self.done = name, total, initial
        self._every = max(1, total // num_lines)
        self._bar = tqdm(total=total, initial=initial, desc=name) if sys.stderr.isatty() else None

    def update(self, count: int = 1, **values: str) -> None:
        """``count`` more items are done; ``values`` are shown beside."""
        before, self.done = self.done, self.done + count
        if self._bar is not None:
            self._bar.set_postfix(values, refresh=False)
            self._bar.update(count)
        elif before // self._every != self.done // self._every or self.done == self.total:
            details = "".join(f", {key} {value}" for key, value in values.items())
            log.info("%s: %d of %d%s", self.name, self.done, self.total, details)

    def close(self) -> None:
        """Leave the terminal tidy."""
        if self._bar is not None:
            self._bar.close()


class MetricsLog:
    """metrics.jsonl (one object a logged step) and TensorBoard events in ``exp``, taken up at ``first_step``.

    All methods raise InputError when nothing can be written.
    """

    def __init__(self, exp: Path, first_step: int):
        self._exp = exp
        path = exp / "metrics.jsonl"
        # A killed run may have logged steps that the resumed one does again.
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= first_step]
        with atomic_output(path, "w") as stream:
            stream.write("".join(kept))
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
        """Flush both."""
        with self._writing():
            self._stream.close()
            self._tensorboard.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self._exp}: cannot write metrics.jsonl or tensorboard/: "
                             f"{error.strerror or error}") from error


def _complete_lines(path: Path) -> Iterable[str]:
    if not path.is_file():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]


def log_to(path: Optional[Path] = None) -> None:
    """Send the package's log to stderr, and to ``path`` as well."""
    handlers = [logging.StreamHandler()] + ([logging.FileHandler(path, encoding="utf-8")] if path else [])
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%F %T", handlers=handlers, force=True
    )
