"""Operations of a piece of code, counted to show how its time grows where seconds would depend on the machine."""

import itertools
import sys
import threading
from typing import Callable


def count_calls(function: Callable[[], object]) -> int:
    """Call ``function``; return how many Python and C functions were called meanwhile, in this process.

    Every step of a generator counts as a call. Threads that ``function`` starts are included; processes are not.
    """
    counter = itertools.count()

    def profile(frame, event, argument):
        if event in ("call", "c_call"):
            next(counter)

    previous = sys.getprofile()
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(previous)
        threading.setprofile(previous)
    return next(counter)
