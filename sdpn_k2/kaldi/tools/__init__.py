"""The drop-in tools: Kaldi's names, options, tables and formats.

``run(name, arguments)`` starts one. Each module of this package holds the tools of one trade, a function per tool.
"""

import contextlib
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Sequence

# Before NumPy is loaded: tools run side by side, in pipes and as jobs of run.pl. If each of them lets its matrix products take
# every core, all of them crawl.
if "OMP_NUM_THREADS" not in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from sdpn_k2.errors import InputError

if TYPE_CHECKING:  # options brings NumPy, which the scripts of utils/ start without
    from sdpn_k2.kaldi.tools.options import Tool

_MODULES: Dict[str, Sequence[str]] = {
    "copying": (
        "copy-vector",
        "copy-matrix",
        "copy-feats",
        "copy-int-vector",
        "vector-scale",
        "vector-sum",
        "matrix-dim",
        "matrix-sum",
        "select-feats",
    ),
    "vectors": (
        "ivector-mean",
        "ivector-normalize-length",
        "ivector-subtract-global-mean",
        "transform-vec",
        "ivector-transform",
    ),
    "backend": ("ivector-compute-lda", "ivector-compute-plda", "ivector-copy-plda", "ivector-adapt-plda", "est-pca"),
    "scoring": (
        "ivector-plda-scoring",
        "ivector-plda-scoring-dense",
        "ivector-compute-dot-products",
        "agglomerative-cluster",
        "compute-eer",
    ),
    "features": (
        "compute-fbank-feats",
        "compute-mfcc-feats",
        "compute-vad",
        "select-voiced-frames",
        "subset-feats",
        "feat-to-len",
        "feat-to-dim",
    ),
    "cmvn": ("apply-cmvn-sliding", "compute-cmvn-stats", "apply-cmvn"),
    "audio": ("extract-segments", "wav-to-duration", "wav-copy", "wav-reverberate"),
}

MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def names() -> List[str]:
    """The names of all tools, sorted."""
    return sorted(MODULE_OF)


def get(name: str) -> "Tool":
    """The tool of this name.

    Raises:
        InputError: there is none.
    """
    if name not in MODULE_OF:
        raise InputError(f"there is no tool {name!r}; there are: {' '.join(names())}")
    module = importlib.import_module(f"{__name__}.{MODULE_OF[name]}")
    return getattr(module, name.replace("-", "_"))


def run(name: str, arguments: Optional[Sequence[str]] = None) -> int:
    """Run a tool on its command-line arguments (default: this process's) and return the exit status."""
    with _exit_on_signals():
        return get(name)(sys.argv[1:] if arguments is None else arguments)


@contextlib.contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Turn the first SIGTERM or SIGHUP into SystemExit, so that the temporary files go on the way out."""

    def leave(number: int, _frame: object) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    # Under nohup, SIGHUP stays ignored.
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    before: Dict[int, object] = {}
    try:
        for number in numbers:
            before[number] = signal.signal(number, leave)
    except ValueError:  # not in the main thread, which alone may do this
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
