"""Progress of long work: a bar on a terminal, and log lines at times that suit a batch job."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from pathlib import Path
from typing import Callable, Deque, Dict, List, Mapping, Optional, Tuple

from tqdm import tqdm

from sdpn_k2.errors import InputError

log = logging.getLogger(__name__)

FIRST_LINE_SECONDS = 10.0
LINE_SECONDS = 60.0
# Speed and time left are those of this many lines, so that a slow start or longer crops do not count for ever.
LINES_OF_SPEED = 10


class Progress:
    """Progress over ``total`` items: a log line after 10 s, then every minute, and a bar if stderr is a terminal.

    A line has the count, the values that ``update`` was given last, the speed and the time left. The bar has them too.

    Args:
        total: number of items.
        name: what is done, and the unit of an item, such as ``training, steps``.
        initial: number of items that were done before.
        speed: unit of the speed, and how many of it an item has; by default the speed is not shown.
        clock: the time in seconds.
    """

    def __init__(
        self,
        total: int,
        name: str,
        initial: int = 0,
        speed: Optional[Tuple[str, float]] = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.name, self.total, self.done = name, total, initial
        self._speed, self._clock = speed, clock
        self._values: Dict[str, str] = {}
        self._marks: Deque[Tuple[float, int]] = deque([(clock(), initial)], maxlen=LINES_OF_SPEED)
        self._next = self._marks[0][0] + FIRST_LINE_SECONDS
        self._bar = tqdm(total=total, initial=initial, desc=name) if sys.stderr.isatty() else None

    @property
    def due(self) -> bool:
        """Whether the next ``update`` writes a line, so that values which are costly to read are worth it."""
        return self._clock() >= self._next

    def update(self, count: int = 1, values: Optional[Mapping[str, str]] = None) -> None:
        """Count ``count`` more items as done. Show ``values``, and those of earlier calls, beside the count."""
        self._values.update(values or {})
        self.done += count
        now = self._clock()
        if self._bar is not None:
            self._bar.set_postfix({**self._values, **self._rate(now)}, refresh=False)
            self._bar.update(count)
        if now >= self._next or (self.done >= self.total and count):
            self._write_line(now)
            # Keep to full minutes; after a long pause, the next line is a minute away.
            self._next = max(self._next + LINE_SECONDS, now + LINE_SECONDS / 2)

    def close(self) -> None:
        """Close the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()

    def _write_line(self, now: float) -> None:
        parts = [f"{self.name}: {self.done} of {self.total} ({100 * self.done / max(1, self.total):.0f} %)"]
        parts += [f"{name} {value}" for name, value in self._values.items()]
        parts += [f"{value} {unit}" for unit, value in self._rate(now).items()]
        per_second = self._per_second(now)
        if per_second and self.done < self.total:
            parts.append(f"{hours_minutes_seconds((self.total - self.done) / per_second)} left")
        self._marks.append((now, self.done))
        log.info(", ".join(parts), extra={ON_BAR: self._bar is not None})

    def _per_second(self, now: float) -> float:
        """Return the items per second over the last lines; 0 before the first item."""
        start, before = self._marks[0]
        return (self.done - before) / (now - start) if now > start else 0.0

    def _rate(self, now: float) -> Dict[str, str]:
        """Return the speed by its unit; nothing where there is none."""
        per_second = self._per_second(now)
        if self._speed is None or not per_second:
            return {}
        unit, per_item = self._speed
        return {f"{unit}/s": f"{per_second * per_item:.1f}"}


def hours_minutes_seconds(seconds: float) -> str:
    """Format a duration, such as ``27:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


# Attribute of the log records that a bar shows already.
ON_BAR = "on_bar"


class _AboveBars(logging.StreamHandler):
    """Writes the log to stderr, above any bars, without the lines that a bar shows."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, ON_BAR, False):
            return
        try:
            with tqdm.external_write_mode(file=self.stream):
                super().emit(record)
        except Exception:  # as logging itself does: a log line never ends the work
            self.handleError(record)


def log_to(path: Optional[Path] = None) -> None:
    """Send the package's log to stderr, and to ``path`` if given."""
    handlers: List[logging.Handler] = [_AboveBars()]
    if path is not None:
        try:
            handlers.append(logging.FileHandler(path, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise InputError(f"{path}: cannot write: {error.strerror or error}") from error
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%F %T",
        handlers=handlers,
        force=True,
    )
