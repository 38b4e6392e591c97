"""``report.html``: an experiment, or several side by side, as one page that needs nothing but a browser.

Figures that were measured already (results.json) are taken as they are. What cannot be shown is named on the page.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, TypeVar

import numpy as np

from sdpn_k2.config import Config, config_differences
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.reporting import html_page, plots
from sdpn_k2.reporting.data_summary import SetSummary, known_conditions, set_names, summarise_set
from sdpn_k2.reporting.embedding_maps import speaker_panels
from sdpn_k2.reporting.experiment_folder import Experiment, ScoreKey, read_experiments
from sdpn_k2.reporting.results import (
    PLDA_LABELS,
    UNKNOWN_LABELS,
    backend_order,
    embedded_trials,
    known_speakers,
    provenance,
)
from sdpn_k2.reporting.training_log import course
from sdpn_k2.scoring import metrics
from sdpn_k2.scoring.conditions import Conditions, rates_by_condition
from sdpn_k2.scoring.confidence import TrialSpeakers, bootstrap_intervals
from sdpn_k2.scoring.metrics import ErrorRates
from sdpn_k2.scoring.trial_list import (
    Trials,
    check_labels_agree,
    match_scores,
    read_scores,
    read_trials,
    trials_between,
)

Made = TypeVar("Made")

BAR_DRAWS = 200  # for the interval of each bar: enough to see it by

MEANINGS = {
    "loss": "the objective",
    "loss_ce": "cross-entropy of student and teacher assignments, nat",
    "loss_me": "mean-entropy term: ln K less the entropy of the mean assignment, nat",
    "loss_dr": "dimension regularisation",
    "student_entropy": "of one student assignment, nat",
    "teacher_entropy": "of one teacher assignment, nat",
    "prototypes_in_use": "exp of the entropy of the mean assignment; all of them is best",
    "effective_rank": "dimensions that the embeddings of a batch fill",
    "mean_cosine": "of different utterances; near 1 is collapse",
    "gradient_norm": "of the student, before clipping",
    "lr": "learning rate",
    "ema_momentum": "with which the teacher follows the student",
    "utterances_per_second": "throughput of the training",
    "data_wait_share": "share of the time spent waiting for data",
    "skipped_utterances": "could not be read",
    "peak_memory_gb": "on the device, or of the process on a CPU",
    "dev_eer": "EER of the teacher on development trials, %",
}


class Picture(NamedTuple):
    """A picture of the page: an SVG, what it shows, what stands under it, and whether it is too wide for a phone."""

    svg: str
    label: str
    caption: str
    wide: bool = False


class System(NamedTuple):
    """Scores in the order of the trials, and sorted."""

    scores: np.ndarray
    rates: ErrorRates


class Row(NamedTuple):
    """One measured system in the results table; ``best`` has the lowest EER of its trial list."""

    experiment: str
    values: Mapping[str, object]
    best: bool


@dataclass
class Sections:
    """What the template shows."""

    rows: List[Row] = field(default_factory=list)
    lists: List[Tuple[str, List[Picture]]] = field(default_factory=list)  # of each trial list
    maps: List[Picture] = field(default_factory=list)
    curves: List[Picture] = field(default_factory=list)
    corpus: List[SetSummary] = field(default_factory=list)
    missing: List[str] = field(default_factory=list)

    def attempt(self, make: Callable[[], Made]) -> Optional[Made]:
        """What ``make`` returns; after bad input None, and what is missing is noted."""
        try:
            return make()
        except InputError as error:
            self.missing.append(str(error))
            return None


def write_report(paths: Sequence[Path], data: Optional[Path], output: Path, command: str = "") -> List[str]:
    """Writes the report of one experiment, or of several compared.

    Args:
        paths: experiment folders.
        data: the recipe's data folder (trial lists, utt2spk, utt2dur), which pictures of scores and embeddings need;
            None: that of results.json, where it is still there and the same for all.
        output: the HTML file.
        command: the command line that asked for it, kept on the page.

    Returns:
        what is missing, a line each.

    Raises:
        InputError: a folder that is no experiment, no such data folder, or the page cannot be written.
    """
    if data is not None and not data.is_dir():
        raise InputError(f"{data}: no such data folder")
    experiments = read_experiments(paths)
    sections = Sections(rows=_rows(experiments))
    sections.missing += dict.fromkeys(line for experiment in experiments for line in experiment.missing)
    sections.missing += _parts_not_there(experiments)
    recorded = {experiment.results["data"] for experiment in experiments if experiment.results} - {None}
    if data is None and len(recorded) == 1 and Path(*recorded).is_dir():
        data = Path(*recorded)
    if data is None:
        sections.missing.append(
            f"no data folder (--data DATA; results.json names {', '.join(sorted(recorded)) or 'none'}): "
            "no DET curves, histograms, conditions, maps and corpus"
        )
    else:
        for set_name, trials_name in sorted({key[:2] for experiment in experiments for key in experiment.scores}):
            pictures = _list_pictures(sections, experiments, data, set_name, trials_name)
            if pictures:
                sections.lists.append((f"{set_name} / {trials_name}", pictures))
        sections.maps = _maps(sections, experiments, data)
        sections.corpus = _corpus(sections, experiments, data)
    trained = {experiment.name: experiment.path / "metrics.jsonl" for experiment in experiments if experiment.metrics}
    if trained:
        sections.curves = [
            Picture(plots.to_svg(figure), f"{title} by training step", "")
            for title, figure in plots.training_curves(trained).items()
        ]
    text = html_page.render(
        "report.html",
        experiments=experiments,
        sections=sections,
        differences=_differences(experiments),
        health=_health(experiments),
        meanings=MEANINGS,
        plda=_plda_notes(experiments),
        written=provenance(command),
        widest=max(
            (
                row.values["eer_interval"][1] if row.values["eer_interval"] else row.values["eer"]
                for row in sections.rows
            ),
            default=0.0,
        ),
    )
    with atomic_output(output, "w") as stream:
        stream.write(text)
    return sections.missing


def _parts_not_there(experiments: Sequence[Experiment]) -> Iterator[str]:
    """A line for each part of the recipe's that only the page shows."""
    for experiment in experiments:
        parts = {"train.log": "sdpn-k2 train writes it", "stamps": "run.sh keeps the settings of its stages there"}
        if any(backend != "cosine" for _, _, backend in experiment.scores):
            parts["backend"] = "train the back end (stage 5 of run.sh)"
        for name, remedy in parts.items():
            if not (experiment.path / name).exists():
                yield f"{experiment.path / name}: not there; {remedy}"


