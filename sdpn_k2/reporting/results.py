"""From the score folder of an experiment to ``results.json``, ``RESULTS.md`` and a table (stage 7 of the recipe).

Layout:

    EXP/scores/<set>/<trials>.<scoring>   score files: ``trials.cosine``, ``trials_o.plda`` ...
    DATA/<set>/<trials>                   labelled trial lists
    DATA/<set>/utt2spk                    speakers, for confidence intervals (optional)
    EXP/xvectors_<set>/xvector.scp        embeddings, to know which utterances have none (optional)
    EXP/backend/plda_labels               ``corpus`` or ``clusters``: the classes of the PLDA
"""

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.datadir.data_dir import TRIAL_LIST, read_map, trial_lists
from sdpn_k2.provenance import Provenance, provenance
from sdpn_k2.scoring import metrics
from sdpn_k2.scoring.backend import kind_of_scores
from sdpn_k2.scoring.confidence import Interval, TrialSpeakers, bootstrap_intervals, trial_speakers
from sdpn_k2.scoring.evaluation import read_labelled_trials, read_scored_trials
from sdpn_k2.scoring.thresholds import measure_thresholds
from sdpn_k2.scoring.trial_arrays import Trials, trials_between

ScoreKey = Tuple[str, str, str]  # set, trial list, scoring

SCORINGS = ("cosine", "cosine_mean", "plda")  # those of the recipe, in its order

PLDA_LABELS = {
    "corpus": "The PLDA was trained with the speaker labels of the training set.",
    "clusters": "The PLDA was trained on k-means clusters of the training embeddings, without speaker labels.",
}
UNKNOWN_LABELS = "There is no record of the labels that the PLDA was trained with."


@dataclass(frozen=True)
class Result:
    """Error rates of one scoring on one trial list: rates in 0..1, normalised costs with C_miss = C_fa = 1.

    Attributes:
        set: name of the data set.
        trials: name of the trial list.
        scoring: how the trials were scored, such as ``cosine`` or ``plda``; ``backend`` in results.json.
        n_targets: number of target trials.
        n_nontargets: number of nontarget trials.
        eer: interpolated EER.
        eer_interval: 95 % interval of the EER over speakers, where they are known (DATA/<set>/utt2spk).
        eer_kaldi: EER by the rule of compute-eer.
        min_dcf_01: minDCF at p_target 0.01.
        min_dcf_05: minDCF at p_target 0.05.
        min_dcf_01_interval: interval of ``min_dcf_01``, as ``eer_interval``.
        min_dcf_05_interval: interval of ``min_dcf_05``.
        thresholds: thresholds at the EER and at priors (``thresholds.measure_thresholds``), for decisions.
        kind: kind of the scores (``Backend.kind``), with the digest of the back end; None where it is unknown.
    """

    set: str
    trials: str
    scoring: str
    n_targets: int
    n_nontargets: int
    eer: float
    eer_interval: Optional[Interval]
    eer_kaldi: float
    min_dcf_01: float
    min_dcf_05: float
    min_dcf_01_interval: Optional[Interval]
    min_dcf_05_interval: Optional[Interval]
    thresholds: Dict[str, float] = field(default_factory=dict)
    kind: Optional[str] = None


@dataclass(frozen=True)
class Results:
    """All results of an experiment, what is missing, and how they were measured.

    Attributes:
        rows: one result for each usable score file; ``results`` in results.json.
        missing: a line for everything else.
        plda_labels: a key of ``PLDA_LABELS``, None where there is no record.
        data: absolute path of the data folder; None in files of earlier versions.
        measured: origin of the figures.
    """

    rows: List[Result]
    missing: List[str]
    plda_labels: Optional[str]
    data: Optional[str]
    measured: Provenance

    def plda_note(self) -> Optional[str]:
        """Return a sentence about the labels of the PLDA; None without PLDA scores."""
        if not any(row.scoring.startswith("plda") for row in self.rows):
            return None
        return PLDA_LABELS.get(self.plda_labels or "", UNKNOWN_LABELS)


def scoring_order(scoring: str) -> Tuple[int, str]:
    """Return a sorting key: the scorings of the recipe in its order, then others by name."""
    return (SCORINGS.index(scoring) if scoring in SCORINGS else len(SCORINGS), scoring)


# Measuring


