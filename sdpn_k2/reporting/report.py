"""``report.html``: one experiment, or several side by side, on a self-contained page.

The page repeats the figures of results.json; nothing is measured twice. It names every part that it cannot show.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, TypeVar

import numpy as np

from sdpn_k2.config import Config, config_differences
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.provenance import provenance
from sdpn_k2.reporting import html_page, plots
from sdpn_k2.reporting.data_summary import SetSummary, set_names, summarise_set
from sdpn_k2.reporting.embedding_maps import speaker_panels
from sdpn_k2.reporting.experiment_folder import Experiment, read_experiments
from sdpn_k2.reporting.results import Result, embedded_trials, known_speakers, scoring_order
from sdpn_k2.reporting.training_log import Check, Course, check_health, course, training_seconds
from sdpn_k2.scoring import metrics
from sdpn_k2.scoring.conditions import Conditions, known_conditions, rates_by_condition
from sdpn_k2.scoring.confidence import TrialSpeakers, bootstrap_intervals
from sdpn_k2.scoring.evaluation import ScoredTrials, read_labelled_trials, read_scored_trials
from sdpn_k2.scoring.metrics import ErrorRates
from sdpn_k2.scoring.trial_arrays import Trials, trials_between
from sdpn_k2.training.health import num_outputs

Made = TypeVar("Made")

BAR_DRAWS = 200  # for each bar's interval, which only has to look right

MEANINGS = {
    "loss": "value of the objective",
    "loss_ce": "cross-entropy between the assignments of student and teacher, nat",
    "loss_me": "mean-entropy term: ln K minus the entropy of the mean assignment, nat",
    "loss_dr": "dimension regularisation",
    "student_entropy": "mean entropy of a student assignment, nat",
    "teacher_entropy": "mean entropy of a teacher assignment, nat",
    "prototypes_in_use": "exp of the entropy of the mean assignment; the best value is their number",
    "effective_rank": "number of dimensions that the embeddings of a batch use",
    "mean_cosine": "mean cosine between different utterances; near 1 means collapse",
    "gradient_norm": "norm of the student's gradient before clipping",
    "lr": "learning rate",
    "ema_momentum": "momentum with which the teacher follows the student",
    "utterances_per_second": "training throughput",
    "data_wait_share": "share of the time spent waiting for data",
    "skipped_utterances": "number of unreadable utterances",
    "peak_memory_gb": "peak memory of the device, or of the process on a CPU",
    "dev_eer": "EER of the teacher on the development trials, %",
}


class Picture(NamedTuple):
    """A picture: an SVG, a description, a caption, and whether it is too wide for a phone."""

    svg: str
    label: str
    caption: str
    wide: bool = False


class PictureRow(NamedTuple):
    """What belongs together about the same scores: DET curves, the EER by condition, score histograms."""

    title: str
    det: Picture
    bars: List[Picture]
    histograms: List[Picture]


class Row(NamedTuple):
    """One row of a results table; ``best`` marks the lowest EER of its trial list."""

    experiment: str
    values: Result
    best: bool

    @property
    def list(self) -> str:
        """Name of the trial list."""
        return f"{self.values.set} / {self.values.trials}"


class Verdict(NamedTuple):
    """How the training of an experiment went.

    Attributes:
        experiment: its name.
        steps: the last logged step.
        seconds: the time of training; None where it was not logged.
        num_outputs: number of prototypes; None without a configuration.
        checks: the trainer's checks for collapse.
    """

    experiment: str
    steps: int
    seconds: Optional[float]
    num_outputs: Optional[int]
    checks: List[Check]


@dataclass
class Sections:
    """The contents of the page."""

    rows: List[Row] = field(default_factory=list)
    lists: List[Tuple[str, List[PictureRow]]] = field(default_factory=list)  # pictures of each trial list
    maps: List[Picture] = field(default_factory=list)
    curves: List[Picture] = field(default_factory=list)  # those that tell how a run goes
    more_curves: List[Picture] = field(default_factory=list)
    corpus: List[SetSummary] = field(default_factory=list)
    missing: List[str] = field(default_factory=list)

    def attempt(self, make: Callable[[], Made]) -> Optional[Made]:
        """Return what ``make`` returns; on bad input note the reason under ``missing`` and return None."""
        try:
            return make()
        except InputError as error:
            self.missing.append(str(error))
            return None


def write_report(paths: Sequence[Path], data: Optional[Path], output: Path, command: str = "") -> List[str]:
    """Write the report of one experiment, or of several compared.

    Args:
        paths: experiment folders.
        data: the recipe's data folder (trial lists, utt2spk, utt2dur), for the pictures of scores and embeddings; None
            for the folder that results.json names, if it exists and is the same for all experiments.
        output: the HTML file.
        command: the command line, for the record.

    Returns:
        a line for each missing part.

    Raises:
        InputError: a folder that is not an experiment, no such data folder, or a page that cannot be written.
    """
    if data is not None and not data.is_dir():
        raise InputError(f"{data}: no such data folder")
    experiments = read_experiments(paths)
    sections = Sections(rows=_rows(experiments))
    sections.missing += dict.fromkeys(line for experiment in experiments for line in experiment.missing)
    sections.missing += _missing_parts(experiments)
    recorded = {each.results.data for each in experiments if each.results and each.results.data}
    if data is None and len(recorded) == 1 and Path(*recorded).is_dir():
        data = Path(*recorded)
    if data is None:
        sections.missing.append(
            f"no data folder (results.json names {', '.join(sorted(recorded)) or 'none'}), so no DET curves, "
            "histograms, conditions, maps and corpus; use --data DATA"
        )
    else:
        for set_name, trials_name in sorted({key[:2] for experiment in experiments for key in experiment.scores}):
            rows = _picture_rows(sections, experiments, data, set_name, trials_name)
            if rows:
                sections.lists.append((f"{set_name} / {trials_name}", rows))
        sections.maps = _maps(sections, experiments, data)
        sections.corpus = _corpus(sections, experiments, data)
    trained = {experiment.name: experiment.path / "metrics.jsonl" for experiment in experiments if experiment.metrics}
    if trained:
        for title, figure in plots.training_curves(trained).items():
            curves = sections.curves if title in plots.MAIN_COURSES else sections.more_curves
            curves.append(Picture(plots.to_svg(figure), f"{title} by training step", ""))
    results = [row.values for row in sections.rows]
    text = html_page.render(
        "report.html",
        experiments=experiments,
        sections=sections,
        differences=_differences(experiments),
        health=_health(experiments),
        verdicts=[_verdict(experiment) for experiment in experiments if experiment.metrics],
        meanings=MEANINGS,
        plda=_plda_notes(experiments),
        written=provenance(command),
        widest=max(
            (result.eer_interval.high if result.eer_interval else result.eer for result in results), default=0.0
        ),
    )
    with atomic_output(output, "w") as stream:
        stream.write(text)
    return sections.missing


def _missing_parts(experiments: Sequence[Experiment]) -> Iterator[str]:
    """Name the missing parts that only the page shows."""
    for experiment in experiments:
        parts = {"train.log": "sdpn-k2 train writes it"}
        if any(scoring != "cosine" for _, _, scoring in experiment.scores):
            parts["backend"] = "compute the mean, LDA and PLDA (stage 5 of run.sh)"
        for name, remedy in parts.items():
            if not (experiment.path / name).exists():
                yield f"{experiment.path / name}: not found; {remedy}"


def _rows(experiments: Sequence[Experiment]) -> List[Row]:
    found = [
        (experiment.name, row) for experiment in experiments if experiment.results for row in experiment.results.rows
    ]
    least: Dict[Tuple[str, str], float] = {}
    for _, row in found:
        least[row.set, row.trials] = min(row.eer, least.get((row.set, row.trials), row.eer))
    order = {experiment.name: i for i, experiment in enumerate(experiments)}
    found.sort(key=lambda item: (item[1].set, item[1].trials, scoring_order(item[1].scoring), order[item[0]]))
    return [Row(name, row, row.eer == least[row.set, row.trials]) for name, row in found]


def _picture_rows(
    sections: Sections, experiments: Sequence[Experiment], data: Path, set_name: str, trials_name: str
) -> List[PictureRow]:
    """Draw one trial list: the scorings of one experiment together, or several experiments by scoring."""
    listed = sections.attempt(lambda: read_labelled_trials(data / set_name / trials_name))
    if listed is None:
        return []
    trials = listed
    for experiment in experiments:  # systems side by side are measured on the same trials
        found = sections.attempt(partial(embedded_trials, experiment.path, set_name, trials_name, listed))
        if found is not None:
            kept, left_out = found
            trials = trials_between(trials, {*kept.enroll_ids, *kept.test_ids})
            lines = (f"{experiment.path}: {line}" for line in left_out)
            sections.missing += [line for line in lines if line not in sections.missing]
    conditions = sections.attempt(lambda: known_conditions(data / set_name, trials)) or {}
    speakers = sections.attempt(lambda: known_speakers(data / set_name / "utt2spk", trials)) if conditions else None
    rows: List[PictureRow] = []
    for title, files in _groups(experiments, set_name, trials_name):
        read = {name: sections.attempt(partial(read_scored_trials, file, trials)) for name, file in files.items()}
        systems = {name: system for name, system in read.items() if system is not None}
        if not systems:
            continue
        of = f" of {title}" if title else ""
        rates = {name: system.rates for name, system in systems.items()}
        bars = _Bars(systems, trials, speakers)
        rows.append(
            PictureRow(
                title,
                _det(rates, of),
                [bars.picture(f"EER{of} by {what}", division) for what, division in conditions.items()],
                [_histogram(name, each) for name, each in rates.items()] if len(experiments) == 1 else [],
            )
        )
    return rows


def _det(rates: Mapping[str, ErrorRates], of: str) -> Picture:
    caption = f"DET curves{of}: miss rate against false-alarm rate. Circle: EER. Diamond: minDCF at p_target 0.01."
    return Picture(plots.to_svg(plots.det_curves(rates)), f"DET curves{of}", caption)


def _histogram(name: str, rates: ErrorRates) -> Picture:
    caption = f"Score densities of {name}, and the threshold of the EER."
    return Picture(plots.to_svg(plots.score_histograms(rates)), f"score histograms of {name}", caption)


def _groups(
    experiments: Sequence[Experiment], set_name: str, trials_name: str
) -> Iterator[Tuple[str, Dict[str, Path]]]:
    """Yield a title and the score files to draw together, by name."""
    of_list = {key for each in experiments for key in each.scores if key[:2] == (set_name, trials_name)}
    keys = sorted(of_list, key=lambda key: scoring_order(key[2]))
    if len(experiments) == 1:
        yield "", {key[2]: experiments[0].scores[key] for key in keys}
        return
    for key in keys:
        yield key[2], {each.name: each.scores[key] for each in experiments if key in each.scores}


class _Bars(NamedTuple):
    """Systems measured on the same trials, for bars of their EER by condition."""

    systems: Mapping[str, ScoredTrials]
    trials: Trials
    speakers: Optional[TrialSpeakers]

    def picture(self, label: str, conditions: Conditions) -> Picture:
        known = conditions.of_trial[conditions.of_trial >= 0]
        counts = np.bincount(known, minlength=len(conditions.names)).tolist()
        names = [f"{name}\n{html_page.number(count)} trials" for name, count in zip(conditions.names, counts)]
        bars = {}
        for name, (scores, _) in self.systems.items():
            rates = rates_by_condition(scores, self.trials.labels(), conditions).values()
            bars[name] = [
                self._bar(each, scores, conditions.of_trial == i) if each else None for i, each in enumerate(rates)
            ]
        caption = f"{label}." + (" Lines: 95 % bootstrap intervals over speakers." if self.speakers else "")
        return Picture(plots.to_svg(plots.condition_bars(names, bars)), label, caption)

    def _bar(self, rates: ErrorRates, scores: np.ndarray, chosen: np.ndarray) -> plots.Bar:
        """Return the EER of the ``chosen`` trials, bool (n_trials,), with its interval where speakers are known."""
        interval = None
        if self.speakers is not None:
            interval = bootstrap_intervals(
                scores[chosen],
                self.trials.labels()[chosen],
                TrialSpeakers(*(side[chosen] for side in self.speakers)),
                p_targets=(),
                n_draws=BAR_DRAWS,
            ).eer
        return plots.Bar(metrics.eer(rates).value, interval)


def _maps(sections: Sections, experiments: Sequence[Experiment], data: Path) -> List[Picture]:
    """Draw a map for each set with scores or embeddings, of all experiments that have embeddings of it."""
    names = {path.name[len("xvectors_") :] for experiment in experiments for path in experiment.path.glob("xvectors_*")}
    names.update(_scored_sets(experiments))
    made = []
    for name in sorted(names - {"train"}):
        folders = {experiment.name: experiment.path / f"xvectors_{name}" for experiment in experiments}
        for folder in folders.values():
            if not (folder / "xvector.scp").is_file():
                sections.missing.append(f"{folder / 'xvector.scp'}: not found; extract embeddings (stage 4 of run.sh)")
        folders = {system: folder for system, folder in folders.items() if (folder / "xvector.scp").is_file()}
        made.append(sections.attempt(partial(_map, name, folders, data / name / "utt2spk")) if folders else None)
    return [picture for picture in made if picture is not None]


def _map(name: str, folders: Mapping[str, Path], utt2spk: Path) -> Picture:
    panels = speaker_panels(folders, utt2spk)
    return Picture(
        plots.to_svg(plots.embedding_maps(panels)),
        f"map of the embeddings of {name}",
        f"{name}: t-SNE of {len(set(panels[0].speakers))} speakers, {len(panels[0].speakers)} utterances. "
        "The silhouette is computed on the embeddings themselves, by cosine: 1 is best, 0 means mixed speakers.",
        len(panels) > 1,
    )


def _scored_sets(experiments: Sequence[Experiment]) -> Set[str]:
    return {set_name for experiment in experiments for set_name, _, _ in experiment.scores}


def _corpus(sections: Sections, experiments: Sequence[Experiment], data: Path) -> List[SetSummary]:
    names = sections.attempt(lambda: set_names(data)) or []
    sections.missing += [
        f"{data / name / 'utt2spk'}: not found, so the corpus table lacks {name}"
        for name in ("train", *sorted(_scored_sets(experiments)))
        if name not in names
    ]
    made = [sections.attempt(partial(summarise_set, data / name)) for name in names]
    summaries = [summary for summary in made if summary is not None]
    for summary in summaries:
        if summary.hours is None:
            sections.missing.append(f"{data / summary.name / 'utt2dur'}: missing or empty, so no hours and durations")
    return summaries


def _differences(experiments: Sequence[Experiment]) -> Dict[str, Tuple[str, List[Optional[str]]]]:
    """Return the keys that differ from the published recipe, with its value and that of each run (None: the same)."""
    configs = [experiment.config for experiment in experiments if experiment.config]
    differences: Dict[str, Tuple[str, List[Optional[str]]]] = {}
    for i, config in enumerate(configs):
        for key, published, value in config_differences(Config(), config):
            differences.setdefault(key, (_short(published), [None] * len(configs)))[1][i] = _short(value)
    return differences


def _short(value: object) -> str:
    """Format a value of the configuration."""
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    return "null" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def _health(experiments: Sequence[Experiment]) -> List[Tuple[str, List[Optional[Course]]]]:
    """Return each metric with its course in every trained experiment (None where it was not logged)."""
    trained = [experiment.metrics[1] for experiment in experiments if experiment.metrics]
    names = [name for name in dict.fromkeys(name for values in trained for name in values) if name != "seconds"]
    return [(name, [course(values[name]) if name in values else None for values in trained]) for name in names]


def _verdict(experiment: Experiment) -> Verdict:
    assert experiment.metrics is not None
    steps, values = experiment.metrics
    config = experiment.config
    checks = check_health(steps, values, config) if config else []
    outputs = num_outputs(config) if config else None
    return Verdict(experiment.name, int(steps[-1]), training_seconds(values), outputs, checks)


def _plda_notes(experiments: Sequence[Experiment]) -> List[str]:
    notes = {each.name: each.results.plda_note() for each in experiments if each.results}
    known = {name: note for name, note in notes.items() if note}
    if len(set(known.values())) == 1:
        return [next(iter(known.values()))]
    return [f"{name}: {note}" for name, note in known.items()]
