"""The metrics of a training run: metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Dict, Iterable, Iterator

from torch.utils.tensorboard import SummaryWriter

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output


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
            raise InputError(
                f"{self._exp}: cannot write metrics.jsonl or tensorboard/: {error.strerror or error}"
            ) from error


def _complete_lines(path: Path) -> Iterable[str]:
    if not path.is_file():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]
