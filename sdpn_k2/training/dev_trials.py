"""EER of the teacher on dev trials, while it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import List

import numpy as np
import torch

from sdpn_k2.config import Config
from sdpn_k2.errors import InputError
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
                raise InputError(
                    f"{data_dir}: {name}: {len(features)} frames, some NaN or infinite, or fewer than "
                    f"{EcapaTdnn.MIN_FRAMES}: take it out of the trials and the directory"
                )
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
        scores = score_trials(embeddings, embeddings, self.trials)
        return 100 * eer(error_rates(scores, self.trials, self.trials.source)).value
