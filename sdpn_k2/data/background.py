"""Reading in a thread that holds up neither a signal nor the end of the program.

A file on hung storage, or a FIFO that nobody writes, blocks its reader for ever. The thread that waits here looks
around every second. The program may end while the reader is still blocked, since its thread is a daemon.
"""

from __future__ import annotations

import threading
from typing import Callable, Generic, List, Optional, TypeVar

LOOK_SECONDS = 1.0

Value = TypeVar("Value")


class Task(Generic[Value]):
    """A call of ``function`` in a thread of its own."""

    def __init__(self, function: Callable[[], Value]):
        self._values: List[Value] = []
        self._error: Optional[BaseException] = None
        self._done = threading.Event()
        threading.Thread(target=self._run, args=(function,), daemon=True).start()

    def _run(self, function: Callable[[], Value]) -> None:
        try:
            self._values.append(function())
        except BaseException as error:  # the thread that waits raises it
            self._error = error
        self._done.set()

    def wait(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the end of the call. Return False as soon as ``stopping()`` is true."""
        while not self._done.wait(LOOK_SECONDS):
            if stopping():
                return False
        return True

    def result(self) -> Value:
        """Return the value of the call, or raise its error; wait for its end."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._values[0]
