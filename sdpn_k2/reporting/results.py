"""From the score folder of an experiment to ``results.json``, ``RESULTS.md`` and a table (stage 7 of the recipe).

Layout:

    EXP/scores/<set>/<trials>.<backend>   score files: ``trials.cosine``, ``trials_o.plda`` ...
    DATA/<set>/<trials>                   the labelled trial lists
    DATA/<set>/utt2spk                    speakers, for confidence intervals (may be missing)
    EXP/xvectors_<set>/xvector.scp        embeddings, to know what could not be embedded (may be missing)
    EXP/backend/plda_labels               ``corpus`` or ``clusters``: what the PLDA took for speakers
"""

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.datadir.data_dir import TRIAL_LIST, read_map, trial_lists
from sdpn_k2.scoring import metrics
from sdpn_k2.scoring.confidence import Interval, TrialSpeakers, bootstrap_intervals, trial_speakers
from sdpn_k2.scoring.trial_list import (
    Trials,
    check_labels_agree,
    match_scores,
    read_scores,
    read_trials,
    trials_between,
)

BACKENDS = ("cosine", "cosine_mean", "plda")
PACKAGES = ("sdpn_k2", "numpy", "torch", "lhotse")

PLDA_LABELS = {
    "corpus": "PLDA was trained with the speaker labels of the training set.",
    "clusters": "PLDA was trained on k-means clusters of the training embeddings: no speaker labels were used.",
}
UNKNOWN_LABELS = "It is not recorded which labels the PLDA was trained with."


@dataclass(frozen=True)
class Result:
    """The error rates of one back end on one trial list; rates in 0..1, costs normalised (C_miss = C_fa = 1).

    Attributes:
        set: name of the data set.
        trials: name of the trial list.
        backend: name of the back end.
        n_targets: number of target trials.
        n_nontargets: number of nontarget trials.
        eer: interpolated EER.
        eer_interval: 95 % interval of the EER over speakers, where they are known (DATA/<set>/utt2spk).
        eer_kaldi: EER by compute-eer's rule.
        min_dcf_01: minDCF at p_target 0.01.
        min_dcf_05: minDCF at p_target 0.05.
        min_dcf_01_interval: interval of the former, as ``eer_interval``.
        min_dcf_05_interval: interval of the latter.
    """

    set: str
    trials: str
    backend: str
    n_targets: int
    n_nontargets: int
    eer: float
    eer_interval: Optional[Interval]
    eer_kaldi: float
    min_dcf_01: float
    min_dcf_05: float
    min_dcf_01_interval: Optional[Interval]
    min_dcf_05_interval: Optional[Interval]


@dataclass(frozen=True)
class Report:
    """All results of an experiment, what is missing, and how they were measured.

    Attributes:
        results: one for each score file that could be measured.
        missing: a line for everything else.
        plda_labels: a key of ``PLDA_LABELS``, None where it is not recorded.
        data: the data folder, absolute.
        measured: as ``provenance`` returns it.
    """

    results: List[Result]
    missing: List[str]
    plda_labels: Optional[str]
    data: str
    measured: Dict[str, object]


def collect(data: Path, exp: Path, command: str = "") -> Report:
    """Measures every score file of an experiment; a file that cannot be used is named under ``missing``.

    Args:
        data: the data folder, with the trial lists.
        exp: the experiment folder.
        command: the command line that asked for it, kept in the report.

    Raises:
        InputError: no score file that could be measured, or a broken EXP/backend/plda_labels.
    """
    files = score_files(exp)
    results: List[Result] = []
    missing: List[str] = []
    for set_name, trials_name in sorted({(s, t) for s, t, _ in files}):
        path = data / set_name / trials_name
        backends = sorted((b for s, t, b in files if (s, t) == (set_name, trials_name)), key=backend_order)
        if not path.is_file():
            missing.append(f"{path}: no such trial list, but {exp / 'scores' / set_name} has scores for it")
            for backend in backends:
                del files[set_name, trials_name, backend]
            continue
        try:
            trials = read_trials(path)
            check_labels_agree(trials)
            trials, left_out = embedded_trials(exp, set_name, trials_name, trials)
            missing += left_out
        except InputError as error:
            missing.append(str(error))
            continue
        try:
            speakers = known_speakers(data / set_name / "utt2spk", trials)
        except InputError as error:
            missing.append(f"no intervals: {error}")
            speakers = None
        for backend in backends:
            try:
                key = set_name, trials_name, backend
                results.append(_measure(key, files[key], trials, speakers))
            except InputError as error:
                missing.append(str(error))
    if not results:
        raise InputError(
            missing[0]
            if len(missing) == 1
            else f"none of the score files of {exp} can be measured; the first fault: {missing[0]}"
        )
    return Report(
        results, missing + _missing(data, files), _plda_labels(exp), os.path.abspath(data), provenance(command)
    )


