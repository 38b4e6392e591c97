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


def warn_of_collapse(step: int, statistics: Dict[str, float], num_prototypes: int) -> List[str]:
    """Log a warning for each sign of collapse in the statistics of a step; returns the warnings."""
    signs = []
    if statistics.get("prototypes_in_use", np.inf) < MIN_PROTOTYPE_SHARE * num_prototypes:
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
            InputError: no trials there, neither features nor audio, or an utterance that cannot be used.
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
            self.ids.append(name)
            self.fbanks.append(features.cpu())
        self.config, self.device = config, device

    def eer(self, encoder: EcapaTdnn) -> float:
        """EER in per cent, by plain cosine; the encoder is left in the mode it was in."""
        training = encoder.training
        vectors = Extractor(encoder, self.config, self.device).embed_fbank(self.fbanks)
        encoder.train(training)
        embeddings = Embeddings(self.ids, vectors, "dev embeddings")
        rates = ErrorRates.from_scores(score_trials(embeddings, embeddings, self.trials), self.trials.is_target)
        return 100 * eer(rates).value
