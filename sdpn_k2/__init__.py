"""Self-supervised speaker embeddings (SDPN) for Kaldi, lhotse and k2 users.

    model = sdpn_k2.load("exp/demo")
    embedding = model.embed("a.wav")
    print(model.verify("a.wav", "b.wav"))

The public API is ``sdpn_k2.__all__``. Importing the package is fast: a name's module is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List, Union

from sdpn_k2.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from sdpn_k2.inference.embedder import Embedder
    from sdpn_k2.inference.gallery import Gallery, Identification
    from sdpn_k2.inference.verification import Verdict
    from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter, read_table
    from sdpn_k2.scoring.backend import Backend
    from sdpn_k2.scoring.metrics import ErrorRates, cllr, eer, min_dcf
    from sdpn_k2.scoring.trial_arrays import Trials, read_trials
    from sdpn_k2.scoring.vector_files import read_vectors, write_vectors
    from sdpn_k2.signal.decoders import find_decoder
    from sdpn_k2.signal.segmentation import Topology, segment, spans

__all__ = [
    "Backend",
    "Embedder",
    "ErrorRates",
    "Gallery",
    "Identification",
    "InputError",
    "RandomReader",
    "TableWriter",
    "Topology",
    "Trials",
    "Verdict",
    "__version__",
    "cllr",
    "eer",
    "find_decoder",
    "load",
    "min_dcf",
    "read_table",
    "read_trials",
    "read_vectors",
    "segment",
    "spans",
    "write_vectors",
]

__version__ = "0.1.0"

# Where the names live that are imported on first use.
_MODULES = {
    "Backend": "scoring.backend",
    "Embedder": "inference.embedder",
    "ErrorRates": "scoring.metrics",
    "Gallery": "inference.gallery",
    "Identification": "inference.gallery",
    "RandomReader": "kaldi.formats.tables",
    "TableWriter": "kaldi.formats.tables",
    "Topology": "signal.segmentation",
    "Trials": "scoring.trial_arrays",
    "Verdict": "inference.verification",
    "cllr": "scoring.metrics",
    "eer": "scoring.metrics",
    "find_decoder": "signal.decoders",
    "min_dcf": "scoring.metrics",
    "read_table": "kaldi.formats.tables",
    "read_trials": "scoring.trial_arrays",
    "read_vectors": "scoring.vector_files",
    "segment": "signal.segmentation",
    "spans": "signal.segmentation",
    "write_vectors": "scoring.vector_files",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *_MODULES})


def load(
    checkpoint: Union[str, Path], device: Union[str, torch.device] = "auto", max_duration: float = 60.0
) -> Embedder:
    """Load the encoder of a checkpoint, ready to embed audio.

    Args:
        checkpoint: checkpoint file, or experiment folder with a ``final.pt``.
        device: torch device to compute on; ``auto`` is a GPU if there is one.
        max_duration: longest recording to embed in one piece, in seconds. Longer ones are split into equal chunks,
            and their embeddings averaged.

    Returns:
        The model, whose methods embed recordings and compare speakers.

    Raises:
        InputError: ``checkpoint`` is not a readable checkpoint, torch cannot use ``device``, or ``max_duration`` is
            below 0.1.
    """
    from sdpn_k2.inference.embedder import Embedder  # here, since torch takes seconds to import

    return Embedder.load(checkpoint, device, max_duration)
