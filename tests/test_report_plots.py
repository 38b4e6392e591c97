"""Pictures hold the right numbers, and silhouettes follow their definition."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.special import ndtri

from sdpn_k2.errors import InputError
from sdpn_k2.reporting import plots
from sdpn_k2.reporting.plots import Bar, Panel, silhouette
from sdpn_k2.scoring.metrics import CostModel, ErrorRates


def gaussian_rates(n=50_000, distance=2.0):
    quantiles = ndtri((np.arange(n) + 0.5) / n)
    return ErrorRates.from_split(quantiles + distance, quantiles)


def texts(figure):
    root = ElementTree.fromstring(plots.to_svg(figure))
    return [text.strip() for text in root.itertext() if text.strip()]


def test_det_curve_of_two_gaussians_is_a_straight_line():
    """probit(P_miss) = -distance - probit(P_fa)."""
    figure = plots.det_curves({"system": gaussian_rates()}, CostModel(0.05))
    axes = figure.axes[0]
    x, y = axes.lines[0].get_data()
    assert 100 < len(x) <= plots.MAX_CURVE_POINTS
    inside = (np.abs(x) < 3) & (np.abs(y) < 3)
    np.testing.assert_allclose((x + y)[inside], -2.0, atol=0.02)
    eer_point, dcf_point = (np.ravel(line.get_data()) for line in axes.lines[1:3])
    np.testing.assert_allclose(eer_point, [-1.0, -1.0], atol=0.01)
    assert dcf_point[0] < dcf_point[1] and dcf_point.sum() == pytest.approx(-2.0, abs=0.02)
    assert any("EER 15.87 %" in text for text in texts(figure))


def test_det_curve_draws_the_steps_of_few_trials():
    """Targets 1, 3, nontargets 0, 2: accepted one by one from the top."""
    axes = plots.det_curves({"system": ErrorRates.from_split([1.0, 3.0], [0.0, 2.0])}).axes[0]
    x, y = axes.lines[0].get_data()
    np.testing.assert_allclose(x, ndtri([0.5, 0.25]))  # P_fa 1/2 and 0, the latter drawn as half a trial
    np.testing.assert_allclose(y, ndtri([0.25, 0.5]))
    assert axes.lines[0].get_drawstyle() == "steps-pre"


def test_det_curves_mark_the_eer_of_coarse_scores():
    """Between the points (3/4, 1/3) and (0, 1/3) of the ROC the EER is 1/3, which no threshold has."""
    axes = plots.det_curves({"system": ErrorRates.from_split([1.0, 3.0, 3.0], [0.0, 2.0, 2.0, 2.0])}).axes[0]
    np.testing.assert_allclose(np.ravel(axes.lines[1].get_data()), ndtri([1 / 3, 1 / 3]))


def test_histograms_are_densities():
    axes = plots.score_histograms(ErrorRates.from_split([1.0, 2.0, 2.0, 4.0], [0.0, 1.0]), n_bins=4).axes[0]
    densities = [patch.get_data().values for patch in axes.patches]
    np.testing.assert_allclose(densities[0], [0.5, 0.5, 0.0, 0.0])  # nontargets
    np.testing.assert_allclose(densities[2], [0.0, 0.25, 0.5, 0.25])  # targets: the last bin holds its upper end


def test_svg_is_well_formed_and_reproducible():
    first, second = (plots.to_svg(plots.score_histograms(gaussian_rates(500))) for _ in range(2))
    assert first == second
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert "currentColor" in first and plots.INK not in first
    assert "nontarget (500)" in texts(plots.score_histograms(gaussian_rates(500)))


def write_metrics(path, n, tail=""):
    lines = [
        json.dumps(
            {"step": 10 * i, "loss": 5.0 - i, "loss_ce": 4.0, "lr": 0.1} if i % 2 else {"step": 10 * i, "loss": 5.0 - i}
        )
        for i in range(n)
    ]
    path.write_text("\n".join(lines) + "\n" + tail)


def test_training_curves_show_the_logged_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_metrics(path, 150, tail='{"step": 15')  # the run is being written
    figures = plots.training_curves({"run": path})
    assert list(figures) == ["loss", "lr"]
    raw, average = figures["loss"].axes[0].lines[:2]
    assert raw.get_xdata().tolist() == [10 * i for i in range(150)]
    # A straight line is its own moving average over an odd window.
    np.testing.assert_allclose(average.get_ydata(), 5.0 - average.get_xdata() / 10)
    assert set(figures["lr"].axes[0].lines[1].get_ydata()) == {0.1}
    assert {"loss", "loss_ce"} <= set(texts(figures["loss"]))
    path.write_text("")
    with pytest.raises(InputError, match="metrics.jsonl: "):
        plots.training_curves({"run": path})
    path.write_text('{"loss": 1}\n{"step": 1}\n')
    with pytest.raises(InputError, match="metrics.jsonl:1: "):
        plots.training_curves({"run": path})
    with pytest.raises(InputError, match="none: "):
        plots.training_curves({"run": tmp_path / "none"})


def test_axes_of_counts_start_at_0_and_the_time_has_no_curve(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": step, "loss": 4.0, "prototypes_in_use": 120.0 + step, "skipped_utterances": 0, "seconds": 9.0 * step}
        for step in range(10, 15)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = plots.training_curves({"run": path})
    assert list(figures) == ["loss", "prototypes_in_use", "skipped_utterances"]
    limits = {title: figure.axes[0].get_ylim() for title, figure in figures.items()}
    assert limits["prototypes_in_use"][0] == limits["skipped_utterances"][0] == 0 < limits["loss"][0]
    assert limits["prototypes_in_use"][1] > 134 and limits["skipped_utterances"][1] == 1
    # Those that tell how a run goes are larger.
    assert figures["prototypes_in_use"].get_size_inches()[0] > figures["skipped_utterances"].get_size_inches()[0]


def test_long_names_keep_their_start_and_end_beside_the_figures():
    long = f"start{'x' * 100}end\u202e"
    shown = texts(plots.det_curves({long: gaussian_rates(500), "short_$x$": gaussian_rates(500)}))
    (label,) = [text for text in shown if text.startswith("start")]
    assert re.fullmatch(r"startx{11}…x+endU\+202E: EER [\d.]+ %, minDCF [\d.]+", label) and len(label) < 90
    assert any(text.startswith("short_$x$: EER ") for text in shown)


def test_training_curves_of_several_runs_share_one_picture_per_metric(tmp_path):
    write_metrics(tmp_path / "a", 20)
    write_metrics(tmp_path / "b", 10)
    figures = plots.training_curves({"first": tmp_path / "a", "second": tmp_path / "b"})
    assert list(figures) == ["loss", "loss_ce", "lr"]
    lines = figures["loss_ce"].axes[0].lines
    assert [len(line.get_xdata()) for line in lines[::2]] == [10, 5]
    assert {"first", "second"} <= set(texts(figures["loss_ce"]))


def speakers_apart(distance, n=8, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((16, 16)))[0][:5]
    return (
        np.repeat(centres, n, axis=0) * distance + 0.3 * rng.standard_normal((5 * n, 16)),
        [f"s{i // n}" for i in range(5 * n)],
    )


@pytest.mark.parametrize("distance", [0.0, 0.5, 2.0])
def test_silhouette_equals_sklearns(distance):
    from sklearn.metrics import silhouette_score

    vectors, speakers = speakers_apart(distance)
    speakers[0] = "alone"
    expected = silhouette_score(vectors, speakers, metric="cosine")
    assert silhouette(vectors, speakers) == pytest.approx(expected, abs=1e-9)


def test_silhouettes_of_extremes_and_mistakes():
    assert silhouette(np.array([[1, 0], [2, 0], [0, 1], [0, 3]]), ["a", "a", "b", "b"]) == 1.0
    assert silhouette(np.ones((4, 2)), ["a", "a", "b", "b"]) == 0.0
    with pytest.raises(InputError, match="2 speakers"):
        silhouette(np.ones((2, 2)), ["a", "a"])
    with pytest.raises(InputError, match="2 of 2"):
        silhouette(np.array([[1.0], [0.0]]), ["a", "b"])
    with pytest.raises(InputError, match="1 of 2"):
        silhouette(np.array([[np.nan], [1.0]]), ["a", "b"])
    with pytest.raises(InputError, match="2 .* 1 "):
        silhouette(np.ones((2, 2)), ["a"])


def test_embedding_maps_show_each_system_with_its_silhouette():
    near, far = speakers_apart(0.7), speakers_apart(2.0)
    figure = plots.embedding_maps([Panel("near", *near), Panel("far", *far)])
    shown = texts(figure)
    for vectors, speakers in (near, far):
        assert f"silhouette {silhouette(vectors, speakers):.3f}" in shown
    assert shown.count("s3") == 1
    assert [len(collection.get_offsets()) for collection in figure.axes[1].collections] == [8] * 5
    # Neighbours on the map of the better system belong to the same speaker.
    points = np.concatenate([collection.get_offsets() for collection in figure.axes[1].collections])
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(40, np.inf))
    assert (distances.argmin(axis=1) // 8 == np.arange(40) // 8).mean() > 0.9


@pytest.mark.parametrize(
    "vectors, said",
    [
        (np.ones((4, 2)), "x: .* 5 .* 4$"),
        (np.arange(1.0, 7.0)[:, None], "x: .* 2 dimensions"),
        (np.full((6, 3), 0.1) * np.arange(1, 7)[:, None], "x: all 6 "),
    ],
)
def test_embeddings_that_cannot_be_mapped(vectors, said):
    with pytest.raises(InputError, match=said):
        plots.embedding_maps([Panel("x", vectors, ["a", "b"] * (len(vectors) // 2))])


NAMES = ["$a_", "_b$ of $c$", "__"]  # matplotlib would read these as mathematics or hide them


@pytest.mark.parametrize(
    "draw",
    [
        lambda names: plots.det_curves({name: gaussian_rates(50) for name in names}),
        lambda names: plots.condition_bars(names, {name: [Bar(0.1)] * len(names) for name in names}),
        lambda names: plots.embedding_maps([Panel(names[0], np.eye(6) + 1, 2 * names)]),
    ],
    ids=["curves", "bars", "maps"],
)
def test_names_are_shown_unchanged(draw):
    shown = texts(draw(NAMES))
    for name in NAMES:
        assert any(text.startswith(name) for text in shown)


def test_names_of_metrics_and_runs_are_unchanged(tmp_path):
    paths = {name: tmp_path / str(i) for i, name in enumerate(NAMES)}
    for path in paths.values():
        path.write_text('{"step": 1, "$x$": 2}\n')
    (figure,) = plots.training_curves(paths).values()
    assert {"$x$", *NAMES} <= set(texts(figure))


def test_the_seventh_system_does_not_look_like_the_first():
    lines = [
        line
        for line in plots.det_curves({str(i): gaussian_rates(50) for i in range(13)}).axes[0].lines
        if line.get_drawstyle() == "steps-pre"
    ]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 13
    patches = plots.condition_bars(["all"], {str(i): [Bar(0.1)] for i in range(13)}).axes[0].patches
    assert len({(patch.get_facecolor(), patch.get_hatch()) for patch in patches}) == 13


def test_bars_have_the_height_of_their_eer():
    figure = plots.condition_bars(["short", "long"], {"a": [Bar(0.2, (0.1, 0.3)), Bar(0.1)], "b": [Bar(0.15), None]})
    heights = sorted(patch.get_height() for patch in figure.axes[0].patches)
    assert heights == pytest.approx([10.0, 15.0, 20.0])
    assert {"short", "long", "20.00", "none", "a", "b"} <= set(texts(figure))
