"""What an ablation came to: ABLATION.md and ablation.html with mean and spread over seeds, and the paper's Figure 2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from sdpn_k2.config import Config, config_differences
from sdpn_k2.errors import InputError
from sdpn_k2.experiments.ablation import Job, Row
from sdpn_k2.files import atomic_output
from sdpn_k2.reporting import html_page, plots
from sdpn_k2.reporting.embedding_maps import speaker_panels
from sdpn_k2.reporting.experiment_folder import Experiment, read_experiment
from sdpn_k2.reporting.results import backend_order, provenance
from sdpn_k2.reporting.training_log import course

FIGURE_RUNS = ("dino", "sdpn")  # the paper's Figure 2: DINO and SDPN side by side
HEALTH = ("prototypes_in_use", "effective_rank", "mean_cosine")


class Spread(NamedTuple):
    """A figure over the seeds: mean, sample standard deviation (NaN for one seed), lowest and highest."""

    mean: float
    deviation: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        """``12.34 ± 0.56``; of one seed the figure alone."""
        if math.isnan(self.deviation):
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}"


class Column(NamedTuple):
    """A column of a table: its heading, and how many digits its figures have."""

    heading: str
    digits: int


@dataclass(frozen=True)
class Line:
    """One line of a table; None where no seed has the figure."""

    row: Row
    seeds: int
    figures: List[Optional[Spread]]


@dataclass(frozen=True)
class Table:
    """A table over all variants; ``range_column`` is the one whose spread is also drawn."""

    title: str
    columns: List[Column]
    lines: List[Line]
    range_column: Optional[int] = None


@dataclass(frozen=True)
class Figure:
    """An embedding map: a file beside the tables, and the picture for the page."""

    file: str
    caption: str
    svg: str


def write_ablation(rows: Sequence[Row], jobs: Sequence[Job], data: Path, out: Path, command: str = "") -> List[str]:
    """Collects the runs and writes ABLATION.md, ablation.html and figure2_<set>.svg into ``out``.

    Args:
        rows: the lines (``ablation.grid``).
        jobs: the trainings that were wanted.
        data: the recipe's data folder.
        out: the folder of the runs.
        command: kept on the pages.

    Returns:
        what is missing, a line each.

    Raises:
        InputError: no run has results, or a file cannot be written.
    """
    rows = [row for row in rows if row.run in {job.run for job in jobs}]
    missing: List[str] = []
    experiments: Dict[str, List[Experiment]] = {}
    for job in jobs:
        folder = job.folder(out)
        try:
            experiment = read_experiment(folder, f"{job.run}, seed {job.config.seed}")
        except InputError as error:
            missing.append(str(error))
            continue
        if experiment.results:
            experiments.setdefault(job.run, []).append(experiment)
        missing += experiment.missing
    if not experiments:
        raise InputError(f"{out}: no run has results yet; the first that was looked for is {jobs[0].folder(out)}")
    figures = _figures(experiments, data, missing)
    tables = [*_error_tables(rows, experiments, data, missing), _health_table(rows, experiments)]
    missing = list(dict.fromkeys(missing))
    for figure in figures:
        with atomic_output(out / figure.file, "w") as stream:
            stream.write(figure.svg.replace("currentColor", plots.INK))
    facts = dict(
        tables=tables, figures=figures, missing=missing, written=provenance(command), base=_base(rows[0].config)
    )
    with atomic_output(out / "ABLATION.md", "w") as stream:
        stream.write(_markdown(**facts))
    with atomic_output(out / "ablation.html", "w") as stream:
        stream.write(html_page.render("ablation.html", name=out.resolve().name, **facts))
    return missing


def _spread(values: Sequence[float]) -> Optional[Spread]:
    if not values:
        return None
    return Spread(mean(values), stdev(values) if len(values) > 1 else math.nan, min(values), max(values))


def _error_tables(
    rows: Sequence[Row], experiments: Dict[str, List[Experiment]], data: Path, missing: List[str]
) -> List[Table]:
    """For each trial list a table of error rates, and the silhouette of the set's five speakers."""
    results = {run: [each.results["results"] for each in of_run] for run, of_run in experiments.items()}
    found = [row for of_run in results.values() for seed in of_run for row in seed]
    keys = {(row["set"], row["trials"], row["backend"]) for row in found}
    tables = []
    for set_name, trials_name in sorted({key[:2] for key in keys}):
        backends = sorted({key[2] for key in keys if key[:2] == (set_name, trials_name)}, key=backend_order)
        columns = [
            column
            for backend in backends
            for column in (Column(f"{backend} EER %", 2), Column(f"{backend} minDCF 0.05", 4))
        ]
        silhouettes = {run: _silhouettes(of_run, set_name, data, missing) for run, of_run in experiments.items()}
        lines = []
        for row in rows:
            figures: List[Optional[Spread]] = []
            for backend in backends:
                found = [
                    result
                    for seed in results.get(row.run, [])
                    for result in seed
                    if (result["set"], result["trials"], result["backend"]) == (set_name, trials_name, backend)
                ]
                figures += [
                    _spread([100 * each["eer"] for each in found]),
                    _spread([each["min_dcf_05"] for each in found]),
                ]
            figures.append(_spread(silhouettes.get(row.run, [])))
            lines.append(Line(row, len(experiments.get(row.run, [])), figures))
        tables.append(Table(f"{set_name} / {trials_name}", [*columns, Column("silhouette", 3)], lines, 0))
    return tables


