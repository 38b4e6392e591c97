"""One experiment from training to report in one process; it writes the same folder as stages 3 to 7 of run.sh.

    EXP/config.yaml, final.pt, metrics.jsonl, train.log               the training run
    EXP/xvectors_<set>/{xvector,spk_xvector}.{ark,scp}, num_utts.ark  embeddings
    EXP/backend/{mean.vec,transform.mat,plda,plda_labels}             mean, LDA and PLDA of the training embeddings
    EXP/scores/<set>/<trials>.{cosine,cosine_mean,plda}               scores
    EXP/results.json, RESULTS.md, report.html                         results

Without enough training embeddings there is no LDA and no PLDA, and EXP/backend/no_plda gives the reason.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Dict, List, Sequence

from sdpn_k2.config import Config, load_config
from sdpn_k2.device import Process
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output, make_folder
from sdpn_k2.inference.extraction import Extractor, extract
from sdpn_k2.kaldi import tools
from sdpn_k2.kaldi.backend.trials import read_trials
from sdpn_k2.kaldi.datadir.data_dir import spk2utt, trial_lists, write_map
from sdpn_k2.names import check_name
from sdpn_k2.progress import log_to
from sdpn_k2.reporting import results
from sdpn_k2.reporting.report import write_report
from sdpn_k2.scoring.kmeans import pseudo_speakers
from sdpn_k2.scoring.vector_files import read_embeddings
from sdpn_k2.training.trainer import Trainer

log = logging.getLogger(__name__)

MAX_LDA_DIM = 150


def run_experiment(config: Config, data: Path, exp: Path, process: Process, command: str = "") -> bool:
    """Train, embed, score, measure and report.

    Continue an experiment that was stopped. Do nothing if it already has results.

    Args:
        config: resolved configuration.
        data: the recipe's data folder after stages 0 to 2 of run.sh.
        exp: the experiment folder.
        process: this process, the only one.
        command: command line, for the record.

    Returns:
        whether anything was left to do.

    Raises:
        InputError: missing parts of ``data``, results of another configuration in ``exp``, and all that training,
            extraction and scoring raise.
        sdpn_k2.training.trainer.Interrupted: SIGTERM or SIGUSR1 arrived; a checkpoint was written.
    """
    if is_done(config, exp):
        return False
    cuts = data / "manifests" / "selected_cuts_train.jsonl.gz"
    if not cuts.is_file():
        raise InputError(f"{cuts}: no such file; prepare the data with stages 0 to 2 of run.sh")
    lists = _evaluation_lists(data)
    make_folder(exp)
    log_to(exp / "train.log")
    checkpoint = Trainer(config, cuts, cuts.parent, exp, process, command=command).run()
    extractor = Extractor.load(checkpoint, process.device)
    for name in ["train", *lists]:
        _embed(extractor, data / name, exp / f"xvectors_{name}")
    _train_backend(exp, config.seed)
    for name in lists:
        _score(exp, name, lists[name])
    results.write(exp, results.collect(data, exp, command))
    write_report([exp], data, exp / "report.html", command)
    return True


def is_done(config: Config, exp: Path) -> bool:
    """Return whether ``exp`` has the results of a training run with this configuration.

    Raises:
        InputError: it has results of another configuration.
    """
    if not (exp / "results.json").is_file():
        return False
    if load_config(exp / "config.yaml") != config:
        raise InputError(f"{exp}: holds results of another configuration; use another folder, or remove this one")
    return True


def _evaluation_lists(data: Path) -> Dict[str, List[Path]]:
    """Return the trial lists of each evaluation set."""
    path = data / "eval_sets"
    if not path.is_file():
        raise InputError(f"{path}: no such file; prepare the data with stages 0 to 2 of run.sh")
    names = path.read_text(encoding="utf-8", errors="surrogateescape").split()
    lists = {check_name(name, f"{path}: set"): trial_lists(data / name) for name in names}
    for name, of_set in lists.items():
        if not of_set:
            raise InputError(f"{data / name}: no trial lists (trials, trials_<name>)")
    return lists


def _embed(extractor: Extractor, data_dir: Path, folder: Path) -> None:
    """Stage 4: the embedding of each utterance, and the mean of each speaker."""
    make_folder(folder)
    folder = folder.resolve()
    extract(extractor, data_dir, f"ark,scp:{folder}/xvector.ark,{folder}/xvector.scp")
    speaker_means = f"ark,scp:{folder}/spk_xvector.ark,{folder}/spk_xvector.scp"
    counts = f"ark,t:{folder}/num_utts.ark"
    _tool("ivector-mean", f"ark:{data_dir}/spk2utt", f"scp:{folder}/xvector.scp", speaker_means, counts)


def _train_backend(exp: Path, seed: int) -> None:
    """Stage 5: mean, LDA and PLDA of the training embeddings, with k-means clusters as classes."""
    folder = exp / "backend"
    make_folder(folder)
    train = f"scp:{exp}/xvectors_train/xvector.scp"
    _tool("ivector-mean", train, f"{folder}/mean.vec")
    for name in ("transform.mat", "plda", "plda_labels", "no_plda"):
        (folder / name).unlink(missing_ok=True)
    embeddings = read_embeddings(train)
    try:
        if len(embeddings) < embeddings.dim:
            raise InputError(f"{len(embeddings)} training embeddings are too few for {embeddings.dim} dimensions")
        classes = pseudo_speakers(embeddings, seed=seed)
        lda_dim = min(MAX_LDA_DIM, embeddings.dim - 1, len(set(classes.values())) - 1)
        write_map(folder / "utt2spk", classes)
        write_map(folder / "spk2utt", spk2utt(dict(sorted(classes.items()))))
        with tempfile.TemporaryDirectory() as temporary:
            centred = f"ark:{temporary}/centred.ark"
            _tool("ivector-subtract-global-mean", train, centred)
            lda = ("--total-covariance-factor=0.0", f"--dim={lda_dim}")
            _tool("ivector-compute-lda", *lda, centred, f"ark:{folder}/utt2spk", f"{folder}/transform.mat")
            projected = _projected(centred, folder, Path(temporary))
            _tool("ivector-compute-plda", f"ark:{folder}/spk2utt", projected, f"{folder}/plda")
        labels, text = "plda_labels", "clusters"
    except InputError as error:
        log.warning("no LDA and no PLDA, so cosine scores only: %s", error)
        labels, text = "no_plda", str(error)
    with atomic_output(folder / labels, "w") as stream:
        stream.write(f"{text}\n")


def _score(exp: Path, name: str, lists: Sequence[Path]) -> None:
    """Stage 6: cosine scores, cosine scores without the training mean, and PLDA scores."""
    scores = exp / "scores" / name
    make_folder(scores)
    backend = exp / "backend"
    xvectors = f"scp:{exp}/xvectors_{name}/xvector.scp"
    with tempfile.TemporaryDirectory() as temporary:
        unit, centred, centred_unit = (f"ark:{temporary}/{each}.ark" for each in ("unit", "centred", "centred_unit"))
        _tool("ivector-normalize-length", "--scaleup=false", xvectors, unit)
        _tool("ivector-subtract-global-mean", f"{backend}/mean.vec", xvectors, centred)
        _tool("ivector-normalize-length", "--scaleup=false", centred, centred_unit)
        projected = "" if (backend / "no_plda").is_file() else _projected(centred, backend, Path(temporary))
        pairs = f"{temporary}/pairs"
        for trials in lists:
            with open(pairs, "w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.writelines(f"{trial.enroll} {trial.test}\n" for trial in read_trials(trials))
            output = f"{scores}/{trials.name}"
            _tool("ivector-compute-dot-products", pairs, unit, unit, f"{output}.cosine")
            _tool("ivector-compute-dot-products", pairs, centred_unit, centred_unit, f"{output}.cosine_mean")
            if projected:
                plda = ("--normalize-length=true", f"{backend}/plda")
                _tool("ivector-plda-scoring", *plda, projected, projected, pairs, f"{output}.plda")


def _projected(centred: str, backend: Path, temporary: Path) -> str:
    """Apply the LDA and normalise lengths; return the rspecifier of the result."""
    reduced, projected = f"ark:{temporary}/reduced.ark", f"ark:{temporary}/projected.ark"
    _tool("transform-vec", f"{backend}/transform.mat", centred, reduced)
    _tool("ivector-normalize-length", reduced, projected)
    return projected


def _tool(name: str, *arguments: str) -> None:
    """Run one of Kaldi's tools in this process; its messages go to standard error."""
    if tools.run(name, arguments) != 0:
        raise InputError(f"{name} {' '.join(arguments)}: the tool failed; its message is above")
