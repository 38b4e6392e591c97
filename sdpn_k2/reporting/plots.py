"""Pictures: DET curves, score histograms, training curves, embedding maps and error rates by condition.

Every function returns a matplotlib Figure, made without pyplot and its global state. ``to_svg`` turns it into SVG text.
Lines and letters of the SVG have the colour of the text around them, so that one picture fits light and dark pages.
"""

import io
from dataclasses import astuple
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from numpy.typing import ArrayLike

from sdpn_k2.errors import InputError
from sdpn_k2.reporting.html_page import visible
from sdpn_k2.reporting.training_log import read_metrics
from sdpn_k2.scoring import metrics
from sdpn_k2.scoring.metrics import CostModel, ErrorRates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours for colour-blind readers, except those that vanish on white or black.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
LINES = ("-", "--", ":", "-.")  # one after the other, when all colours are in use
HATCHES = ("", "//", "..", "xx")  # the same for bars
INK = "#767a7d"  # readable on white and black; in SVG the colour of the page replaces it
DET_TICKS = (0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
MAX_CURVE_POINTS = 2000
MAX_NAME = 48  # characters
# Courses that tell how a run goes; they are drawn larger than the others.
MAIN_COURSES = (
    "loss",
    "entropy (nat)",
    "student_entropy",
    "teacher_entropy",
    "prototypes_in_use",
    "effective_rank",
    "dev_eer",
)
# Counts, shares and rates, whose changes mislead unless the axis starts at 0.
FROM_ZERO = (
    "prototypes_in_use",
    "effective_rank",
    "dev_eer",
    "skipped_utterances",
    "utterances_per_second",
    "data_wait_share",
    "peak_memory_gb",
)


class Panel(NamedTuple):
    """One embedding map.

    Attributes:
        title: the system's name.
        vectors: embeddings, shape (n, dim).
        speakers: speaker of each embedding, length n.
    """

    title: str
    vectors: np.ndarray
    speakers: Sequence[str]


class Bar(NamedTuple):
    """EER of one system in one condition, in 0..1, with its interval if known."""

    eer: float
    interval: Optional[Tuple[float, float]] = None


def det_curves(systems: Mapping[str, ErrorRates], cost: Optional[CostModel] = None) -> "Figure":
    """Draw DET curves on normal-deviate axes, with the EER (circle) and the minDCF point (diamond) of each system.

    Normal scores of equal variance give straight lines [A. Martin et al., Eurospeech 1997].

    Args:
        systems: the sorted scores by system name.
        cost: application of the minDCF point; p_target 0.01 by default.
    """
    from scipy.special import ndtri

    application = astuple(cost or CostModel(0.01))
    figure, (axes,) = _figure(5.4, 5.0)
    lowest = 0.4
    shown, figures = {}, {}
    for (name, rates), (colour, line, _) in zip(systems.items(), _styles()):
        fa, miss = _det_points(rates)
        eer, (least, threshold) = metrics.eer(rates).value, metrics.min_dcf(rates, *application)
        figures[name] = f": EER {100 * eer:.2f} %, minDCF {least:.3f}"
        (shown[name],) = axes.plot(
            ndtri(fa), ndtri(miss), drawstyle="steps-pre", color=colour, linestyle=line, linewidth=1.6
        )
        dcf_point = float(rates.false_alarm_rate(threshold)), float(rates.miss_rate(threshold))
        for point, marker in (((eer, eer), "o"), (dcf_point, "D")):
            x, y = _inside(point[0], len(rates.nontargets)), _inside(point[1], len(rates.targets))
            axes.plot(ndtri(x), ndtri(y), marker, color=colour, markersize=6, markeredgecolor=INK)
        lowest = min(lowest, fa.min(), miss.min())
    limits = ndtri(max(lowest, DET_TICKS[0])) - 0.1, ndtri(0.8)
    ticks = [tick for tick in DET_TICKS if ndtri(tick) >= limits[0]]
    for axis, label in ((axes.xaxis, "false-alarm rate (%)"), (axes.yaxis, "miss rate (%)")):
        axis.set_ticks(ndtri(ticks), [f"{100 * tick:g}" for tick in ticks])
        axis.set_label_text(label)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.plot(limits, limits, linestyle=":", linewidth=1, color=INK)
    axes.grid(True, linewidth=0.4, alpha=0.4)
    _legend(axes, shown, figures)
    return figure


def score_histograms(rates: ErrorRates, threshold: Optional[float] = None, n_bins: int = 80) -> "Figure":
    """Draw the densities of target and nontarget scores, and a threshold as a line.

    Args:
        rates: the sorted scores.
        threshold: the threshold; that of the EER by default.
        n_bins: number of bins.
    """
    figure, (axes,) = _figure(6.0, 3.2)
    low = float(min(rates.targets[0], rates.nontargets[0]))
    high = float(max(rates.targets[-1], rates.nontargets[-1]))
    edges = np.linspace(low, high, n_bins + 1)
    shown: Dict[str, Any] = {}
    for name, scores, colour in (("nontarget", rates.nontargets, COLOURS[1]), ("target", rates.targets, COLOURS[0])):
        # The scores are sorted, so a search for the edges counts them. The last bin includes its upper end.
        places = np.searchsorted(scores, edges[:-1], side="left")
        density = np.diff(np.append(places, len(scores))) / (len(scores) * (edges[1] - edges[0]))
        axes.stairs(density, edges, fill=True, alpha=0.35, color=colour)
        shown[f"{name} ({len(scores)})"] = axes.stairs(density, edges, color=colour, linewidth=1.4)
    shown["EER threshold" if threshold is None else "threshold"] = axes.axvline(
        metrics.eer(rates).threshold if threshold is None else threshold, color=INK, linestyle="--", linewidth=1
    )
    axes.set(xlabel="score", ylabel="density", xlim=(low, high))
    _legend(axes, shown)
    return figure


def training_curves(runs: Mapping[str, Union[str, Path]]) -> Dict[str, "Figure"]:
    """Draw the course of one or more training runs from their ``metrics.jsonl``, as figures by title.

    For one run, draw the losses together, the entropies together, and every other metric alone. For several runs, draw
    one figure per metric with one curve per run. A moving average over a fiftieth of the run lies over the values. The
    axes of counts and rates start at 0.

    Args:
        runs: file of each run by its name.

    Raises:
        InputError: as :func:`sdpn_k2.reporting.training_log.read_metrics`.
    """
    read = {name: read_metrics(Path(path)) for name, path in runs.items()}
    curves: Dict[str, Dict[str, Tuple[np.ndarray, np.ndarray]]] = {}
    for run, (steps, values) in read.items():
        for metric, course in values.items():
            if metric == "seconds":
                continue
            title, label = (metric, run) if len(read) > 1 else (_group(metric), metric)
            known = np.isfinite(course)
            curves.setdefault(title, {})[label] = steps[known], course[known]
    return {title: _course(title, of_title) for title, of_title in curves.items()}


def _group(metric: str) -> str:
    if metric.startswith("loss"):
        return "loss"
    return "entropy (nat)" if metric.endswith("entropy") else metric


def _course(title: str, curves: Mapping[str, Tuple[np.ndarray, np.ndarray]]) -> "Figure":
    figure, (axes,) = _figure(5.2, 3.2) if title in MAIN_COURSES else _figure(3.6, 2.6)
    shown = {}
    for (label, (steps, values)), (colour, line, _) in zip(curves.items(), _styles()):
        few = len(steps) <= 20  # such as EERs on dev trials
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35, marker="." if few else None)
        (shown[label],) = axes.plot(
            *_moving_average(steps, values, max(1, len(steps) // 50)), color=colour, linestyle=line, linewidth=1.6
        )
    axes.set(title=title, xlabel="step")
    axes.set_xlim(left=0)
    if title in FROM_ZERO:
        highest = max((values.max() for _, values in curves.values() if len(values)), default=0.0)
        axes.set_ylim(0.0, 1.08 * highest if highest > 0 else 1.0)
    if len(curves) > 1:
        _legend(axes, shown)
    return figure


def embedding_maps(panels: Sequence[Panel], seed: int = 0) -> "Figure":
    """Draw t-SNE maps of the same speakers' embeddings from several systems, side by side (Figure 2 of the paper).

    Under each map, print the mean silhouette of the embeddings themselves (:func:`silhouette`), not of the map.

    Args:
        panels: one panel per system; a speaker has the same colour in all.
        seed: random seed of t-SNE.

    Raises:
        InputError: fewer than five embeddings, embeddings of one dimension, equal embeddings only, and all that
            ``silhouette`` raises.
    """
    from sklearn.manifold import TSNE

    speakers = sorted({speaker for panel in panels for speaker in panel.speakers})
    figure, all_axes = _figure(4.0 * len(panels), 4.2, 1, len(panels))
    shown = {}
    for axes, panel in zip(all_axes, panels):
        separation = silhouette(panel.vectors, panel.speakers)
        if len(panel.vectors) < 5:
            raise InputError(f"{panel.title}: a map needs at least 5 embeddings, not {len(panel.vectors)}")
        if panel.vectors.shape[1] < 2:
            raise InputError(f"{panel.title}: a map needs embeddings of at least 2 dimensions, not 1")
        unit = _unit(panel.vectors)
        if np.ptp(unit, axis=0).max() < 1e-6:  # rounding; t-SNE would crash
            raise InputError(f"{panel.title}: all {len(unit)} embeddings are equal, so there is nothing to map")
        perplexity = min(30.0, (len(unit) - 1) / 3)
        points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(unit.astype(np.float32))
        of_point = np.array(panel.speakers)
        for i, speaker in enumerate(speakers):
            x, y = points[of_point == speaker].T
            round_ = i // len(COLOURS)
            shown[speaker] = axes.scatter(x, y, s=18, color=COLOURS[i % len(COLOURS)], marker="osD^v"[round_ % 5])
        axes.set(title=_name(panel.title), xticks=[], yticks=[], xlabel=f"silhouette {separation:.3f}")
        axes.spines[:].set_visible(True)
    # As many columns as fit: letters of 8 points are about 0.07 inches wide, a marker with its blanks half an inch.
    columns = int(4.0 * len(panels) / (0.5 + 0.07 * max(len(_name(speaker)) for speaker in speakers)))
    _legend(figure, shown, loc="outside lower center", ncols=min(max(1, columns), len(speakers)))
    return figure


def condition_bars(conditions: Sequence[str], systems: Mapping[str, Sequence[Optional[Bar]]]) -> "Figure":
    """Draw the EER by condition: a group of bars per condition, a bar per system, whiskers for the intervals.

    Args:
        conditions: names of the conditions.
        systems: one Bar per condition for each system, None where there is no EER.
    """
    figure, (axes,) = _figure(max(4.0, 1.1 * len(conditions) * max(1, 0.6 * len(systems))), 3.2)
    width = 0.8 / len(systems)
    shown = {}
    for i, ((name, bars), (colour, _, hatch)) in enumerate(zip(systems.items(), _styles())):
        places = np.arange(len(conditions)) - 0.4 + width * (i + 0.5)
        measured = [(place, bar) for place, bar in zip(places, bars) if bar is not None]
        shown[name] = axes.bar(
            [place for place, _ in measured],
            [100 * bar.eer for _, bar in measured],
            width * 0.92,
            color=colour,
            hatch=hatch,
            edgecolor=INK,
            linewidth=0,
        )
        for place, bar in measured:
            low, high = bar.interval or (bar.eer, bar.eer)
            axes.vlines(place, 100 * low, 100 * high, color=INK, linewidth=1.2)
            _note(axes, f"{100 * bar.eer:.2f}", place, 100 * max(high, bar.eer))
        for place, absent in zip(places, bars):
            if absent is None:
                _note(axes, "none", place, 0.0)
    axes.set(ylabel="EER (%)", xticks=range(len(conditions)), xlim=(-0.5, len(conditions) - 0.5))
    axes.set_xticklabels(conditions, parse_math=False)
    axes.margins(y=0.15)
    if len(systems) > 1:
        _legend(figure, shown, loc="outside upper center", ncols=min(4, len(systems)))
    return figure


def silhouette(vectors: np.ndarray, speakers: Sequence[str]) -> float:
    """Return the mean silhouette by cosine distance [P. Rousseeuw, J. Comput. Appl. Math. 20, 1987].

    It is 1 when speakers are compact and far apart, 0 when they overlap, and negative when they are confused. For each
    embedding it is (b - a) / max(a, b): a is the mean distance to the speaker's other embeddings, b the smallest mean
    distance to those of another speaker. It is 0 for a speaker's only embedding.

    Args:
        vectors: shape (n, dim).
        speakers: length n.

    Raises:
        InputError: fewer than two speakers, lengths that differ, or an embedding that is not finite or of zero norm.
    """
    names, labels = np.unique(np.asarray(speakers), return_inverse=True)
    if len(labels) != len(vectors):
        raise InputError(f"{len(vectors)} embeddings, but {len(labels)} speaker labels")
    if len(names) < 2:
        raise InputError("a silhouette needs at least 2 speakers")
    unit = _unit(vectors)
    counts = np.bincount(labels)
    member = labels[:, None] == np.arange(len(names))
    # The mean distance of an embedding to a speaker is 1 - x . (sum of the speaker's unit vectors) / count.
    distances = counts - unit @ (unit.T @ member)
    own = distances[member] / np.maximum(counts[labels] - 1, 1)
    other = np.where(member, np.inf, distances / counts).min(axis=1)
    scale = np.maximum(own, other)
    apart = (counts[labels] > 1) & (scale > 1e-12)  # smaller distances are rounding
    values = np.where(apart, (other - own) / np.where(apart, scale, 1.0), 0.0)
    return float(values.mean())


def to_svg(figure: "Figure") -> str:
    """Return the figure as an ``<svg>`` element: text stays text, and the ink takes the colour of the page."""
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sdpn_k2"}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def _figure(width: float, height: float, n_rows: int = 1, n_columns: int = 1) -> "Tuple[Figure, List[Axes]]":
    """Return a Figure with a constrained layout and its axes, all in ink on a transparent ground."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(n_rows, n_columns, squeeze=False).ravel())
    for axes in panels:
        axes.set_facecolor("none")
        axes.tick_params(colors=INK, labelsize=9)
        for spine in axes.spines.values():
            spine.set_color(INK)
        axes.spines[["top", "right"]].set_visible(False)
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set(color=INK, fontsize=10, parse_math=False)
    return figure, panels


def _legend(
    owner: "Union[Axes, Figure]", shown: Mapping[str, Any], figures: Optional[Mapping[str, str]] = None, **options: Any
) -> None:
    """Add a legend, with the figures of each name after it. Show "$" and a leading "_", which matplotlib interprets."""
    legend = owner.legend(
        list(shown.values()), ["name"] * len(shown), frameon=False, fontsize=8, labelcolor=INK, **options
    )
    for text, name in zip(legend.get_texts(), shown):
        text.set(text=_name(name) + (figures or {}).get(name, ""), parse_math=False)


def _name(name: str) -> str:
    """Return a name that a picture has room for, with its start and its end."""
    name = visible(name)
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 3]}…{name[-MAX_NAME // 2 :]}"


def _note(axes: "Axes", text: str, x: float, y: float) -> None:
    """Print small text just above a point."""
    axes.annotate(
        text, (x, y), xytext=(0, 2), textcoords="offset points", ha="center", va="bottom", color=INK, fontsize=8
    )


def _styles() -> Iterator[Tuple[str, str, str]]:
    """Yield colour, line style and hatch for one curve or bar after the other."""
    for i in count():
        round_ = i // len(COLOURS)
        yield COLOURS[i % len(COLOURS)], LINES[round_ % len(LINES)], HATCHES[round_ % len(HATCHES)]


def _det_points(rates: ErrorRates) -> Tuple[np.ndarray, np.ndarray]:
    """Return P_fa and P_miss at the corners, at most ``MAX_CURVE_POINTS`` of them, kept off 0 and 1."""
    from scipy.special import ndtri

    _, misses, false_alarms = rates.corners
    fa = _inside(false_alarms / len(rates.nontargets), len(rates.nontargets))
    miss = _inside(misses / len(rates.targets), len(rates.targets))
    if len(fa) > MAX_CURVE_POINTS:
        # Points at equal steps along the drawn curve.
        length = np.concatenate(([0.0], np.cumsum(np.abs(np.diff(ndtri(fa))) + np.abs(np.diff(ndtri(miss))))))
        keep = np.unique(np.searchsorted(length, np.linspace(0.0, length[-1], MAX_CURVE_POINTS)))
        fa, miss = fa[keep], miss[keep]
    return fa, miss


def _inside(rate: ArrayLike, n: int) -> np.ndarray:
    """Move rates of 0 and 1, which have no normal deviate, inside by half a trial."""
    return np.asarray(np.clip(rate, 0.5 / n, 1.0 - 0.5 / n))


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(norms).all():
        raise InputError(f"embedding {int(np.argmin(np.isfinite(norms))) + 1} of {len(norms)} is not finite")
    if not (norms > 0).all():
        raise InputError(f"embedding {int(np.argmin(norms)) + 1} of {len(norms)} has zero norm")
    return vectors / norms[:, None]


def _moving_average(steps: np.ndarray, values: np.ndarray, window: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return the means over ``window`` neighbouring values, at the middle of each window."""
    if not len(values):
        return steps, values
    start = values[:1]  # sums of differences to it, so that a constant stays constant
    sums = np.concatenate(([0.0], np.cumsum(values - start)))
    first = (window - 1) // 2
    return steps[first : first + len(values) - window + 1], start + (sums[window:] - sums[:-window]) / window
