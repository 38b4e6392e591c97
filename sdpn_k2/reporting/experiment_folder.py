"""What lies in an experiment folder, for reports: every part is there, or it is said why it is not.

EXP/config.yaml                       the resolved configuration
EXP/metrics.jsonl, train.log          the course of the training
EXP/results.json                      error rates (results.py)
EXP/scores/<set>/<trials>.<backend>   score files
EXP/xvectors_<set>/xvector.scp        embeddings
EXP/stamps/stage<N>.done, …/*.log     settings and commands of the recipe
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple, TypeVar

import numpy as np

from sdpn_k2.config import Config, load_config
from sdpn_k2.errors import InputError
from sdpn_k2.reporting.results import score_files
from sdpn_k2.reporting.training_log import read_metrics

_INTERVALS = ("eer_interval", "min_dcf_01_interval", "min_dcf_05_interval")  # may be missing

Part = TypeVar("Part")
ScoreKey = Tuple[str, str, str]  # set, trial list, back end

# Where the launchers of run.sh leave their logs; the first line of each is the command.
LOGS = (
    "make_fbank/*/*.log",
    "make_energy/*/*.log",
    "make_vad/*/*.log",
    "xvectors_*/log/*.log",
    "backend/log/*.log",
    "scores/*/log/*.log",
)


@dataclass(frozen=True)
class Experiment:
    """The parts of an experiment; None or empty where ``missing`` says why.

    Attributes:
        name: unique among the experiments read together.
        path: the folder.
        config: the configuration of the training.
        results: results.json, as ``dataclasses.asdict`` made it of ``results.Report``.
        metrics: steps and metrics of the training (``history.read_metrics``).
        scores: the score files.
        missing: a line for each part that is not there or not readable.
    """

    name: str
    path: Path
    config: Optional[Config]
    results: Optional[dict]
    metrics: Optional[Tuple[np.ndarray, Dict[str, np.ndarray]]]
    scores: Dict[ScoreKey, Path]
    missing: List[str]

    def log_lines(self) -> List[str]:
        """Lines of train.log that tell where a training began, and its warnings and errors."""
        path = self.path / "train.log"
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if re.search(r" (WARNING|ERROR) | training from step |resumed from ", line)]

    def stage_settings(self) -> Dict[str, str]:
        """Settings of the recipe's stages, from their stamps: ``{"stage 3": "--set seed=0"}``."""
        settings = {}
        for path in sorted((self.path / "stamps").glob("stage*.done")):
            first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
            if first.startswith("settings: ") and first[10:].strip():
                settings[f"stage {path.stem[5:]}"] = first[10:].strip()
        return settings

    def commands(self) -> List[str]:
        """The commands in the launchers' logs, in the order of the stages; of parallel jobs the first."""
        found: List[str] = []
        for pattern in LOGS:
            for path in sorted(self.path.glob(pattern)):
                number = re.search(r"\.(\d+)\.log$", path.name)
                if number and number.group(1) != "1":
                    continue
                with path.open(encoding="utf-8", errors="replace") as stream:
                    first = stream.readline().rstrip("\n")
                if first.startswith("# "):
                    found.append(first[2:])
        return found


def read_experiments(paths: Sequence[Path]) -> List[Experiment]:
    """Reads several experiments; they are named by their folders, or by whole paths where folders share a name.

    Raises:
        InputError: no such folder, one given twice, or nothing of an experiment in it.
    """
    resolved = [path.resolve() for path in paths]
    twice = [path for path, real in zip(paths, resolved) if resolved.count(real) > 1]
    if twice:
        raise InputError(f"{twice[0]}: given twice")
    names = [path.name for path in resolved]
    return [read_experiment(path, name if names.count(name) == 1 else str(path)) for path, name in zip(paths, names)]


def read_experiment(path: Path, name: str) -> Experiment:
    """Reads one experiment under the name given. Raises InputError as :func:`read_experiments`."""
    if not path.is_dir():
        raise InputError(f"{path}: no such experiment folder")
    missing: List[str] = []

    def part(what: str, remedy: str, read: Callable[[Path], Part]) -> Optional[Part]:
        if not (path / what).exists():
            missing.append(f"{path / what}: not there; {remedy}")
            return None
        try:
            return read(path / what)
        except InputError as error:
            missing.append(str(error))
            return None

    config = part("config.yaml", "sdpn-k2 train writes it", load_config)
    metrics = part("metrics.jsonl", "sdpn-k2 train writes it", read_metrics)
    results = part("results.json", f"measure with: sdpn-k2 results DATA {path}", _read_results)
    scores = part("scores", "score first (stage 6 of run.sh)", lambda _: score_files(path)) or {}
    if config is None and metrics is None and results is None and not scores:
        raise InputError(
            f"{path}: not an experiment folder: nothing to read in config.yaml, metrics.jsonl, results.json and scores"
        )
    if results is not None:
        measured = (path / "results.json").stat().st_mtime
        newer = [file for file in scores.values() if file.stat().st_mtime > measured]
        if newer:
            missing.append(
                f"{path / 'results.json'}: older than {newer[0]}; measure again with: sdpn-k2 results DATA {path}"
            )
        missing += [f"{path}: {line}" for line in results["missing"]]
    return Experiment(name, path, config, results, metrics, scores, missing)


def _read_results(path: Path) -> dict:
    try:
        results = {"missing": [], "plda_labels": None, "data": None, **json.loads(path.read_text(encoding="utf-8"))}
        results["results"] = [{**dict.fromkeys(_INTERVALS), **row} for row in results["results"]]
        measured = results["measured"]
        if (
            all(map(_is_result, results["results"]))
            and isinstance(results["missing"], list)
            and all(isinstance(measured[key], str) for key in ("command", "date"))
            and isinstance(measured["versions"], dict)
            and all(
                value is None or isinstance(value, str)
                for value in (results["plda_labels"], results["data"], measured["git_revision"])
            )
        ):
            return results
    except (OSError, ValueError, LookupError, TypeError):
        pass
    raise InputError(
        f"{path}: not the results of an experiment; write them again with: sdpn-k2 results DATA {path.parent}"
    )


def _is_result(row: dict) -> bool:
    """Whether a row of results.json has the fields of ``results.Result``; raises KeyError or TypeError if one lacks."""
    figures = [row[key] for key in ("n_targets", "n_nontargets", "eer", "min_dcf_01", "min_dcf_05")]
    for low, high in (row[key] for key in _INTERVALS if row[key] is not None):
        figures += [low, high]
    return all(isinstance(row[key], str) for key in ("set", "trials", "backend")) and all(
        math.isfinite(value) for value in figures
    )
