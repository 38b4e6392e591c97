"""The drop-in tools: Kaldi's names, options, tables and formats.

``run(name, arguments)`` runs one. Each module holds related tools, one function per tool.

A module name occurs once in the package, with one exception: ``X.py`` computes, and ``tools/X.py`` is its command line
(``backend/plda.py`` and ``tools/plda.py``). The modules of ``sdpn_k2.cli`` follow the same rule. A tool parses, reads,
calls the module that computes, writes and logs. Code that two tools share belongs on a lower shelf, not in either tool.

``command_line.py`` is shared by the tools, and ``script.py`` by the small scripts of ``utils/``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence

# This must precede the import of NumPy. Tools run side by side, in pipes and as jobs of run.pl; if the matrix products
# of each used every core, all of them would crawl.
if "OMP_NUM_THREADS" not in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from sdpn_k2.errors import InputError

if TYPE_CHECKING:  # command_line imports NumPy; the scripts of utils/ start without it
    from sdpn_k2.kaldi.tools.command_line import Tool

_MODULES: Dict[str, Sequence[str]] = {
    "copying": (
        "copy-vector",
        "copy-matrix",
        "copy-feats",
        "copy-int-vector",
        "select-feats",
        "subset-feats",
        "vector-scale",
    ),
    "feature_transforms": ("add-deltas", "paste-feats", "splice-feats", "subsample-feats", "transform-feats"),
    "sums": ("vector-sum", "matrix-sum", "matrix-sum-rows"),
    "dimensions": ("feat-to-dim", "feat-to-len", "matrix-dim"),
    "wave": ("extract-segments", "wav-to-duration", "wav-copy", "wav-reverberate"),
    "fbank_mfcc": ("compute-fbank-feats", "compute-mfcc-feats"),
    "energy_vad": ("compute-vad", "select-voiced-frames"),
    "cmvn": ("apply-cmvn-sliding", "apply-cmvn-online", "compute-cmvn-stats", "apply-cmvn"),
    "vectors": (
        "ivector-mean",
        "ivector-normalize-length",
        "ivector-subtract-global-mean",
        "transform-vec",
        "ivector-transform",
    ),
    "lda": ("ivector-compute-lda",),
    "pca": ("est-pca",),
    "plda": (
        "ivector-compute-plda",
        "ivector-copy-plda",
        "ivector-adapt-plda",
        "ivector-plda-scoring",
        "ivector-plda-scoring-dense",
    ),
    "dot_products": ("ivector-compute-dot-products",),
    "nnet3": ("nnet3-copy", "nnet3-info", "nnet3-xvector-compute"),
    "clustering": ("agglomerative-cluster",),
    "eer": ("compute-eer",),
    "sox": ("sox",),
}

MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def names() -> List[str]:
    """Return the names of all tools, sorted."""
    return sorted(MODULE_OF)


def get(name: str) -> Tool:
    """Return the tool of this name; raise InputError if there is none."""
    if name not in MODULE_OF:
        raise InputError(f"unknown tool {name!r} (the tools are: {' '.join(names())})")
    module = importlib.import_module(f"{__name__}.{MODULE_OF[name]}")
    tool: Tool = getattr(module, name.replace("-", "_"))
    return tool


def run(name: str, arguments: Optional[Sequence[str]] = None) -> int:
    """Run a tool with command-line arguments (default: those of this process); return the exit status."""
    with _exit_on_signals():
        return get(name)(sys.argv[1:] if arguments is None else arguments)


@contextlib.contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Turn the first SIGTERM or SIGHUP into SystemExit, so that temporary files are removed on the way out."""

    def leave(number: int, _frame: object) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    # Under nohup, SIGHUP stays ignored.
    signals = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    before: Dict[int, Any] = {}
    try:
        for each in signals:
            before[each] = signal.signal(each, leave)
    except ValueError:  # only the main thread may set handlers
        pass
    try:
        yield
    finally:
        for restored, handler in before.items():
            signal.signal(restored, handler)