def _measure(key: Tuple[str, str, str], score_file: Path, trials: Trials, speakers: Optional[TrialSpeakers]) -> Result:
    """The result of one score file, of the set, trials and backend in ``key``. Raises InputError naming the file."""
    scores = match_scores(read_scores(score_file), trials)
    try:
        rates = metrics.ErrorRates.from_scores(scores, trials.labels())
    except InputError as error:
        raise InputError(f"{score_file}: {error}") from error
    intervals = bootstrap_intervals(scores, trials.labels(), speakers, (0.01, 0.05)) if speakers else None
    return Result(
        *key,
        n_targets=len(rates.targets),
        n_nontargets=len(rates.nontargets),
        eer=metrics.eer(rates).value,
        eer_interval=intervals.eer if intervals else None,
        eer_kaldi=metrics.eer(rates, "kaldi").value,
        min_dcf_01=metrics.min_dcf(rates, 0.01).value,
        min_dcf_05=metrics.min_dcf(rates, 0.05).value,
        min_dcf_01_interval=intervals.min_dcf[0.01] if intervals else None,
        min_dcf_05_interval=intervals.min_dcf[0.05] if intervals else None,
    )


def write(exp: Path, report: Report) -> None:
    """Writes ``results.json`` and ``RESULTS.md`` into the experiment folder.

    Raises:
        InputError: a file cannot be written.
    """
    with atomic_output(exp / "results.json", "w") as stream:
        json.dump(asdict(report), stream, indent=2)
        stream.write("\n")
    with atomic_output(exp / "RESULTS.md", "w") as stream:
        stream.write(markdown(report, exp.name))


HEADINGS = (
    "set",
    "trials",
    "back end",
    "targets",
    "nontargets",
    "EER %",
    "95 %",
    "minDCF 0.01",
    "95 %",
    "minDCF 0.05",
    "95 %",
)


def cells(result: Result) -> Tuple[str, ...]:
    """One row of the table, in the order of ``HEADINGS``."""

    def ends(interval: Optional[Interval], scale: int, digits: int) -> str:
        return "..".join(f"{scale * end:.{digits}f}" for end in interval) if interval else ""

    return (
        result.set,
        result.trials,
        result.backend,
        str(result.n_targets),
        str(result.n_nontargets),
        f"{100 * result.eer:.2f}",
        ends(result.eer_interval, 100, 1),
        f"{result.min_dcf_01:.4f}",
        ends(result.min_dcf_01_interval, 1, 3),
        f"{result.min_dcf_05:.4f}",
        ends(result.min_dcf_05_interval, 1, 3),
    )


def table(report: Report) -> str:
    """The results as aligned text, then what is missing and what the PLDA used."""
    rows = [HEADINGS] + [cells(result) for result in report.results]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join([line.rstrip() for line in lines] + _notes(report)) + "\n"


def markdown(report: Report, name: str) -> str:
    """The results as a Markdown page."""
    lines = [f"# Results of {name}", "", _row(HEADINGS), _row(["---"] * 3 + ["---:"] * (len(HEADINGS) - 3))]
    lines += [_row(cells(result)) for result in report.results]
    lines += [
        "",
        "EER: where the interpolated ROC has as many misses as false alarms. "
        "minDCF at p_target 0.01 and 0.05, C_miss = C_fa = 1, normalised.",
    ]
    if any(result.eer_interval for result in report.results):
        lines[-1] += " 95 %: interval of the figure before it when the speakers are drawn anew, 1000 times."
    for note in _notes(report):
        lines += ["", note]
    measured = report.measured
    lines += ["", "## How this was measured", ""]
    if measured["command"]:
        lines += [f"- command: `{measured['command']}`"]
    lines += [
        f"- date: {measured['date']}",
        "- versions: " + ", ".join(f"{package} {number}" for package, number in measured["versions"].items()),
    ]
    if measured["git_revision"]:
        lines += [f"- git revision: {measured['git_revision']}"]
    return "\n".join(lines) + "\n"


