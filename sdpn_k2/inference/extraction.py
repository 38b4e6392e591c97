"""Embeddings from a checkpoint: the teacher's encoder on whole utterances.

Utterances are batched with others of exactly their length, never padded: the encoder reflects at both ends, and a
padded batch would change the embedding by 2 %.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.config import Config, FeaturesConfig
from sdpn_k2.device import usable_device
from sdpn_k2.errors import InputError
from sdpn_k2.inference.utterance_features import Features, compute_features, read_features
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter
from sdpn_k2.models.checkpoint import load_checkpoint
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.progress import Progress
from sdpn_k2.signal.fbank import instance_norm
from sdpn_k2.signal.front_end import front_end

log = logging.getLogger(__name__)

MAX_FAILED_SHARE = 0.05
# Utterances read ahead to find some of equal length, frames they may have (320 bytes each), and frames that go through
# the network at once.
BLOCK_UTTERANCES = 256
BLOCK_FRAMES = 500000
BATCH_FRAMES = 12000


class Extractor:
    """The encoder of a checkpoint, ready to embed."""

    def __init__(self, encoder: EcapaTdnn, config: Config, device: torch.device, max_duration: float = 60.0):
        """``max_duration``: longer utterances (seconds) are embedded in equal chunks, and the chunks averaged.

        Raises:
            InputError: chunks of so few frames that half of one is too short to be embedded.
        """
        frames, least = max_duration * 1000 / config.features.frame_shift_ms, 2 * EcapaTdnn.MIN_FRAMES
        if not least <= frames < math.inf:
            shortest = least * config.features.frame_shift_ms / 1000
            raise InputError(f"max_duration is {max_duration:g} s, must be {shortest:g} s or more, and finite")
        self.encoder = encoder.to(device).eval()
        self.device = device
        self.features = config.features
        self.front_end = front_end(config.features).to(device)
        self.sample_rate = config.features.sample_rate
        self.max_frames = round(frames)
        self.dim = config.model.embedding_dim

    @classmethod
    def load(cls, checkpoint: Path, device: Union[str, torch.device] = "cpu", max_duration: float = 60.0):
        """The teacher of a checkpoint of :mod:`sdpn_k2.models.checkpoint`.

        Raises:
            InputError: not a readable checkpoint of ours, a device that torch cannot use, or a ``max_duration`` that is
                too short.
        """
        device = usable_device(device)
        loaded = load_checkpoint(checkpoint)
        encoder = EcapaTdnn(loaded.config.features.num_mel_bins, loaded.config.model)
        prefix = "teacher.encoder."
        encoder.load_state_dict(
            {name[len(prefix) :]: tensor for name, tensor in loaded.model.items() if name.startswith(prefix)}
        )
        return cls(encoder, loaded.config, device, max_duration)

    def embed(self, waveform: np.ndarray) -> np.ndarray:
        """One waveform ``(samples,)`` in ±1 at the model's sample rate → its embedding ``(dim,)`` float32.

        Raises:
            InputError: it is shorter than 5 frames (65 ms).
        """
        return self.embed_fbank([self.compute_features(waveform)])[0]

    def compute_features(self, waveform: np.ndarray) -> Tensor:
        """What the model's front end makes of ``(samples,)`` in ±1: ``(frames, bins)`` on the model's device.

        Raises:
            InputError: fewer than 5 frames.
        """
        return compute_features(self.front_end, waveform)

    @torch.inference_mode()
    def embed_fbank(self, utterances: List[Union[np.ndarray, Tensor]]) -> np.ndarray:
        """Fbank of each utterance ``(frames, bins)``, at least 5 frames → ``(utterances, dim)`` float32."""
        pieces: Dict[int, List[Tuple[int, Tensor]]] = defaultdict(list)
        for index, fbank in enumerate(utterances):
            fbank = torch.as_tensor(fbank, device=self.device)
            for chunk in torch.tensor_split(fbank, -(-len(fbank) // self.max_frames)):
                pieces[len(chunk)].append((index, chunk))
        sums = torch.zeros(len(utterances), self.dim, device=self.device)
        for frames, group in pieces.items():
            size = max(1, BATCH_FRAMES // frames)
            for start in range(0, len(group), size):
                indices, chunks = zip(*group[start : start + size])
                embeddings = self.encoder(instance_norm(torch.stack(chunks)))
                sums.index_add_(0, torch.tensor(indices, device=self.device), embeddings * frames)
        frames = torch.tensor([len(fbank) for fbank in utterances], device=self.device)
        return (sums / frames.unsqueeze(1)).cpu().numpy()


def extract(extractor: Extractor, data_dir: Path, wspecifier: str, use_vad: bool = False) -> int:
    """Embed every utterance of a Kaldi data directory; returns how many.

    For models on Kaldi's fbank ``feats.scp`` is used where it is there, else features are computed from ``wav.scp`` and
    ``segments``. Utterances without enough frames, with NaN or with unreadable audio are skipped with a warning.

    Args:
        use_vad: only frames that ``vad.scp`` calls speech.

    Raises:
        InputError: missing or empty tables, features of another dimension, or more than 5 % of the utterances failed.
    """
    if use_vad and not (data_dir / "vad.scp").is_file():
        raise InputError(f"{data_dir / 'vad.scp'}: no such file; run sid/compute_vad_decision.sh, or --use-vad false")
    total, source = read_features(data_dir, extractor.features, extractor.front_end)
    if not total:
        raise InputError(f"{data_dir}: nothing to extract: it has no utterances")
    failed: List[str] = []
    progress = Progress(total, f"extracting {data_dir.name}, utterances")
    with TableWriter(wspecifier, "vector") as writer:
        usable = _usable(source, extractor, data_dir / "vad.scp" if use_vad else None, failed)
        for block in _blocks(usable):
            keys, features = zip(*block)
            for key, embedding in zip(keys, extractor.embed_fbank(list(features))):
                if np.isfinite(embedding).all():
                    writer.write(key, embedding)
                else:
                    failed.append(f"{key}: its embedding is not finite; are the checkpoint's weights?")
            progress.update(len(block))
        progress.close()
        for message in failed:
            log.warning("skipped utterance %s", message)
        log.info("done %d, failed %d", total - len(failed), len(failed))
        if len(failed) == total or len(failed) > MAX_FAILED_SHARE * total:
            raise InputError(f"{data_dir}: {len(failed)} of {total} utterances failed; the first: {failed[0]}")
    return total - len(failed)


def _usable(
    source: Iterable[Tuple[str, Features]], extractor: Extractor, vad_scp: Optional[Path], failed: List[str]
) -> Iterator[Tuple[str, Tensor]]:
    """The features that can be embedded; what is against the others goes into ``failed``."""
    vad = RandomReader(f"scp:{vad_scp}", "vector") if vad_scp else None
    for key, features in source:
        if isinstance(features, InputError):
            failed.append(f"{key}: {features}")
            continue
        if vad is not None:
            if key not in vad:
                failed.append(f"{key}: not in vad.scp")
                continue
            speech = vad[key] > 0
            if extractor.features.kind == "melspec":
                speech = _on_centred_frames(speech, len(features), extractor.features)
            if len(speech) != len(features):
                failed.append(f"{key}: {len(features)} frames, but {len(vad[key])} decisions in vad.scp")
                continue
            features = features[torch.from_numpy(speech)]
        if len(features) < EcapaTdnn.MIN_FRAMES:
            failed.append(f"{key}: {len(features)} frames, at least {EcapaTdnn.MIN_FRAMES} are needed")
        elif not torch.isfinite(features).all():
            failed.append(f"{key}: NaN or infinite features")
        else:
            yield key, features


def _on_centred_frames(speech: np.ndarray, num_frames: int, features: FeaturesConfig) -> np.ndarray:
    """Decisions on Kaldi's frames, as many as lie within the audio, for frames centred on every frame shift."""
    offset = round(features.frame_length_ms / features.frame_shift_ms / 2)
    if not 0 <= num_frames - len(speech) <= 2 * offset + 1:
        return speech
    return speech[np.clip(np.arange(num_frames) - offset, 0, len(speech) - 1)]


def _blocks(items: Iterable[Tuple[str, Tensor]]) -> Iterator[List[Tuple[str, Tensor]]]:
    """Utterances and their features, as many at a time as make ``BLOCK_UTTERANCES``, or ``BLOCK_FRAMES`` and more."""
    block, frames = [], 0
    for item in items:
        block.append(item)
        frames += len(item[1])
        if len(block) == BLOCK_UTTERANCES or frames >= BLOCK_FRAMES:
            yield block
            block, frames = [], 0
    if block:
        yield block
