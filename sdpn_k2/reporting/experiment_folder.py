"""The contents of an experiment folder, for reports; a missing part is named together with its remedy.

EXP/config.yaml                       the resolved configuration
EXP/metrics.jsonl, train.log          the course of the training run
EXP/training.json                     what the training computed on, and how
EXP/commands                          command lines of run.sh
EXP/results.json                      error rates (results.py)
EXP/scores/<set>/<trials>.<scoring>   score files
EXP/xvectors_<set>/xvector.scp        embeddings
EXP/…/*.log                           commands of the recipe's stages
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple, TypeVar

import numpy as np

from sdpn_k2.config import Config, load_config
from sdpn_k2.errors import InputError
from sdpn_k2.reporting import results as results_file
from sdpn_k2.reporting.results import Results, ScoreKey, score_files
from sdpn_k2.reporting.training_log import read_metrics
from sdpn_k2.training.sessions import FILE, Session, read_sessions

Part = TypeVar("Part")

# Logs of the launchers in run.sh; the first line of each is the command.
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
    """The parts of an experiment; None or empty where ``missing`` gives the reason.

    Attributes:
        name: name of the experiment, unique among those read together.
        path: the folder.
        config: configuration of the training.
        results: contents of results.json.
        metrics: steps and metrics of the training (``training_log.read_metrics``).
        sessions: what the training computed on (``sessions.read_sessions``).
        scores: the score files.
        missing: a line for each part that is missing or unreadable.
    """

    name: str
    path: Path
    config: Optional[Config]
    results: Optional[Results]
    metrics: Optional[Tuple[np.ndarray, Dict[str, np.ndarray]]]
    sessions: List[Session]
    scores: Dict[ScoreKey, Path]
    missing: List[str]

    def log_lines(self) -> List[str]:
        """Return the lines of train.log that record a start of training, a warning or an error."""
        path = self.path / "train.log"
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if re.search(r" (WARNING|ERROR) | training from step |resumed from ", line)]

    def to_reproduce(self) -> List[str]:
        """Return the commands that make this experiment: of run.sh, or else of its parts; a line starts with "#"."""
        path = self.path / "commands"
        recipe = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        origins = [session.started for session in self.sessions]
        if self.results is not None:
            origins.append(self.results.measured)
        lines = []
        revisions = list(dict.fromkeys(origin.git_revision for origin in origins if origin.git_revision))
        if revisions:
            commit, dirty, _ = revisions[0].partition("-dirty")
            lines.append(f"git checkout {commit}" + ("  # and the changes that were not committed" if dirty else ""))
        if len(revisions) > 1:
            lines.append(f"# later parts: {', '.join(revisions[1:])}")
        if recipe:
            return [*lines, "cd egs/voxceleb", *recipe]
        return lines + list(dict.fromkeys(origin.command for origin in origins if origin.command))

    def commands(self) -> List[str]:
        """Return the commands of training, and those in the launchers' logs; of parallel jobs the first."""
        found = [session.started.command for session in self.sessions if session.started.command]
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
    """Read several experiments. Name them by their folders, or by their paths where folders share a name.

    Raises:
        InputError: no such folder, a duplicate, or a folder without any part of an experiment.
    """
    resolved = [path.resolve() for path in paths]
    for path, real in zip(paths, resolved):
        if resolved.count(real) > 1:
            raise InputError(f"{path}: duplicate experiment")
    names = [path.name for path in resolved]
    return [read_experiment(path, name if names.count(name) == 1 else str(path)) for path, name in zip(paths, names)]


def read_experiment(path: Path, name: str) -> Experiment:
    """Read one experiment under the given name.

    Raises:
        InputError: no such folder, or a folder without any part of an experiment.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such experiment folder")
    missing: List[str] = []

    def part(what: str, remedy: str, read: Callable[[Path], Part]) -> Optional[Part]:
        if not (path / what).exists():
            missing.append(f"{path / what}: not found; {remedy}")
            return None
        try:
            return read(path / what)
        except InputError as error:
            missing.append(str(error))
            return None

    config = part("config.yaml", "sdpn-k2 train writes it", load_config)
    metrics = part("metrics.jsonl", "sdpn-k2 train writes it", read_metrics)
    results = part("results.json", f"measure with: sdpn-k2 results DATA {path}", results_file.read)
    sessions = part(FILE, "sdpn-k2 train writes it", read_sessions) if metrics is not None else []
    scores = part("scores", "score the trials (stage 6 of run.sh)", lambda _: score_files(path)) or {}
    if config is None and metrics is None and results is None and not scores:
        raise InputError(
            f"{path}: not an experiment folder (config.yaml, metrics.jsonl, results.json and scores are unusable)"
        )
    if results is not None:
        measured = (path / "results.json").stat().st_mtime
        newer = [file for file in scores.values() if file.stat().st_mtime > measured]
        if newer:
            missing.append(
                f"{path / 'results.json'}: older than {newer[0]}; measure again with: sdpn-k2 results DATA {path}"
            )
        missing += [f"{path}: {line}" for line in results.missing]
    return Experiment(name, path, config, results, metrics, sessions or [], scores, missing)