def _row(fields: Sequence[str]) -> str:
    return "| " + " | ".join(fields) + " |"


def _notes(report: Report) -> List[str]:
    notes = []
    if any(result.backend.startswith("plda") for result in report.results):
        notes.append(PLDA_LABELS.get(report.plda_labels, UNKNOWN_LABELS))
    notes += [f"Missing: {line}" for line in report.missing]
    return notes


def score_files(exp: Path) -> Dict[Tuple[str, str, str], Path]:
    """(set, trials, backend) of every score file."""
    folder = exp / "scores"
    files = {}
    for path in sorted(folder.glob("*/*.*")):
        trials_name, backend = path.name.rsplit(".", 1)
        if path.is_file() and TRIAL_LIST.fullmatch(trials_name):
            files[path.parent.name, trials_name, backend] = path
    if not files:
        raise InputError(f"{folder}: no score files (SET/trials.BACKEND); run the scoring stage first")
    return files


def _missing(data: Path, files: Dict[Tuple[str, str, str], Path]) -> List[str]:
    """Trial lists without scores, and back ends that some lists have and others have not."""
    lists = {(s, t) for s, t, _ in files}
    lists |= {(folder.name, path.name) for folder in data.iterdir() for path in trial_lists(folder)}
    backends = sorted({backend for _, _, backend in files}, key=backend_order)
    return [
        f"{set_name}/{trials_name} has no {backend} scores"
        for set_name, trials_name in sorted(lists)
        for backend in backends
        if (set_name, trials_name, backend) not in files
    ]


def embedded_trials(exp: Path, set_name: str, trials_name: str, trials: Trials) -> Tuple[Trials, List[str]]:
    """The trials whose utterances all have embeddings, and a line on those that are left out, if any.

    Where there is no table of embeddings, or it fits no trial (they name enrolled models), these are all.

    Raises:
        InputError: a malformed table.
    """
    table = exp / f"xvectors_{set_name}" / "xvector.scp"
    if not table.is_file():
        return trials, []
    embedded = read_map(table)
    kept = trials_between(trials, embedded)
    if len(kept) in (0, len(trials)):
        return trials, []
    lost = [name for name in dict.fromkeys(trials.enroll_ids + trials.test_ids) if name not in embedded]
    return kept, [
        f"{set_name}/{trials_name}: {len(trials) - len(kept)} of {len(trials)} trials are left out, since "
        f"{len(lost)} utterances have no embedding; the first: {lost[0]}"
    ]


def known_speakers(utt2spk: Path, trials: Trials) -> Optional[TrialSpeakers]:
    """The speakers of the trials; None when they are not recorded.

    Raises:
        InputError: a malformed table, or one that does not fit the trials.
    """
    if not utt2spk.is_file():
        return None
    return trial_speakers(trials, read_map(utt2spk))


def backend_order(backend: str) -> Tuple[int, str]:
    """Sorts back ends: the recipe's in its order, then others by name."""
    return (BACKENDS.index(backend) if backend in BACKENDS else len(BACKENDS), backend)


def _plda_labels(exp: Path) -> Optional[str]:
    path = exp / "backend" / "plda_labels"
    if not path.is_file():
        return None
    labels = path.read_text(encoding="utf-8", errors="replace").strip()
    if labels not in PLDA_LABELS:
        raise InputError(f"{path}: says {labels!r}, must be one of {', '.join(PLDA_LABELS)}")
    return labels


def provenance(command: str) -> Dict[str, object]:
    """What it takes to do it again: command, date (UTC), versions, number of processors, git revision (or None)."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "command": command,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": versions,
        "cpus": os.cpu_count(),
        "git_revision": _git_revision(),
    }


def _git_revision() -> Optional[str]:
    """The commit of the checkout the package runs from, "-dirty" when files differ from it; None outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
