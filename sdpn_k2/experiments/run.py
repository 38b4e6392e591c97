"""One experiment from training to results in one process: stages 3, 4, 6 and 7 of run.sh, with cosine scores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import List

import numpy as np

from sdpn_k2.config import Config, load_config
from sdpn_k2.device import Process
from sdpn_k2.errors import InputError
from sdpn_k2.files import make_folder
from sdpn_k2.inference.extraction import Extractor, extract
from sdpn_k2.kaldi.datadir.data_dir import trial_lists
from sdpn_k2.kaldi.formats.tables import write_object
from sdpn_k2.progress import log_to
from sdpn_k2.reporting import results
from sdpn_k2.scoring.embeddings import read_embeddings
from sdpn_k2.scoring.score_tables import Preparation, score_tables
from sdpn_k2.training.trainer import Trainer

log = logging.getLogger(__name__)


def run_experiment(config: Config, data: Path, exp: Path, process: Process, command: str = "") -> bool:
    """Train, embed, score (cosine; and with the training embeddings' mean subtracted) and measure.

    What was stopped is taken up again; what has its results is left alone.

    Args:
        config: resolved configuration.
        data: the recipe's data folder after stages 0 to 2 of run.sh.
        exp: the experiment folder.
        process: this process, the only one.
        command: kept in the results.

    Returns:
        whether there was anything to do.

    Raises:
        InputError: parts of ``data`` are missing, results of another configuration in ``exp``, and all that training,
            extraction and scoring raise.
        sdpn_k2.training.trainer.Interrupted: SIGTERM or SIGUSR1 came; a checkpoint was written.
    """
    if is_done(config, exp):
        return False
    cuts = data / "manifests" / "selected_cuts_train.jsonl.gz"
    for needed in (cuts, data / "eval_sets"):
        if not needed.is_file():
            raise InputError(f"{needed}: no such file; prepare the data with stages 0 to 2 of run.sh")
    make_folder(exp)
    log_to(exp / "train.log")
    checkpoint = Trainer(config, cuts, cuts.parent, exp, process).run()
    extractor = Extractor.load(checkpoint, process.device)
    sets = (data / "eval_sets").read_text(encoding="utf-8").split()
    for name in ["train", *sets]:
        folder = exp / f"xvectors_{name}"
        make_folder(folder)
        extract(extractor, data / name, f"ark,scp:{folder}/xvector.ark,{folder}/xvector.scp")
    mean = exp / "xvectors_train" / "mean.vec"
    write_object(
        str(mean), read_embeddings(f"{exp}/xvectors_train/xvector.scp").vectors.mean(axis=0, dtype=np.float64), "vector"
    )
    for name in sets:
        lists = trial_lists(data / name)
        if not lists:
            raise InputError(f"{data / name}: no trial lists (trials, trials_<name>)")
        _score(exp, name, lists, mean)
    results.write(exp, results.collect(data, exp, command))
    return True


def is_done(config: Config, exp: Path) -> bool:
    """Whether ``exp`` has the results of a training with this configuration.

    Raises:
        InputError: it has those of another.
    """
    if not (exp / "results.json").is_file():
        return False
    if load_config(exp / "config.yaml") != config:
        raise InputError(f"{exp}: has the results of another configuration; take another folder, or remove this one")
    return True


def _score(exp: Path, name: str, lists: List[Path], mean: Path) -> None:
    scores = exp / "scores" / name
    make_folder(scores)
    embeddings = f"scp:{exp}/xvectors_{name}/xvector.scp"
    for trials in lists:
        for backend, preparation in (("cosine", Preparation()), ("cosine_mean", Preparation(mean=str(mean)))):
            score_tables(embeddings, None, str(trials), str(scores / f"{trials.name}.{backend}"), preparation)