def _silhouettes(experiments: Sequence[Experiment], set_name: str, data: Path, missing: List[str]) -> List[float]:
    values = []
    for experiment in experiments:
        try:
            (panel,) = speaker_panels(
                {experiment.name: experiment.path / f"xvectors_{set_name}"}, data / set_name / "utt2spk"
            )
            values.append(plots.silhouette(panel.vectors, panel.speakers))
        except InputError as error:
            missing.append(str(error))
    return values


def _health_table(rows: Sequence[Row], experiments: Dict[str, List[Experiment]]) -> Table:
    """How the trainings ended: means over the last tenth of what was logged."""

    def ends(run: str, metric: str) -> List[float]:
        logged = [each.metrics[1] for each in experiments.get(run, []) if each.metrics]
        values = [course(metrics[metric]).end for metrics in logged if metric in metrics]
        return [value for value in values if not math.isnan(value)]

    columns = [Column("prototypes in use", 1), Column("effective rank", 1), Column("mean cosine", 3)]
    lines = [
        Line(row, len(experiments.get(row.run, [])), [_spread(ends(row.run, metric)) for metric in HEALTH])
        for row in rows
    ]
    return Table("End of training", columns, lines)


def _figures(experiments: Dict[str, List[Experiment]], data: Path, missing: List[str]) -> List[Figure]:
    """A map for each set: five speakers, DINO and SDPN side by side, from their first seeds."""
    systems = [experiments[run][0] for run in FIGURE_RUNS if run in experiments]
    if len(systems) < len(FIGURE_RUNS):
        missing.append(f"no results of both {' and '.join(FIGURE_RUNS)}, so no embedding map")
        return []
    figures = []
    for name in sorted({row["set"] for system in systems for row in system.results["results"]}):
        folders = {system.name: system.path / f"xvectors_{name}" for system in systems}
        try:
            panels = speaker_panels(folders, data / name / "utt2spk")
            drawn = plots.embedding_maps(panels)
        except InputError as error:
            missing.append(str(error))
            continue
        speakers = panels[0].speakers
        caption = (
            f"{name}: t-SNE of {len(set(speakers))} speakers, {len(speakers)} utterances, and the silhouette of the "
            "embeddings themselves, by cosine."
        )
        figures.append(Figure(f"figure2_{name}.svg", caption, plots.to_svg(drawn)))
    return figures


def _base(config: Config) -> List[Tuple[str, object]]:
    """What the base configuration changes in the published recipe."""
    return [(key, value) for key, _, value in config_differences(Config(), config)]


def _markdown(
    tables: Sequence[Table],
    figures: Sequence[Figure],
    missing: Sequence[str],
    written: Dict[str, object],
    base: Sequence[Tuple[str, object]],
) -> str:
    lines = [
        "# Ablation",
        "",
        "Mean ± sample standard deviation over the seeds. Lines of one configuration are one run.",
    ]
    for table in tables:
        headings = ["", "", "seeds", *(column.heading for column in table.columns)]
        alignment = ["---", "---"] + ["---:"] * (len(headings) - 2)
        lines += ["", f"## {table.title}", "", _cells(headings), _cells(alignment)]
        question = ""
        for line in table.lines:
            asked = line.row.question if line.row.question != question else ""
            question = line.row.question
            told = [
                figure.text(column.digits) if figure else "–" for figure, column in zip(line.figures, table.columns)
            ]
            lines.append(_cells([asked, line.row.label, str(line.seeds), *told]))
    for figure in figures:
        lines += ["", f"![{figure.caption}]({figure.file})", "", figure.caption]
    lines += ["", "## How this was measured", ""]
    if base:
        lines.append("- base: the published recipe but " + ", ".join(f"{key} {value}" for key, value in base))
    lines += [
        f"- command: `{written['command']}`",
        f"- date: {written['date']}",
        "- versions: " + ", ".join(f"{package} {number}" for package, number in written["versions"].items()),
    ]
    if written["git_revision"]:
        lines.append(f"- git revision: {written['git_revision']}")
    lines += [f"- missing: {line}" for line in missing]
    return "\n".join(lines) + "\n"


def _cells(fields: Sequence[str]) -> str:
    return "| " + " | ".join(fields) + " |"
