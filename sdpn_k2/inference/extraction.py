"""Embeddings of whole utterances, by the teacher's encoder of a checkpoint.

Only utterances of equal length share a batch, and none is padded. The encoder reflects at both ends, so padding would
change the embedding by 2 %.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.config import Config, FeaturesConfig
from sdpn_k2.device import usable_device
from sdpn_k2.errors import InputError, Skipped, check_skip_bad
from sdpn_k2.inference.long_recordings import LongFeatures, split
from sdpn_k2.inference.utterance_features import (
    Features,
    compute_features,
    embeddable_frames,
    is_data_dir,
    read_cut_features,
    read_features,
)
from sdpn_k2.kaldi.formats.tables import RandomReader
from sdpn_k2.models.checkpoint import load_checkpoint, teacher_encoder
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.progress import Progress
from sdpn_k2.scoring.vector_files import MANIFESTS, open_vectors
from sdpn_k2.signal.fbank import instance_norm
from sdpn_k2.signal.front_end import front_end

log = logging.getLogger(__name__)

# Utterances are read ahead to find some of equal length, up to this number of them or of their frames (320 bytes each).
BLOCK_UTTERANCES = 256
BLOCK_FRAMES = 500000
BATCH_FRAMES = 12000  # frames that go through the network at once


class Extractor:
    """A checkpoint's encoder and front end.

    Attributes:
        sample_rate: sample rate of the waveforms that it embeds, in Hz.
        dim: dimension of the embeddings.
    """

    def __init__(self, encoder: EcapaTdnn, config: Config, device: torch.device, max_duration: float = 60.0):
        """Set up the encoder for inference.

        Args:
            encoder: the encoder, with its weights.
            config: configuration of the model.
            device: where features and embeddings are computed.
            max_duration: seconds; a longer utterance is embedded in equal chunks, and its embedding is their mean.

        Raises:
            InputError: ``max_duration`` is too short, since half a chunk must be long enough to embed.
        """
        frames, least = max_duration * 1000 / config.features.frame_shift_ms, 2 * EcapaTdnn.MIN_FRAMES
        if not least <= frames < math.inf:
            shortest = least * config.features.frame_shift_ms / 1000
            raise InputError(f"max_duration is {max_duration:g} s; it must be finite and at least {shortest:g} s")
        self.encoder = encoder.to(device).eval()
        self.device = device
        self.features = config.features
        self.front_end = front_end(config.features).to(device)
        self.sample_rate = config.features.sample_rate
        self.max_frames = round(frames)
        self.dim = config.model.embedding_dim
        self._digest = ""

    @property
    def digest(self) -> str:
        """SHA-256 of what makes its embeddings comparable: the weights, and the front end where it is not the default.

        Values that equal the default are left out, so that options of later versions change nothing.
        """
        if not self._digest:
            features = asdict(self.features)
            other = {name: value for name, value in features.items() if value != asdict(FeaturesConfig())[name]}
            digest = hashlib.sha256(json.dumps(other, sort_keys=True).encode())
            for name, tensor in sorted(self.encoder.state_dict().items()):
                digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
            self._digest = digest.hexdigest()
        return self._digest

    @classmethod
    def load(cls, checkpoint: Path, device: Union[str, torch.device] = "cpu", max_duration: float = 60.0) -> Extractor:
        """Load the teacher's encoder from a checkpoint.

        Raises:
            InputError: not a readable checkpoint of this package; a device that torch cannot use; a ``max_duration``
                that is too short.
        """
        device = usable_device(device)
        loaded = load_checkpoint(checkpoint)
        return cls(teacher_encoder(loaded, checkpoint), loaded.config, device, max_duration)

    def embed(self, waveform: np.ndarray) -> np.ndarray:
        """Return the embedding ``(dim,)`` float32 of a waveform ``(samples,)`` in ±1 at the model's sample rate.

        Raises:
            InputError: fewer than 5 frames (65 ms) besides digital silence; samples or an embedding not finite.
        """
        embedding: np.ndarray = self.embed_waveforms([waveform])[0]
        if not np.isfinite(embedding).all():
            raise InputError("its embedding is not finite; check the weights of the checkpoint")
        return embedding

    def embed_waveforms(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Return the embeddings ``(waveforms, dim)`` float32 of several waveforms ``(samples,)`` in ±1.

        Raises:
            InputError: as :meth:`embed`, for any of them.
        """
        return self.embed_fbank([self.compute_features(waveform) for waveform in waveforms])

    def compute_features(self, waveform: np.ndarray) -> Tensor:
        """Return the features to embed of a waveform ``(samples,)`` in ±1: ``(frames, bins)``, on the model's device.

        Raises:
            InputError: as :meth:`embed`.
        """
        return embeddable_frames(compute_features(self.front_end, waveform, self.features), self.features)

    @torch.inference_mode()
    @torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # TF32 would change embeddings by 1e-3
    def embed_fbank(self, utterances: Sequence[Union[np.ndarray, Tensor, LongFeatures]]) -> np.ndarray:
        """Return the embeddings ``(utterances, dim)`` float32 of features ``(frames, bins)`` of 5 frames or more.

        Frames of digital silence are embedded with the others; ``embeddable_frames`` leaves them out beforehand.
        """
        pieces: Dict[int, List[Tuple[int, Tensor]]] = defaultdict(list)
        sums = torch.zeros(len(utterances), self.dim, device=self.device)
        lengths = torch.zeros(len(utterances), 1, device=self.device)
        for index, fbank in enumerate(utterances):
            for chunk in split(fbank, -(-len(fbank) // self.max_frames), self.device):
                lengths[index] += len(chunk)
                if isinstance(fbank, LongFeatures):  # not held until the end
                    sums[index] += self.encoder(instance_norm(chunk[None]))[0] * len(chunk)
                else:
                    pieces[len(chunk)].append((index, chunk))
        for frames, group in pieces.items():
            size = max(1, BATCH_FRAMES // frames)
            for start in range(0, len(group), size):
                indices, chunks = zip(*group[start : start + size])
                embeddings = self.encoder(instance_norm(torch.stack(chunks)))
                sums.index_add_(0, torch.tensor(indices, device=self.device), embeddings * frames)
        return (sums / lengths).cpu().numpy()


def extract(
    extractor: Extractor, data: Path, output: Union[str, Path], use_vad: bool = False, skip_bad: bool = False
) -> int:
    """Embed every utterance of a Kaldi data directory or every cut of a set, and return how many were embedded.

    Models on Kaldi's fbank read ``feats.scp`` if it exists; otherwise features are computed from ``wav.scp`` and
    ``segments``, or from the cuts' audio. Utterances with too few frames, NaN or unreadable audio are skipped with a
    warning.

    Args:
        extractor: the model.
        data: Kaldi data directory, manifest of cuts or recordings, or Shar folder.
        output: where the embeddings are written, see :mod:`sdpn_k2.scoring.vector_files`. For cuts also ``x.jsonl`` or
            ``x.jsonl.gz``, which gets the cuts with ``cut.xvector``; the arrays are in the folder ``x.xvectors``.
        use_vad: embed only the frames that ``vad.scp`` marks as speech.
        skip_bad: accept that more than 5 % of the utterances are skipped, as long as one is not.

    Raises:
        InputError: missing or empty tables, features of another dimension, too many utterances skipped.
    """
    if str(output).endswith(MANIFESTS):
        return _extract_into_cuts(extractor, data, Path(output), use_vad, skip_bad)
    vad_scp = None
    if use_vad:
        vad_scp = data / "vad.scp"
        if not vad_scp.is_file():
            raise InputError(f"{vad_scp}: no such file; run sid/compute_vad_decision.sh, or leave out --use-vad")
    read = read_cut_features
    if is_data_dir(data):
        read = functools.partial(read_features, every_frame=use_vad, long_as_chunks=not use_vad)
    total, utterances = read(data, extractor.features, extractor.front_end)
    if not total:
        raise InputError(f"{data}: no utterances to embed")
    skipped: List[Skipped] = []
    progress = Progress(total, f"extracting {data.name}, utterances")
    with open_vectors(output) as write:
        for block in blocks(_usable(utterances, extractor.features, vad_scp)):
            if isinstance(block, Skipped):
                skipped.append(block)
                progress.update()
                continue
            for (key, _), embedding in zip(block, extractor.embed_fbank([features for _, features in block])):
                if np.isfinite(embedding).all():
                    write({key: embedding})
                else:
                    skipped.append(Skipped(key, "its embedding is not finite; check the weights of the checkpoint"))
            progress.update(len(block))
        progress.close()
        for key, reason in skipped:
            log.warning("skipped utterance %s: %s", key, reason)
        log.info("done %d, failed %d", total - len(skipped), len(skipped))
        check_skip_bad(skipped, total, skip_bad, where=data)
    return total - len(skipped)


def _extract_into_cuts(extractor: Extractor, data: Path, output: Path, use_vad: bool, skip_bad: bool) -> int:
    """Write the cuts of ``data`` with their embeddings as ``cut.xvector``."""
    if is_data_dir(data):
        raise InputError(f"{output}: only cuts are written with their x-vectors, but {data} is a data directory")
    if data.is_dir():
        raise InputError(f"{output}: shards are not written back; write x.scp instead")
    from sdpn_k2.data.cut_sets import CutSetReader  # here, since lhotse takes a second to import
    from sdpn_k2.data.stored_arrays import attach_xvectors

    if not output.parent.is_dir():
        raise InputError(f"{output}: cannot write: no such folder")
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        count = extract(extractor, data, f"ark,scp:{folder}/x.ark,{folder}/x.scp", use_vad, skip_bad)
        attach_xvectors(CutSetReader(data), RandomReader(f"scp:{folder}/x.scp", "vector"), output, own=True)
    return count


def _usable(utterances: Iterable[Features], config: FeaturesConfig, vad_scp: Optional[Path]) -> Iterator[Features]:
    """Yield the features to embed of each utterance: all frames, or the speech frames if there is a ``vad_scp``."""
    vad = RandomReader(f"scp:{vad_scp}", "vector") if vad_scp else None
    for utterance in utterances:
        if isinstance(utterance, Skipped):
            yield utterance
            continue
        key, features = utterance
        if isinstance(features, LongFeatures):
            yield key, features
            continue
        decisions = vad.get(key) if vad is not None else None
        try:
            if vad is not None:
                features = features[torch.from_numpy(_speech_frames(decisions, len(features), config))]
            yield key, embeddable_frames(features, config)
        except InputError as error:
            yield Skipped(key, str(error))


def _speech_frames(decisions: Optional[np.ndarray], num_frames: int, config: FeaturesConfig) -> np.ndarray:
    """Return which of the ``num_frames`` are speech, bool ``(num_frames,)``, from an entry of ``vad.scp``."""
    if decisions is None:
        raise InputError("not in vad.scp")
    speech = decisions > 0
    if config.kind == "melspec":
        # Kaldi's frames lie within the audio; those of melspec are centred on every frame shift.
        offset = round(config.frame_length_ms / config.frame_shift_ms / 2)
        if 0 <= num_frames - len(speech) <= 2 * offset + 1:
            return speech[np.clip(np.arange(num_frames) - offset, 0, len(speech) - 1)]
    if len(speech) != num_frames:
        raise InputError(f"{num_frames} frames, but {len(speech)} decisions in vad.scp")
    return speech


def blocks(
    utterances: Iterable[Features], size: int = BLOCK_UTTERANCES
) -> Iterator[Union[List[Tuple[str, Tensor]], Skipped]]:
    """Yield blocks of ``size`` utterances, or of ``BLOCK_FRAMES`` frames and more; pass on the skipped."""
    block: List[Tuple[str, Tensor]] = []
    frames = 0
    for utterance in utterances:
        if isinstance(utterance, Skipped):
            yield utterance
            continue
        block.append(utterance)
        frames += len(utterance[1])
        if len(block) == size or frames >= BLOCK_FRAMES:
            yield block
            block, frames = [], 0
    if block:
        yield block