def collect(data: Path, exp: Path, command: str = "") -> Results:
    """Measure every score file of an experiment; name unusable ones under ``missing``.

    Args:
        data: the data folder, with the trial lists.
        exp: the experiment folder.
        command: the command line, for the record.

    Raises:
        InputError: no usable score file, or a broken EXP/backend/plda_labels.
    """
    files = score_files(exp)
    rows: List[Result] = []
    missing: List[str] = []
    for set_name, trials_name in sorted({key[:2] for key in files}):
        of_list = {key: files[key] for key in files if key[:2] == (set_name, trials_name)}
        path = data / set_name / trials_name
        if not path.is_file():
            missing.append(f"{path}: no such trial list, but {exp / 'scores' / set_name} has scores for it")
            files = {key: file for key, file in files.items() if key not in of_list}
            continue
        try:
            trials, left_out = embedded_trials(exp, set_name, trials_name, read_labelled_trials(path))
        except InputError as error:
            missing.append(str(error))
            continue
        missing += left_out
        try:
            speakers = known_speakers(data / set_name / "utt2spk", trials)
        except InputError as error:
            missing.append(f"no intervals: {error}")
            speakers = None
        for key in sorted(of_list, key=lambda key: scoring_order(key[2])):
            try:
                rows.append(_measure(key, of_list[key], trials, speakers))
            except InputError as error:
                missing.append(str(error))
    if not rows:
        if len(missing) == 1:
            raise InputError(missing[0])
        raise InputError(f"{exp}: no usable score file; the first problem: {missing[0]}")
    missing += _missing_scores(data, files)
    return Results(rows, missing, _plda_labels(exp), os.path.abspath(data), provenance(command))


def _measure(key: ScoreKey, score_file: Path, trials: Trials, speakers: Optional[TrialSpeakers]) -> Result:
    scores, rates = read_scored_trials(score_file, trials)
    intervals = None
    if speakers is not None:
        intervals = bootstrap_intervals(scores, trials.labels(), speakers, p_targets=(0.01, 0.05))
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
        thresholds=measure_thresholds(rates),
        kind=kind_of_scores(score_file),
    )


def score_files(exp: Path) -> Dict[ScoreKey, Path]:
    """Find the score files of an experiment.

    Raises:
        InputError: no score files.
    """
    folder = exp / "scores"
    files = {}
    for path in sorted(folder.glob("*/*.*")):
        trials_name, scoring = path.name.rsplit(".", 1)
        if path.is_file() and TRIAL_LIST.fullmatch(trials_name):
            files[path.parent.name, trials_name, scoring] = path
    if not files:
        raise InputError(f"{folder}: no score files here (SET/trials.SCORING); run stage 6 of run.sh first")
    return files


def embedded_trials(exp: Path, set_name: str, trials_name: str, trials: Trials) -> Tuple[Trials, List[str]]:
    """Return the trials whose utterances all have embeddings, and a line about those left out, if any.

    Return all trials where there is no table of embeddings, or where it fits no trial (they name enrolled models).

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
        f"{set_name}/{trials_name}: {len(trials) - len(kept)} of {len(trials)} trials are left out; utterances without "
        f"an embedding: {len(lost)}, the first is {lost[0]}"
    ]


def known_speakers(utt2spk: Path, trials: Trials) -> Optional[TrialSpeakers]:
    """Return the speakers of the trials; None without a table of speakers.

    Raises:
        InputError: a malformed table, or one that does not fit the trials.
    """
    if not utt2spk.is_file():
        return None
    return trial_speakers(trials, read_map(utt2spk))


def _missing_scores(data: Path, files: Iterable[ScoreKey]) -> List[str]:
    """Name the trial lists without scores, and scorings that only some lists have."""
    present = set(files)
    lists = {key[:2] for key in present}
    lists |= {(folder.name, path.name) for folder in data.iterdir() for path in trial_lists(folder)}
    scorings = sorted({scoring for _, _, scoring in present}, key=scoring_order)
    return [
        f"{set_name}/{trials_name}: no {scoring} scores"
        for set_name, trials_name in sorted(lists)
        for scoring in scorings
        if (set_name, trials_name, scoring) not in present
    ]


def _plda_labels(exp: Path) -> Optional[str]:
    path = exp / "backend" / "plda_labels"
    if not path.is_file():
        return None
    labels = path.read_text(encoding="utf-8", errors="replace").strip()
    if labels not in PLDA_LABELS:
        raise InputError(f"{path}: {labels!r} is not valid (use {' or '.join(PLDA_LABELS)})")
    return labels


# Files


def write(exp: Path, results: Results) -> None:
    """Write ``results.json`` and ``RESULTS.md`` into the experiment folder.

    Raises:
        InputError: a file cannot be written.
    """
    stored = asdict(results)
    rows = [{"backend" if name == "scoring" else name: row[name] for name in row} for row in stored.pop("rows")]
    with atomic_output(exp / "results.json", "w") as stream:
        json.dump({"results": rows, **stored}, stream, indent=2)
        stream.write("\n")
    with atomic_output(exp / "RESULTS.md", "w") as stream:
        stream.write(markdown(results, exp.name))


def read(path: Path) -> Results:
    """Read a ``results.json``, also one of an earlier version.

    Raises:
        InputError: an unreadable file, or one of another kind.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        measured = stored["measured"]
        return Results(
            rows=[_stored_result(row) for row in stored["results"]],
            missing=[_text(line) for line in _list(stored.get("missing", []))],
            plda_labels=_optional_text(stored.get("plda_labels")),
            data=_optional_text(stored.get("data")),
            measured=Provenance.from_dict(measured),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path}: not the results of an experiment; write them again with: sdpn-k2 results DATA {path.parent}"
        ) from error


