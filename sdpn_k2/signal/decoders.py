"""Choose the Viterbi decoder: that of k2 or that of torch."""

from __future__ import annotations

import importlib
import logging

import torch

from sdpn_k2.errors import InputError
from sdpn_k2.signal.segmentation import Decoder, viterbi

log = logging.getLogger(__name__)

DECODERS = ("auto", "k2", "torch")


def find_decoder(name: str) -> Decoder:
    """Return a Viterbi decoder by its name: ``k2``, ``torch``, or ``auto`` (k2 if it works, else torch).

    Raises:
        InputError: no such decoder, or k2 is requested but missing or not loadable with this torch.
    """
    if name not in DECODERS:
        raise InputError(f"{name!r} is not a valid decoder (expected {', '.join(DECODERS)})")
    if name == "torch":
        return viterbi
    try:
        return importlib.import_module("sdpn_k2.signal.k2_segmentation").viterbi
    except Exception as error:  # a binary built for another torch may fail in any way
        reason = _why_no_k2(error)
    if name == "k2":
        raise InputError(f"{reason}; see docs/vad.md, or use the decoder torch")
    log.info("%s; decoding with torch", reason)
    return viterbi


def _why_no_k2(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "k2":
        return "k2 is not installed"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"k2 cannot be loaded; it may be built for another torch than {torch.__version__}: {lines[0].strip()}"
