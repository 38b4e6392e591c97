"""EER of the teacher on dev trials during training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Dict, Iterator, List, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.config import Config
from sdpn_k2.errors import InputError, Skipped, check_skipped
from sdpn_k2.inference.extraction import Extractor, blocks
from sdpn_k2.inference.utterance_features import embeddable_frames, read_features
from sdpn_k2.kaldi.datadir.data_dir import trial_lists
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.scoring.cosine import score_trials
from sdpn_k2.scoring.embeddings import Embeddings
from sdpn_k2.scoring.evaluation import error_rates
from sdpn_k2.scoring.metrics import eer
from sdpn_k2.scoring.trial_arrays import read_trials, trials_between
from sdpn_k2.signal.front_end import front_end

log = logging.getLogger(__name__)


class DevTrials:
    """A trial list of a Kaldi data directory, whose features are read block by block at every evaluation.

    Trials with an utterance that cannot be used are left out, as long as few are.
    """

    def __init__(self, dev: Path, config: Config, device: torch.device):
        """Read the trials, and the features once to check them.

        Args:
            dev: a data directory, of which the first trial list counts; or a trial list in a data directory.
            config: configuration of the model.
            device: device to compute on.

        Raises:
            InputError: no trials, or only targets or only nontargets; neither features nor audio; more than 5 % of the
                utterances in the trials cannot be used.
        """
        lists = [dev] if dev.is_file() else trial_lists(dev)
        if not lists:
            raise InputError(f"{dev}: no trial list here (trials, trials_<name>), but dev evaluation needs one")
        self.data_dir, self.config, self.device = lists[0].parent, config, device
        self.front_end = front_end(config.features).to(device)
        trials = read_trials(lists[0])
        named = set(trials.enroll_ids) | set(trials.test_ids)
        self.ids = sorted(named)
        usable, bad = [], {}
        for item in self._features():
            if isinstance(item, Skipped):
                bad[item.key] = item
            else:
                usable.append(item[0])
        lost = named.difference(usable)
        skipped = [bad.get(name, Skipped(name, f"not in {self.data_dir}")) for name in sorted(lost)]
        check_skipped(skipped, len(named), where=f"{trials.source}")
        for each in skipped:
            log.warning("dev trials without utterance %s", each)
        self.ids = usable
        self.trials = trials_between(trials, set(usable)) if lost else trials
        # Score random vectors, so that unusable trials are an error before the run starts.
        self._score(self.ids, np.random.default_rng(0).normal(size=(len(self.ids), 2)).astype(np.float32))

    def eer(self, encoder: EcapaTdnn) -> float:
        """Return the EER of plain cosine scores in per cent; the encoder keeps its mode.

        Raises:
            InputError: an utterance that cannot be used any more.
        """
        training = encoder.training
        extractor = Extractor(encoder, self.config, self.device)
        names: List[str] = []
        vectors: List[np.ndarray] = []
        for block in blocks(self._features()):
            if isinstance(block, Skipped):
                raise InputError(f"{self.data_dir}: utterance {block}")
            names += [name for name, _ in block]
            vectors.append(extractor.embed_fbank([features for _, features in block]))
        encoder.train(training)
        return self._score(names, np.concatenate(vectors))

    def _features(self) -> Iterator[Union[Tuple[str, Tensor], Skipped]]:
        """Yield the features of ``ids``, or why an utterance cannot be used."""
        wanted: Dict[str, None] = dict.fromkeys(self.ids)
        _, utterances = read_features(self.data_dir, self.config.features, self.front_end, wanted)
        for item in utterances:
            if isinstance(item, Skipped):
                if item.key in wanted:
                    yield item
            elif item[0] in wanted:
                try:
                    frames = embeddable_frames(item[1], self.config.features)
                except InputError as error:
                    yield Skipped(item[0], str(error))
                else:
                    yield item[0], frames

    def _score(self, names: List[str], vectors: np.ndarray) -> float:
        embeddings = Embeddings(names, vectors, f"embeddings of {self.data_dir}")
        scores = score_trials(embeddings, embeddings, self.trials)
        return 100 * eer(error_rates(scores, self.trials, self.trials.source)).value