def _rows(experiments: Sequence[Experiment]) -> List[Row]:
    found = [
        (experiment.name, row)
        for experiment in experiments
        if experiment.results
        for row in experiment.results["results"]
    ]
    least: Dict[Tuple[str, str], float] = {}
    for _, row in found:
        key = row["set"], row["trials"]
        least[key] = min(row["eer"], least.get(key, row["eer"]))
    order = {experiment.name: i for i, experiment in enumerate(experiments)}
    found.sort(key=lambda item: (item[1]["set"], item[1]["trials"], backend_order(item[1]["backend"]), order[item[0]]))
    return [Row(name, row, row["eer"] == least[row["set"], row["trials"]]) for name, row in found]


def _list_pictures(
    sections: Sections, experiments: Sequence[Experiment], data: Path, set_name: str, trials_name: str
) -> List[Picture]:
    """The pictures of one trial list: back ends together for one experiment, experiments together for several."""
    trials = sections.attempt(lambda: _labelled(data / set_name / trials_name))
    if trials is None:
        return []
    listed = trials
    for experiment in experiments:  # systems side by side are of the same trials
        found = sections.attempt(partial(embedded_trials, experiment.path, set_name, trials_name, listed))
        if found is not None:
            kept, left_out = found
            trials = trials_between(trials, {*kept.enroll_ids, *kept.test_ids})
            told = (f"{experiment.path}: {line}" for line in left_out)
            sections.missing += [line for line in told if line not in sections.missing]
    conditions = sections.attempt(lambda: known_conditions(data / set_name, trials)) or {}
    speakers = sections.attempt(lambda: known_speakers(data / set_name / "utt2spk", trials)) if conditions else None
    pictures: List[Picture] = []
    for title, files in _groups(experiments, set_name, trials_name):
        read = {name: sections.attempt(partial(_read, file, trials)) for name, file in files.items()}
        systems = {name: system for name, system in read.items() if system is not None}
        if not systems:
            continue
        of = f" of {title}" if title else ""
        rates = {name: system.rates for name, system in systems.items()}
        pictures.append(
            Picture(
                plots.to_svg(plots.det_curves(rates)),
                f"DET curves{of}",
                f"DET curves{of}: misses against false alarms. Circle: EER. Diamond: minDCF at p_target 0.01.",
            )
        )
        if len(experiments) == 1:
            pictures += [
                Picture(
                    plots.to_svg(plots.score_histograms(each)),
                    f"score histograms of {name}",
                    f"Scores of {name}: densities, and the threshold of the EER.",
                )
                for name, each in rates.items()
            ]
        pictures += [_bars(systems, trials, speakers, what, division, of) for what, division in conditions.items()]
    return pictures


