"""Seeing collapse, and progress, before a run has cost a week."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Dict, List

import numpy as np
import torch

from sdpn_k2.config import Config
from sdpn_k2.engine.extraction import Extractor
from sdpn_k2.engine.features import read_features
from sdpn_k2.errors import InputError
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.scoring.cosine import score_trials
from sdpn_k2.scoring.embeddings import Embeddings
from sdpn_k2.scoring.metrics import ErrorRates, eer
from sdpn_k2.scoring.trials import read_trials
from sdpn_k2.signal.front_end import front_end

log = logging.getLogger(__name__)

# Healthy runs are far from these: early on, nearly all prototypes are in use and embeddings have tens of dimensions.
MIN_PROTOTYPE_SHARE = 0.05
MIN_EFFECTIVE_RANK = 3.0
MAX_MEAN_COSINE = 0.9


def warn_of_collapse(step: int, statistics: Dict[str, float], num_prototypes: int, batch_size: int) -> List[str]:
    """Log a warning for each sign of collapse in the statistics of a step; returns the warnings."""
    signs = []
    # A batch cannot be expected to use more prototypes than it has utterances.
    if statistics.get("prototypes_in_use", np.inf) < MIN_PROTOTYPE_SHARE * min(num_prototypes, batch_size):
        signs.append(f"only {statistics['prototypes_in_use']:.1f} of {num_prototypes} prototypes are in use")
    if statistics.get("effective_rank", np.inf) < MIN_EFFECTIVE_RANK:
        signs.append(f"the embeddings' effective rank is {statistics['effective_rank']:.1f}")
    if statistics.get("mean_cosine", -1.0) > MAX_MEAN_COSINE:
        signs.append(f"different utterances have a mean cosine of {statistics['mean_cosine']:.2f}")
    for sign in signs:
        log.warning("step %d: collapse? %s", step, sign)
    return signs


class DevTrials:
    """EER of the teacher, as it is, on the trials of a Kaldi data directory."""

    def __init__(self, data_dir: Path, config: Config, device: torch.device):
        """
        Raises:
            InputError: no trials there, or of one class alone; neither features nor audio; an utterance that cannot be
                used, or that the trials name and the directory does not hold.
        """
        trials = data_dir / "trials"
        if not trials.is_file():
            raise InputError(f"{trials}: no such file, and dev evaluation needs it")
        self.trials = read_trials(trials)
        _, utterances = read_features(data_dir, config.features, front_end(config.features).to(device))
        self.ids: List[str] = []
        self.fbanks: List[torch.Tensor] = []
        for name, features in utterances:
            if isinstance(features, InputError):
                raise InputError(f"{data_dir}: {name}: {features}")
            if len(features) < EcapaTdnn.MIN_FRAMES or not torch.isfinite(features).all():
                raise InputError(f"{data_dir}: {name}: {len(features)} frames, some NaN or infinite, or fewer than "
                                 f"{EcapaTdnn.MIN_FRAMES}: take it out of the trials and the directory")
            self.ids.append(name)
            self.fbanks.append(features.cpu())
        self.config, self.device = config, device
        # Scores of random vectors: what is wrong with the trials is found before the run starts.
        self._score(np.random.default_rng(0).normal(size=(len(self.ids), 2)).astype(np.float32))

    def eer(self, encoder: EcapaTdnn) -> float:
        """EER in per cent, by plain cosine; the encoder is left in the mode it was in."""
        training = encoder.training
        vectors = Extractor(encoder, self.config, self.device).embed_fbank(self.fbanks)
        encoder.train(training)
        return self._score(vectors)

    def _score(self, vectors: np.ndarray) -> float:
        embeddings = Embeddings(self.ids, vectors, "dev embeddings")
        scores, labels = score_trials(embeddings, embeddings, self.trials), self.trials.labels()
        try:
            rates = ErrorRates.from_scores(scores, labels)
        except InputError as error:
            raise InputError(f"{self.trials.source}: {error}") from error
        return 100 * eer(rates).value