def _stored_result(row: Mapping[str, object]) -> Result:
    return Result(
        set=_text(row["set"]),
        trials=_text(row["trials"]),
        scoring=_text(row["backend"]),
        n_targets=int(_number(row["n_targets"])),
        n_nontargets=int(_number(row["n_nontargets"])),
        eer=_number(row["eer"]),
        eer_interval=_interval(row.get("eer_interval")),
        eer_kaldi=_number(row["eer_kaldi"]),
        min_dcf_01=_number(row["min_dcf_01"]),
        min_dcf_05=_number(row["min_dcf_05"]),
        min_dcf_01_interval=_interval(row.get("min_dcf_01_interval")),
        min_dcf_05_interval=_interval(row.get("min_dcf_05_interval")),
        thresholds=_numbers(row.get("thresholds", {})),
        kind=_optional_text(row.get("kind")),
    )


def _list(value: object) -> List[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _optional_text(value: object) -> Optional[str]:
    return None if value is None else _text(value)


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _numbers(value: object) -> Dict[str, float]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not an object of numbers")
    return {_text(name): _number(number) for name, number in value.items()}


def _interval(value: object) -> Optional[Interval]:
    return None if value is None else Interval(*map(_number, _list(value)))


# Text

HEADINGS = (
    "set",
    "trials",
    "scoring",
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
    """Format one row of the table, in the order of ``HEADINGS``."""

    def ends(interval: Optional[Interval], scale: int, digits: int) -> str:
        return "..".join(f"{scale * end:.{digits}f}" for end in interval) if interval else ""

    return (
        result.set,
        result.trials,
        result.scoring,
        str(result.n_targets),
        str(result.n_nontargets),
        f"{100 * result.eer:.2f}",
        ends(result.eer_interval, 100, 1),
        f"{result.min_dcf_01:.4f}",
        ends(result.min_dcf_01_interval, 1, 3),
        f"{result.min_dcf_05:.4f}",
        ends(result.min_dcf_05_interval, 1, 3),
    )


def table(results: Results) -> str:
    """Format the results as aligned text, followed by what is missing and the labels of the PLDA."""
    rows = [HEADINGS] + [cells(result) for result in results.rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join([line.rstrip() for line in lines] + _notes(results)) + "\n"


def markdown(results: Results, name: str) -> str:
    """Format the results as a Markdown page."""
    lines = [f"# Results of {name}", ""]
    lines += [markdown_row(HEADINGS), markdown_row(["---"] * 3 + ["---:"] * (len(HEADINGS) - 3))]
    lines += [markdown_row(cells(result)) for result in results.rows]
    explanation = (
        "EER: equal error rate, interpolated on the ROC. "
        "minDCF: minimum normalised detection cost at p_target 0.01 and 0.05, with C_miss = C_fa = 1."
    )
    if any(result.eer_interval for result in results.rows):
        explanation += " 95 %: bootstrap interval over speakers (1000 draws) of the figure to its left."
    lines += ["", explanation]
    for note in _notes(results):
        lines += ["", note]
    lines += ["", "## How this was measured", "", *results.measured.lines()]
    return "\n".join(lines) + "\n"


def markdown_row(fields: Sequence[str]) -> str:
    """Format one row of a Markdown table."""
    return "| " + " | ".join(fields) + " |"


def _notes(results: Results) -> List[str]:
    note = results.plda_note()
    return ([note] if note else []) + [f"Missing: {line}" for line in results.missing]
