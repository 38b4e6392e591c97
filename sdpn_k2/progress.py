"""Progress of long work: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import List, Mapping, Optional

from tqdm import tqdm

from sdpn_k2.errors import InputError

log = logging.getLogger(__name__)


class Progress:
    """Progress over ``total`` items: a bar if stderr is a terminal, else about ``num_lines`` log lines."""

    def __init__(self, total: int, name: str, initial: int = 0, num_lines: int = 20):
        self.name, self.total, self.done = name, total, initial
        self._every = max(1, total // num_lines)
        self._bar = tqdm(total=total, initial=initial, desc=name) if sys.stderr.isatty() else None

    def update(self, count: int = 1, values: Optional[Mapping[str, str]] = None) -> None:
        """Count ``count`` more items as done, and show ``values`` beside the count."""
        values = values or {}
        before, self.done = self.done, self.done + count
        if self._bar is not None:
            self._bar.set_postfix(values, refresh=False)
            self._bar.update(count)
        elif before // self._every != self.done // self._every or self.done == self.total:
            details = "".join(f", {key} {value}" for key, value in values.items())
            log.info("%s: %d of %d%s", self.name, self.done, self.total, details)

    def close(self) -> None:
        """Close the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()


def log_to(path: Optional[Path] = None) -> None:
    """Send the package's log to stderr, and to ``path`` if given."""
    handlers: List[logging.Handler] = [logging.StreamHandler()]
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
