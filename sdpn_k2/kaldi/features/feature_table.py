"""Tables of features whose numbers are all finite: the input of every tool that computes with features."""

from __future__ import annotations

from typing import Iterator, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.tables import parse_rspecifier, read_table


def read_features(rspecifier: str) -> Iterator[Tuple[str, np.ndarray]]:
    """Yield the (key, features) pairs of a table; features have shape (frames, dim).

    Raises:
        InputError: features are NaN or infinite (with the option ``p`` they are skipped with a warning).
    """
    permissive = "p" in parse_rspecifier(rspecifier).options
    with read_table(rspecifier, "matrix") as reader:
        for key, features in reader:
            if np.isfinite(features).all():
                yield key, features
                continue
            message = f"{reader.where}: the features of {key} are NaN or infinite"
            if not permissive:
                raise InputError(message)
            log.warn(f"{message}; skipped (option p)")
