"""Results of an ablation: ABLATION.md and ablation.html with mean and spread over seeds, and Figure 2 of the paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from sdpn_k2.config import Config, config_differences
from sdpn_k2.errors import InputError
from sdpn_k2.experiments.ablation import Job, Row
from sdpn_k2.files import atomic_output
from sdpn_k2.names import check_name
from sdpn_k2.provenance import Provenance, provenance
from sdpn_k2.reporting import html_page, plots
from sdpn_k2.reporting.embedding_maps import speaker_panels
from sdpn_k2.reporting.experiment_folder import Experiment, read_experiment
from sdpn_k2.reporting.results import Result, markdown_row, scoring_order
from sdpn_k2.reporting.training_log import course

FIGURE_RUNS = ("dino", "sdpn")  # side by side in Figure 2 of the paper
HEALTH = ("prototypes_in_use", "effective_rank", "mean_cosine")


class Spread(NamedTuple):
    """A figure over the seeds: mean, sample standard deviation (NaN for one seed), lowest and highest."""

    mean: float
    deviation: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        """Format as ``12.34 ± 0.56``; without deviation for one seed."""
        if math.isnan(self.deviation):
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}"


class Column(NamedTuple):
    """A column of a table: its heading and the number of digits of its figures."""

    heading: str
    digits: int


@dataclass(frozen=True)
class Line:
    """One row of a table; a figure is None where no seed has it."""

    row: Row
    seeds: int
    figures: List[Optional[Spread]]


@dataclass(frozen=True)
class Table:
    """A table over all variants; the page also draws the spread of ``range_column``."""

    title: str
    columns: List[Column]
    lines: List[Line]
    range_column: Optional[int] = None


@dataclass(frozen=True)
class Figure:
    """An embedding map: the name of its file, and the picture for the page."""

    file: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Page:
    """The contents of ABLATION.md and ablation.html; ``base`` lists what the base changes in the published recipe."""

    name: str
    tables: List[Table]
    figures: List[Figure]
    missing: List[str]
    written: Provenance
    base: List[Tuple[str, object]]


def write_ablation(rows: Sequence[Row], jobs: Sequence[Job], data: Path, out: Path, command: str = "") -> List[str]:
    """Collect the runs, and write ABLATION.md, ablation.html and figure2_<set>.svg into ``out``.

    Args:
        rows: rows of the table (``ablation.grid``).
        jobs: training runs to include.
        data: the recipe's data folder.
        out: the folder of the runs.
        command: command line, for the record.

    Returns:
        a line for each missing part.

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
        raise InputError(f"{out}: no run has results yet; the first one would be {jobs[0].folder(out)}")
    figures = _figures(experiments, data, missing)
    tables = [*_error_tables(rows, experiments, data, missing), _health_table(rows, experiments)]
    missing = list(dict.fromkeys(missing))
    for figure in figures:
        with atomic_output(out / figure.file, "w") as stream:
            stream.write(figure.svg.replace("currentColor", plots.INK))
    page = Page(out.resolve().name, tables, figures, missing, provenance(command), _base(rows[0].config))
    with atomic_output(out / "ABLATION.md", "w") as stream:
        stream.write(_markdown(page))
    with atomic_output(out / "ablation.html", "w") as stream:
        stream.write(html_page.render("ablation.html", **vars(page)))
    return missing


def _spread(values: Sequence[float]) -> Optional[Spread]:
    if not values:
        return None
    return Spread(mean(values), stdev(values) if len(values) > 1 else math.nan, min(values), max(values))


def _error_tables(
    rows: Sequence[Row], experiments: Dict[str, List[Experiment]], data: Path, missing: List[str]
) -> List[Table]:
    """Return a table for each trial list: error rates, and the silhouette of five speakers of the set."""
    results = {run: [row for each in of_run for row in _results(each)] for run, of_run in experiments.items()}
    keys = {(row.set, row.trials, row.scoring) for of_run in results.values() for row in of_run}
    tables = []
    for set_name, trials_name in sorted({key[:2] for key in keys}):
        scorings = sorted({key[2] for key in keys if key[:2] == (set_name, trials_name)}, key=scoring_order)
        columns = [
            column
            for scoring in scorings
            for column in (Column(f"{scoring} EER %", 2), Column(f"{scoring} minDCF 0.05", 4))
        ]
        silhouettes = {run: _silhouettes(of_run, set_name, data, missing) for run, of_run in experiments.items()}
        lines = []
        for row in rows:
            figures: List[Optional[Spread]] = []
            for scoring in scorings:
                key = set_name, trials_name, scoring
                found = [each for each in results.get(row.run, []) if (each.set, each.trials, each.scoring) == key]
                figures += [_spread([100 * each.eer for each in found]), _spread([each.min_dcf_05 for each in found])]
            figures.append(_spread(silhouettes.get(row.run, [])))
            lines.append(Line(row, len(experiments.get(row.run, [])), figures))
        tables.append(Table(f"{set_name} / {trials_name}", [*columns, Column("silhouette", 3)], lines, 0))
    return tables


def _results(experiment: Experiment) -> Iterable[Result]:
    return experiment.results.rows if experiment.results else ()


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
    """Return the end of the training runs: means over the last tenth of the logged values."""

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
    """Draw a map for each set: five speakers, DINO and SDPN side by side, from their first seeds."""
    systems = [experiments[run][0] for run in FIGURE_RUNS if run in experiments]
    if len(systems) < len(FIGURE_RUNS):
        missing.append(f"embedding maps: they need results of {' and '.join(FIGURE_RUNS)}")
        return []
    figures = []
    for name in sorted({row.set for system in systems for row in _results(system)}):
        folders = {system.name: system.path / f"xvectors_{name}" for system in systems}
        try:
            check_name(name, "results.json: set")
            panels = speaker_panels(folders, data / name / "utt2spk")
            drawn = plots.embedding_maps(panels)
        except InputError as error:
            missing.append(str(error))
            continue
        speakers = panels[0].speakers
        caption = (
            f"{name}: t-SNE of {len(set(speakers))} speakers, {len(speakers)} utterances; the silhouette is computed "
            "on the embeddings themselves, by cosine."
        )
        figures.append(Figure(f"figure2_{name}.svg", caption, plots.to_svg(drawn)))
    return figures


def _base(config: Config) -> List[Tuple[str, object]]:
    """List what the base configuration changes in the published recipe."""
    return [(key, value) for key, _, value in config_differences(Config(), config)]


def _markdown(page: Page) -> str:
    lines = [
        "# Ablation",
        "",
        "Mean ± sample standard deviation over the seeds. Rows with the same configuration share one run.",
    ]
    for table in page.tables:
        headings = ["", "", "seeds", *(column.heading for column in table.columns)]
        alignment = ["---", "---"] + ["---:"] * (len(headings) - 2)
        lines += ["", f"## {table.title}", "", markdown_row(headings), markdown_row(alignment)]
        previous = ""
        for line in table.lines:
            question = line.row.question if line.row.question != previous else ""
            previous = line.row.question
            figures = [
                figure.text(column.digits) if figure else "–" for figure, column in zip(line.figures, table.columns)
            ]
            lines.append(markdown_row([question, line.row.label, str(line.seeds), *figures]))
    for figure in page.figures:
        lines += ["", f"![{figure.caption}]({figure.file})", "", figure.caption]
    lines += ["", "## How this was measured", ""]
    if page.base:
        lines.append("- base: the published recipe with " + ", ".join(f"{key} {value}" for key, value in page.base))
    lines += page.written.lines()
    lines += [f"- missing: {line}" for line in page.missing]
    return "\n".join(lines) + "\n"
