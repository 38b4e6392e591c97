"""Embeddings of single recordings: the class that ``sdpn_k2.load`` returns, and ``sdpn-k2 embed``."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
from collections import Counter
from numbers import Real
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Sequence, Union

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.errors import InputError, error_context
from sdpn_k2.files import atomic_output
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.wave import read_audio
from sdpn_k2.kaldi.formats.tables import TableWriter, is_table
from sdpn_k2.kaldi.formats.words import is_key
from sdpn_k2.pcm import from_int16

log = logging.getLogger(__name__)

Audio = Union[str, Path, np.ndarray, Tensor]


class Embedder:
    """A trained encoder that embeds files and waveforms.

    Attributes:
        sample_rate: sample rate of the model, in Hz.
        dim: dimension of the embeddings.
    """

    def __init__(self, extractor: Extractor):
        self.extractor = extractor
        self.sample_rate = extractor.sample_rate
        self.dim = extractor.dim

    @classmethod
    def load(
        cls, checkpoint: Union[str, Path], device: Union[str, torch.device] = "cpu", max_duration: float = 60.0
    ) -> Embedder:
        """Load a checkpoint; see ``sdpn_k2.load``."""
        path = Path(checkpoint)
        if path.is_dir():
            path = path / "final.pt"
            if not path.is_file():
                raise InputError(f"{path}: no such file; the training in {checkpoint} is not finished")
        return cls(Extractor.load(path, device, max_duration))

    def embed(self, audio: Audio, rate: Optional[int] = None, channel: int = 0) -> np.ndarray:
        """Return the embedding of a recording, float32 ``(dim,)``.

        Args:
            audio: a file (or ``-``, a FIFO, ``command |``), or a waveform ``(samples,)`` or ``(1, samples)`` of floats
                in ±1 or int16.
            rate: sample rate of the waveform, if it is not the model's; it is then resampled. Files name their own.
            channel: channel to use in a file with several (0-based).

        Raises:
            InputError: unreadable audio; a waveform with several channels, NaN or another type; a rate that is not a
                whole number of Hz; fewer than 5 frames (65 ms).
        """
        if isinstance(audio, (str, Path)):
            return self._embed(from_int16(read_audio(str(audio), self.sample_rate, channel)), str(audio))
        if isinstance(audio, Tensor):
            audio = audio.detach().cpu()
            samples = (audio.float() if audio.is_floating_point() else audio).numpy()  # NumPy has no bfloat16
        else:
            samples = np.asarray(audio)
        if samples.ndim == 2 and len(samples) == 1:
            samples = samples[0]
        if samples.ndim != 1:
            raise InputError(f"a waveform should have shape (samples,); this one has shape {samples.shape}")
        if samples.dtype == np.int16:
            samples = from_int16(samples)
        elif not np.issubdtype(samples.dtype, np.floating):
            raise InputError(f"a waveform should hold floats in ±1 or int16; this one holds {samples.dtype}")
        if not np.isfinite(samples).all():
            raise InputError("the waveform has NaN or infinite samples")
        if rate is None:
            rate = self.sample_rate
        if not isinstance(rate, Real) or not math.isfinite(rate):
            raise InputError(f"the sample rate is {rate!r}; it must be a whole number of Hz")
        return self._embed(resample(samples, rate, self.sample_rate), "the waveform")

    def _embed(self, samples: np.ndarray, source: str) -> np.ndarray:
        with error_context(source):
            return self.extractor.embed(samples)


def embed_files(embedder: Embedder, files: Sequence[str], output: str, channel: int = 0) -> int:
    """Embed files (or ``-``, ``command |``), write the embeddings under the files' names, and return their number.

    A file that cannot be embedded is skipped with a warning. With ``.npy``, whose rows have no names, it is an error.

    Args:
        embedder: the model.
        files: the recordings.
        output: ``x.npy`` (float32 ``(files, dim)``), ``x.json`` or ``-`` (an object of lists, in a file or on standard
            output), ``x.ark`` or a Kaldi wspecifier.
        channel: channel to use in files with several (0-based).

    Raises:
        InputError: the output is of another kind or cannot be written; a duplicate file; a name with white space for a
            Kaldi archive; no file could be embedded.
    """
    kind = _kind(output)
    duplicates = [name for name, times in Counter(files).items() if times > 1]
    if duplicates:
        raise InputError(f"{duplicates[0]}: duplicate file")
    if kind == "ark":
        spaced = [name for name in files if not is_key(name)]
        if spaced:
            raise InputError(
                f"{spaced[0]!r}: a name with white space cannot be a key in a Kaldi archive; use .json or .npy"
            )
    with _open(output, kind) as write:  # before embedding, which may take hours
        embeddings: Dict[str, np.ndarray] = {}
        for name in files:
            try:
                embeddings[name] = embedder.embed(name, channel=channel)
            except InputError as error:
                if kind == "npy" or len(files) == 1:
                    raise
                log.warning("skipped %s", error)
        if not embeddings:
            raise InputError(f"none of the {len(files)} files could be embedded")
        write(embeddings)
    log.info("done %d, failed %d", len(embeddings), len(files) - len(embeddings))
    return len(embeddings)


def _kind(output: str) -> str:
    if is_table(output) or output.endswith(".ark"):
        return "ark"
    if output.endswith(".npy"):
        return "npy"
    if output == "-" or output.endswith(".json"):
        return "json"
    raise InputError(f"{output}: use .npy, .json, .ark, or a Kaldi wspecifier such as ark,scp:x.ark,x.scp")


@contextlib.contextmanager
def _open(output: str, kind: str) -> Iterator[Callable[[Dict[str, np.ndarray]], object]]:
    """Open the output, and yield the function that writes name → embedding into it."""
    if kind == "ark":
        with TableWriter(output if is_table(output) else f"ark:{output}", "vector") as table:
            yield lambda embeddings: _write_table(table, embeddings)
    elif kind == "npy":
        with atomic_output(output) as stream:
            yield lambda embeddings: np.save(stream, np.stack(list(embeddings.values())))
    elif output == "-":
        yield lambda embeddings: sys.stdout.write(_to_json(embeddings))
    else:
        with atomic_output(output, "w") as stream:
            yield lambda embeddings: stream.write(_to_json(embeddings))


def _write_table(table: TableWriter, embeddings: Dict[str, np.ndarray]) -> None:
    for name, embedding in embeddings.items():
        table.write(name, embedding)


def _to_json(embeddings: Dict[str, np.ndarray]) -> str:
    # str() of a float32 is the shortest decimal that gives the same float32.
    lines = (
        f"{json.dumps(name)}: [{', '.join(map(str, map(float, map(str, vector))))}]"
        for name, vector in embeddings.items()
    )
    return "{" + ",\n ".join(lines) + "}\n"
