"""One recording in, one embedding out: what ``sdpn_k2.load`` returns, and ``sdpn-k2 embed``."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
from collections import Counter
from numbers import Real
from pathlib import Path
from typing import IO, ContextManager, Dict, Optional, Sequence, Union

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.wave import read_audio
from sdpn_k2.kaldi.formats.tables import TableWriter, is_table

log = logging.getLogger(__name__)

Audio = Union[str, Path, np.ndarray, Tensor]


class Embedder:
    """A trained encoder.

    Attributes:
        sample_rate: of the waveforms it takes, in Hz.
        dim: of its embeddings.
    """

    def __init__(self, extractor: Extractor):
        self.extractor = extractor
        self.sample_rate = extractor.sample_rate
        self.dim = extractor.dim

    @classmethod
    def load(
        cls, checkpoint: Union[str, Path], device: Union[str, torch.device] = "cpu", max_duration: float = 60.0
    ) -> Embedder:
        """See :func:`sdpn_k2.load`."""
        path = Path(checkpoint)
        if path.is_dir():
            path = path / "final.pt"
            if not path.is_file():
                raise InputError(f"{path}: no such file; the training in {checkpoint} has not come to its end")
        return cls(Extractor.load(path, device, max_duration))

    def embed(self, audio: Audio, rate: Optional[int] = None, channel: int = 0) -> np.ndarray:
        """The embedding of a recording, float32 ``(dim,)``.

        Args:
            audio: a file (or ``-``, a FIFO, ``command |``), or a waveform ``(samples,)`` or ``(1, samples)``: floats in
                ±1, or int16.
            rate: sample rate of the waveform, if it is not the model's; files say theirs. Other rates are resampled.
            channel: of a file with several.

        Raises:
            InputError: unreadable audio; a waveform with several channels, NaN or another type; a rate that is not a
                whole number of Hz; fewer than 5 frames (65 ms).
        """
        if isinstance(audio, (str, Path)):
            return self._embed(read_audio(str(audio), self.sample_rate, channel) / np.float32(32768), str(audio))
        if isinstance(audio, Tensor):
            audio = audio.detach().cpu()
            samples = (audio.float() if audio.is_floating_point() else audio).numpy()  # NumPy has no bfloat16
        else:
            samples = np.asarray(audio)
        if samples.ndim == 2 and len(samples) == 1:
            samples = samples[0]
        if samples.ndim != 1:
            raise InputError(f"a waveform has one channel, shape (samples,); this one has shape {samples.shape}")
        if samples.dtype == np.int16:
            samples = samples.astype(np.float32) / 32768
        elif not np.issubdtype(samples.dtype, np.floating):
            raise InputError(f"a waveform is of floats in ±1 or int16; this one is {samples.dtype}")
        if not np.isfinite(samples).all():
            raise InputError("the waveform has NaN or infinite samples")
        if rate is None:
            rate = self.sample_rate
        if not isinstance(rate, Real) or not math.isfinite(rate):
            raise InputError(f"the sample rate is {rate!r}, must be a whole number of Hz")
        return self._embed(resample(samples, rate, self.sample_rate), "the waveform")

    def _embed(self, samples: np.ndarray, source: str) -> np.ndarray:
        try:
            return self.extractor.embed(samples)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error


def embed_files(embedder: Embedder, files: Sequence[str], output: str, channel: int = 0) -> int:
    """Embed files (or ``-``, ``command |``) and write the embeddings under the files' names; returns how many.

    A file that cannot be embedded is skipped with a warning, but not for ``.npy``, whose rows are the files in order.

    Args:
        embedder: the model.
        files: the recordings.
        output: ``x.npy`` (float32 ``(files, dim)``), ``x.json`` or ``-`` (an object of lists, to a file or the standard
            output), ``x.ark`` or a Kaldi wspecifier.
        channel: of files with several.

    Raises:
        InputError: another kind of output, a file given twice, a name with white space for a Kaldi archive, no file
            could be embedded, or the output cannot be written.
    """
    kind = _kind(output)
    twice = [name for name, times in Counter(files).items() if times > 1]
    if twice:
        raise InputError(f"{twice[0]}: given twice")
    if kind == "ark":
        spaced = [name for name in files if len(name.split()) != 1]
        if spaced:
            raise InputError(
                f"{spaced[0]!r}: a name with white space cannot be a key of a Kaldi archive; take .json or .npy"
            )
    with _open(output, kind) as opened:  # first, since embedding may take hours
        embeddings: Dict[str, np.ndarray] = {}
        for name in files:
            try:
                embeddings[name] = embedder.embed(name, channel=channel)
            except InputError as error:
                if kind == "npy" or len(files) == 1:
                    raise
                log.warning("skipped: %s", error)
        if not embeddings:
            raise InputError(f"none of the {len(files)} files could be embedded")
        _write(opened, kind, embeddings)
    log.info("done %d, failed %d", len(embeddings), len(files) - len(embeddings))
    return len(embeddings)


def _kind(output: str) -> str:
    if is_table(output) or output.endswith(".ark"):
        return "ark"
    if output.endswith(".npy"):
        return "npy"
    if output == "-" or output.endswith(".json"):
        return "json"
    raise InputError(f"{output}: name it .npy, .json or .ark, or give a Kaldi wspecifier such as ark,scp:x.ark,x.scp")


def _open(output: str, kind: str) -> ContextManager[Union[IO, TableWriter]]:
    if kind == "ark":
        return TableWriter(output if is_table(output) else f"ark:{output}", "vector")
    if output == "-":
        return contextlib.nullcontext(sys.stdout)
    return atomic_output(output, "wb" if kind == "npy" else "w")


def _write(opened: Union[IO, TableWriter], kind: str, embeddings: Dict[str, np.ndarray]) -> None:
    if kind == "npy":
        np.save(opened, np.stack(list(embeddings.values())))
    elif kind == "ark":
        for name, embedding in embeddings.items():
            opened.write(name, embedding)
    else:
        # The shortest decimals that give the same float32.
        lines = (
            f"{json.dumps(name)}: [{', '.join(map(str, map(float, map(str, vector))))}]"
            for name, vector in embeddings.items()
        )
        opened.write("{" + ",\n ".join(lines) + "}\n")