def _labelled(path: Path) -> Trials:
    trials = read_trials(path)
    check_labels_agree(trials)
    return trials


def _read(path: Path, trials: Trials) -> System:
    values = match_scores(read_scores(path), trials)
    try:
        return System(values, ErrorRates.from_scores(values, trials.labels()))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _groups(
    experiments: Sequence[Experiment], set_name: str, trials_name: str
) -> Iterator[Tuple[str, Dict[str, Path]]]:
    """Score files to be drawn together, by name, under a title."""

    def has(key: ScoreKey) -> bool:
        return key[:2] == (set_name, trials_name)

    if len(experiments) == 1:
        (experiment,) = experiments
        keys = sorted(filter(has, experiment.scores), key=lambda key: backend_order(key[2]))
        yield "", {key[2]: experiment.scores[key] for key in keys}
        return
    keys = {key for each in experiments for key in each.scores if has(key)}
    for key in sorted(keys, key=lambda key: backend_order(key[2])):
        yield key[2], {each.name: each.scores[key] for each in experiments if key in each.scores}


def _bars(
    systems: Mapping[str, System],
    trials: Trials,
    speakers: Optional[TrialSpeakers],
    what: str,
    conditions: Conditions,
    of: str,
) -> Picture:
    counts = np.bincount(conditions.of_trial[conditions.of_trial >= 0], minlength=len(conditions.names)).tolist()
    bars = {}
    for name, system in systems.items():
        rates = rates_by_condition(system.scores, trials.labels(), conditions).values()
        bars[name] = [
            _bar(each, system, trials, speakers, conditions.of_trial == i) if each else None
            for i, each in enumerate(rates)
        ]
    names = [f"{name}\n{html_page.number(count)} trials" for name, count in zip(conditions.names, counts)]
    caption = f"EER{of} by {what}." + (" Lines: 95 % intervals when the speakers are drawn anew." if speakers else "")
    return Picture(plots.to_svg(plots.condition_bars(names, bars)), f"EER{of} by {what}", caption)


def _bar(
    rates: ErrorRates, system: System, trials: Trials, speakers: Optional[TrialSpeakers], chosen: np.ndarray
) -> plots.Bar:
    """The EER of the trials in ``chosen``, bool (n_trials,), with its interval where the speakers are known."""
    interval = None
    if speakers is not None:
        interval = bootstrap_intervals(
            system.scores[chosen],
            trials.labels()[chosen],
            TrialSpeakers(*(side[chosen] for side in speakers)),
            (),
            n_draws=BAR_DRAWS,
        ).eer
    return plots.Bar(metrics.eer(rates).value, interval)


