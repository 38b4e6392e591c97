"""What a run tells a person: metrics, progress, signs of collapse."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Dict, Mapping

from sdpn_k2.config import Config
from sdpn_k2.progress import Progress
from sdpn_k2.training.health import warn_of_collapse
from sdpn_k2.training.metrics_log import MetricsLog, Throughput


class RunLog:
    """Metrics every ``train.log_every`` steps, and progress by time; only rank 0 has one.

    Args:
        exp: the experiment folder.
        config: configuration of the run.
        first_step: number of steps that were done before.
        num_steps: number of steps of the whole run.
    """

    def __init__(self, exp: Path, config: Config, first_step: int, num_steps: int):
        self._config, self._first_step = config, first_step
        self._metrics = MetricsLog(exp, first_step, config)
        self._throughput = Throughput()
        self._progress = Progress(num_steps, "training, steps", first_step, ("utterances", config.train.batch_size))
        for eer in self._metrics.dev_eers[-1:]:
            self._show_dev_eer(eer)

    def waiting(self) -> AbstractContextManager:
        """Return a context whose time counts as waiting for data."""
        return self._throughput.waiting()

    def write_step(
        self, step: int, statistics: Mapping[str, Any], costs: Mapping[str, float], log_metrics: bool
    ) -> None:
        """Count a step, and show it where it is time to. On a GPU, reading statistics waits for the device.

        Args:
            step: number of steps done.
            statistics: statistics of the step: scalars on the device, or numbers.
            costs: further metrics, such as peak memory.
            log_metrics: whether this step's metrics are logged.
        """
        self._throughput.count(self._config.train.batch_size)
        if log_metrics:
            values = {name: float(value) for name, value in statistics.items()}
            values.update(self._throughput.read(), **costs)
            warn_of_collapse(step, values, self._config)
            self._metrics.write(step, values)
        shown = log_metrics or self._progress.due or step == self._first_step + 1
        self._progress.update(values=_shown(statistics) if shown else {})

    def write_dev_eer(self, step: int, eer: float) -> None:
        """Log an EER on the dev trials, in per cent."""
        self._metrics.write(step, {"dev_eer": eer})
        self._show_dev_eer(eer)

    def _show_dev_eer(self, eer: float) -> None:
        self._progress.update(0, {"dev EER": f"{eer:.2f} %"})

    def close(self) -> None:
        """Flush and close the files, and the bar."""
        self._progress.close()
        self._metrics.close()


def _shown(statistics: Mapping[str, Any]) -> Dict[str, str]:
    """Format the statistics of a step that the log shows; some steps have no effective rank."""
    formats = {"loss": ("loss", ".4f"), "lr": ("lr", ".3g"), "effective_rank": ("effective rank", ".1f")}
    return {shown: f"{float(statistics[name]):{form}}" for name, (shown, form) in formats.items() if name in statistics}
