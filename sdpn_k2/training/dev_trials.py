"""EER of the teacher on dev trials during training."""

from __future__ import annotations

from pathlib import Path
from typing import List, Union

import numpy as np
import torch

from sdpn_k2.config import Config
from sdpn_k2.errors import InputError, Skipped
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.inference.utterance_features import read_features
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.scoring.cosine import score_trials
from sdpn_k2.scoring.embeddings import Embeddings
from sdpn_k2.scoring.evaluation import error_rates
from sdpn_k2.scoring.metrics import eer
from sdpn_k2.scoring.trial_arrays import read_trials
from sdpn_k2.signal.front_end import front_end


class DevTrials:
    """The trials of a Kaldi data directory and the features of its utterances."""

    def __init__(self, data_dir: Path, config: Config, device: torch.device):
        """Read trials and features.

        Raises:
            InputError: no trials, or only targets or only nontargets; neither features nor audio; an utterance that
                cannot be used, or is in the trials and not in the directory.
        """
        trials = data_dir / "trials"
        if not trials.is_file():
            raise InputError(f"{trials}: no such file (dev evaluation needs it)")
        self.config, self.device = config, device
        self.trials = read_trials(trials)
        self.ids: List[str] = []
        self.fbanks: List[Union[np.ndarray, torch.Tensor]] = []
        _, utterances = read_features(data_dir, config.features, front_end(config.features).to(device))
        for item in utterances:
            if isinstance(item, Skipped):
                raise InputError(f"{data_dir}: utterance '{item.key}': {item.reason}")
            name, features = item
            if len(features) < EcapaTdnn.MIN_FRAMES or not torch.isfinite(features).all():
                raise InputError(
                    f"{data_dir}: utterance '{name}' has NaN or infinite features or fewer than {EcapaTdnn.MIN_FRAMES} "
                    f"frames ({len(features)}): remove it from the directory and its trials"
                )
            self.ids.append(name)
            self.fbanks.append(features.cpu())
        # Score random vectors, so that unusable trials are an error before the run starts.
        self._score(np.random.default_rng(0).normal(size=(len(self.ids), 2)).astype(np.float32))

    def eer(self, encoder: EcapaTdnn) -> float:
        """Return the EER of plain cosine scores in per cent; the encoder keeps its mode."""
        training = encoder.training
        vectors = Extractor(encoder, self.config, self.device).embed_fbank(self.fbanks)
        encoder.train(training)
        return self._score(vectors)

    def _score(self, vectors: np.ndarray) -> float:
        embeddings = Embeddings(self.ids, vectors, "dev embeddings")
        scores = score_trials(embeddings, embeddings, self.trials)
        return 100 * eer(error_rates(scores, self.trials, self.trials.source)).value