def _maps(sections: Sections, experiments: Sequence[Experiment], data: Path) -> List[Picture]:
    """A map for each set that has scores or embeddings, of all experiments that have embeddings of it."""
    names = {path.name[len("xvectors_") :] for experiment in experiments for path in experiment.path.glob("xvectors_*")}
    names.update(_scored_sets(experiments))
    made = []
    for name in sorted(names - {"train"}):
        folders = {experiment.name: experiment.path / f"xvectors_{name}" for experiment in experiments}
        for folder in folders.values():
            if not (folder / "xvector.scp").is_file():
                sections.missing.append(f"{folder / 'xvector.scp'}: not there; extract embeddings (stage 4 of run.sh)")
        folders = {system: folder for system, folder in folders.items() if (folder / "xvector.scp").is_file()}
        made.append(sections.attempt(partial(_map, name, folders, data / name / "utt2spk")) if folders else None)
    return [picture for picture in made if picture is not None]


def _map(name: str, folders: Mapping[str, Path], utt2spk: Path) -> Picture:
    panels = speaker_panels(folders, utt2spk)
    return Picture(
        plots.to_svg(plots.embedding_maps(panels)),
        f"map of the embeddings of {name}",
        f"{name}: t-SNE of {len(set(panels[0].speakers))} speakers, {len(panels[0].speakers)} utterances. "
        "The silhouette is of the embeddings themselves, by cosine: 1 is best, 0 is mixed.",
        len(panels) > 1,
    )


def _scored_sets(experiments: Sequence[Experiment]) -> Set[str]:
    return {set_name for experiment in experiments for set_name, _, _ in experiment.scores}


def _corpus(sections: Sections, experiments: Sequence[Experiment], data: Path) -> List[SetSummary]:
    names = sections.attempt(lambda: set_names(data)) or []
    sections.missing += [
        f"{data / name / 'utt2spk'}: not there, so {name} is not counted"
        for name in ("train", *sorted(_scored_sets(experiments)))
        if name not in names
    ]
    made = [sections.attempt(partial(summarise_set, data / name)) for name in names]
    summaries = [summary for summary in made if summary is not None]
    for summary in summaries:
        if summary.hours is None:
            sections.missing.append(f"{data / summary.name / 'utt2dur'}: not there or empty, so no hours and durations")
    return summaries


def _differences(experiments: Sequence[Experiment]) -> Dict[str, Tuple[str, List[Optional[str]]]]:
    """Keys in which a run differs from the published recipe → the recipe's value, and each run's (None: the same)."""
    configs = [experiment.config for experiment in experiments if experiment.config]
    differences: Dict[str, Tuple[str, List[Optional[str]]]] = {}
    for i, config in enumerate(configs):
        for key, published, value in config_differences(Config(), config):
            differences.setdefault(key, (_shown(published), [None] * len(configs)))[1][i] = _shown(value)
    return differences


def _shown(value: object) -> str:
    """A value of the configuration, short."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return "null" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def _health(experiments: Sequence[Experiment]) -> List[Tuple[str, list]]:
    """Each metric with its course in every experiment that was trained (None where it was not logged)."""
    trained = [experiment.metrics[1] for experiment in experiments if experiment.metrics]
    names = dict.fromkeys(name for values in trained for name in values)
    return [(name, [course(values[name]) if name in values else None for values in trained]) for name in names]


def _plda_notes(experiments: Sequence[Experiment]) -> List[str]:
    notes = {}
    for experiment in experiments:
        if experiment.results and any(row["backend"].startswith("plda") for row in experiment.results["results"]):
            notes[experiment.name] = PLDA_LABELS.get(experiment.results["plda_labels"], UNKNOWN_LABELS)
    if len(set(notes.values())) == 1:
        return [next(iter(notes.values()))]
    return [f"{name}: {note}" for name, note in notes.items()]
