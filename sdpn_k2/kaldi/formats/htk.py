"""Feature files of HTK and of Sphinx, for reading."""

from __future__ import annotations

import struct

import numpy as np

from sdpn_k2.kaldi.formats.io import InputStream

_HEADER = struct.Struct(">iihH")  # frames, frame shift in 100 ns, bytes per frame, kind
_BASE, _COMPRESSED, _VECTOR_QUANTISED = 0o77, 0o2000, 0o40000
_NOT_FEATURES = {0: "waveforms", 5: "reflection coefficients", 10: "discrete symbols"}
_SPHINX_DIM = 13  # a Sphinx file does not say its dimension


def read_htk(stream: InputStream) -> np.ndarray:
    """Read an HTK parameter file as float32 (frames, dim).

    Raises:
        InputError: the file is cut short or compressed, or does not hold features.
    """
    frames, _shift, width, kind = _HEADER.unpack(stream.read_exactly(_HEADER.size, "the header of an HTK file"))
    if kind & (_COMPRESSED | _VECTOR_QUANTISED):
        raise stream.fail("the HTK file is compressed or vector-quantised, which is not supported")
    if kind & _BASE in _NOT_FEATURES:
        raise stream.fail(f"the HTK file holds {_NOT_FEATURES[kind & _BASE]}, not features")
    if frames < 0 or width <= 0 or width % 4:
        raise stream.fail(f"{frames} frames of {width} bytes are not a valid size of an HTK file")
    numbers = stream.read_array(">f4", frames * (width // 4), f"an HTK file of {frames} frames of {width} bytes")
    return numbers.reshape(frames, width // 4).astype(np.float32)


def read_sphinx(stream: InputStream) -> np.ndarray:
    """Read a little-endian Sphinx feature file of 13 dimensions as float32 (frames, 13).

    Raises:
        InputError: the file is cut short, or its size is not a multiple of 13.
    """
    (count,) = struct.unpack("<i", stream.read_exactly(4, "the header of a Sphinx file"))
    if count < 0 or count % _SPHINX_DIM:
        raise stream.fail(f"{count} numbers are not a valid size of a Sphinx file (a multiple of {_SPHINX_DIM})")
    return stream.read_array("<f4", count, f"a Sphinx file of {count} numbers").reshape(-1, _SPHINX_DIM)
