"""EER of the teacher on dev trials during training."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, Tuple

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.config import Config
from sdpn_k2.errors import InputError, Skipped, error_context
from sdpn_k2.inference.extraction import Extractor, blocks
from sdpn_k2.inference.utterance_features import embeddable_frames, read_features
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.scoring.cosine import score_trials
from sdpn_k2.scoring.embeddings import Embeddings
from sdpn_k2.scoring.evaluation import error_rates
from sdpn_k2.scoring.metrics import eer
from sdpn_k2.scoring.trial_arrays import read_trials
from sdpn_k2.signal.front_end import front_end


class DevTrials:
    """The trials of a Kaldi data directory, whose features are read block by block at every evaluation."""

    def __init__(self, data_dir: Path, config: Config, device: torch.device):
        """Read the trials, and the features once to check them.

        Raises:
            InputError: no trials, or only targets or only nontargets; neither features nor audio; an utterance that
                cannot be used, or is in the trials and not in the directory.
        """
        trials = data_dir / "trials"
        if not trials.is_file():
            raise InputError(f"{trials}: no such file (dev evaluation needs it)")
        self.data_dir, self.config, self.device = data_dir, config, device
        self.trials = read_trials(trials)
        self.front_end = front_end(config.features).to(device)
        self.ids = [name for name, _ in self._features()]
        # Score random vectors, so that unusable trials are an error before the run starts.
        self._score(np.random.default_rng(0).normal(size=(len(self.ids), 2)).astype(np.float32))

    def eer(self, encoder: EcapaTdnn) -> float:
        """Return the EER of plain cosine scores in per cent; the encoder keeps its mode.

        Raises:
            InputError: an utterance that cannot be used any more.
        """
        training = encoder.training
        extractor = Extractor(encoder, self.config, self.device)
        vectors: List[np.ndarray] = []
        for block in blocks(self._features()):
            assert not isinstance(block, Skipped)
            vectors.append(extractor.embed_fbank([features for _, features in block]))
        encoder.train(training)
        return self._score(np.concatenate(vectors))

    def _features(self) -> Iterator[Tuple[str, Tensor]]:
        """Yield the utterances and their features. Raise InputError for one that cannot be used."""
        _, utterances = read_features(self.data_dir, self.config.features, self.front_end)
        for item in utterances:
            if isinstance(item, Skipped):
                raise InputError(f"{self.data_dir}: utterance '{item.key}': {item.reason}")
            with error_context(f"{self.data_dir}: utterance '{item[0]}'"):
                frames = embeddable_frames(item[1], self.config.features)
            yield item[0], frames

    def _score(self, vectors: np.ndarray) -> float:
        embeddings = Embeddings(self.ids, vectors, "dev embeddings")
        scores = score_trials(embeddings, embeddings, self.trials)
        return 100 * eer(error_rates(scores, self.trials, self.trials.source)).value
