"""report.html holds the measured figures and fetches nothing; a browser draws, sorts and prints it."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, find_chromium
from click.testing import CliRunner
from operation_count import count_calls

from sdpn_k2.cli import cli
from sdpn_k2.config import config_to_yaml, load_config
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.tables import TableWriter
from sdpn_k2.provenance import Provenance
from sdpn_k2.reporting import plots
from sdpn_k2.reporting.data_summary import summarise_set
from sdpn_k2.reporting.embedding_maps import speaker_panels
from sdpn_k2.reporting.report import write_report
from sdpn_k2.reporting.results import collect, write
from sdpn_k2.training.sessions import Session, write_session

SPEAKERS = 8
UTTERANCES = [f"s{speaker}-u{number}" for speaker in range(SPEAKERS) for number in range(6)]


def make_data(folder: Path) -> Path:
    """A data folder with a training set and a test set of 8 speakers with 6 utterances each."""
    test, train = folder / "test", folder / "train"
    for path in (test, train):
        path.mkdir(parents=True)
        (path / "utt2spk").write_text("".join(f"{name} {name[:2]}\n" for name in UTTERANCES))
        (path / "utt2dur").write_text("".join(f"{name} {2 + i % 6}\n" for i, name in enumerate(UTTERANCES)))
    (test / "spk2gender").write_text("".join(f"s{i} {'fm'[i % 2]}\n" for i in range(SPEAKERS)))
    pairs = [(a, b) for i, a in enumerate(UTTERANCES) for b in UTTERANCES[i + 1 :]]
    (test / "trials").write_text("".join(f"{a} {b} {'non' * (a[:2] != b[:2])}target\n" for a, b in pairs))
    return folder


def make_experiment(exp: Path, data: Path, noise: float, *overrides: str) -> Path:
    """An experiment folder whose embeddings are speakers and noise, scored and measured."""
    rng = np.random.default_rng(0)
    folder = exp / "xvectors_test"
    folder.mkdir(parents=True)
    (exp / "xvectors_train").mkdir()
    (exp / "xvectors_train" / "xvector.scp").write_text("a million training vectors, which are not read\n")
    centres = rng.standard_normal((SPEAKERS, 8))
    vectors = {name: (centres[int(name[1])] + noise * rng.standard_normal(8)).astype(np.float32) for name in UTTERANCES}
    with TableWriter(f"ark,scp:{folder}/xvector.ark,{folder}/xvector.scp", "vector") as writer:
        for name, vector in vectors.items():
            writer.write(name, vector)
    scores = exp / "scores" / "test"
    scores.mkdir(parents=True)
    unit = {name: vector / np.linalg.norm(vector) for name, vector in vectors.items()}
    pairs = [line.split()[:2] for line in (data / "test" / "trials").read_text().splitlines()]
    for scoring, factor in (("cosine", 1.0), ("plda", 20.0)):
        lines = [f"{a} {b} {factor * float(unit[a] @ unit[b]):.6f}\n" for a, b in pairs]
        (scores / f"trials.{scoring}").write_text("".join(lines))
    (exp / "config.yaml").write_text(config_to_yaml(load_config(None, ["train.steps=40", *overrides])))
    (exp / "metrics.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "step": step,
                    "loss": 5 - step / 20,
                    "loss_ce": 4.5,
                    "prototypes_in_use": 900.5,
                    "effective_rank": 12.0,
                    "mean_cosine": 0.1,
                    "utterances_per_second": 321.0,
                    "data_wait_share": 0.25,
                    "seconds": 30.0 * step,
                    **({"dev_eer": 30.0 - step / 2} if step % 10 == 0 else {}),
                }
            )
            + "\n"
            for step in range(2, 41, 2)
        )
    )
    (exp / "train.log").write_text(
        "2026-01-01 10:00:00 INFO training from step 0 to 40, batch 384, on cpu\n"
        "2026-01-01 10:00:01 INFO training, steps: 1 of 40\n"
        "2026-01-01 10:00:02 WARNING skipped utterance s0-u0: <broken> & gone\n"
    )
    (exp / "commands").write_text("bash run.sh --stop-stage 2\nbash run.sh --config-set train.steps=40\n")
    origin = Provenance(
        f"sdpn-k2 train cuts.jsonl.gz {exp}", "2026-01-01 10:00 UTC", {"torch": "2.0"}, 2, "abc123-dirty"
    )
    write_session(exp, Session(0, "Some GPU 80GB", 2, "bfloat16", False, origin))
    (exp / "backend" / "log").mkdir(parents=True)
    (exp / "backend" / "log" / "mean.log").write_text("# ivector-mean scp:a.scp mean.vec\n# Running on here\n")
    write(exp, collect(data, exp, f"sdpn-k2 results {data} {exp}"))
    return exp


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("corpus") / "data")


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    return make_experiment(tmp_path_factory.mktemp("runs") / "first", data, 1.0, "objective.num_prototypes=64")


@pytest.fixture(scope="module")
def second(data, tmp_path_factory):
    return make_experiment(tmp_path_factory.mktemp("runs") / "second", data, 0.6)


@pytest.fixture(scope="module")
def report(data, first):
    """The page of one experiment, by the command line."""
    done = CliRunner().invoke(cli, ["report", "--data", str(data), str(first)])
    assert done.exit_code == 0, done.output
    assert "missing" not in done.output
    return first / "report.html"


@pytest.fixture(scope="module")
def comparison(data, first, second, tmp_path_factory):
    output = tmp_path_factory.mktemp("comparison") / "compared.html"
    assert write_report([first, second], data, output) == []
    return output


VOID = ("meta", "br", "circle", "line", "path", "use", "rect")  # tags without an end, or that end at once


class Page(HTMLParser):
    """Tags with attributes, and the cells of each table. Tags must be closed in order."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.tables, self._cell, self._open = [], {}, None, []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(dict(attributes)["id"], [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag
        if tag in ("td", "th"):
            self._rows[-1].append(self._cell.strip())
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data


def labels(path):
    return [attributes["aria-label"] for _, attributes in Page(path).tags if "aria-label" in attributes]


def text_of(path):
    return html.unescape(re.sub(r"<[^>]*>", "", path.read_text(encoding="utf-8")))


def test_results_are_those_of_results_json(report, first):
    measured = json.loads((first / "results.json").read_text())["results"]
    heading, *rows = Page(report).tables["results-table"]
    assert heading == ["scoring", "EER\xa0%", "95 %", "minDCF 0.01", "minDCF 0.05"]
    for row, result in zip(rows, measured):
        low, high = result["eer_interval"]
        at_01, at_05 = ("{:.3f} – {:.3f}".format(*result[f"min_dcf_{p}_interval"]) for p in ("01", "05"))
        assert row == [
            result["backend"],
            f"{100 * result['eer']:.2f}{100 * low:.1f} – {100 * high:.1f}",
            "",
            f"{result['min_dcf_01']:.4f}{at_01}",
            f"{result['min_dcf_05']:.4f}{at_05}",
        ]
    assert len(rows) == len(measured) == 2
    assert "test / trials\n1\u202f128 trials: 120 targets, 1\u202f008 nontargets\n" in text_of(report)


def test_every_picture_is_shown(report):
    assert labels(report) == [
        "DET curves",
        "EER by duration of the shorter side",
        "EER by gender",
        "score histograms of cosine",
        "score histograms of plda",
        "map of the embeddings of test",
        "loss by training step",
        "prototypes_in_use by training step",
        "effective_rank by training step",
        "dev_eer by training step",
        "mean_cosine by training step",
        "utterances_per_second by training step",
        "data_wait_share by training step",
    ]
    assert re.search(r"silhouette −?0\.\d{3}", text_of(report).replace("-", "−"))
    assert text_of(report).count("Lines: 95 % bootstrap intervals") == 2


def test_training_configuration_corpus_and_commands_are_shown(report, first, data):
    tables, text = Page(report).tables, text_of(report)
    health = {row[0]: row[1:5] for row in tables["health-table"]}
    assert health["loss"] == ["3.05", "4.85", "3", "4.9"]  # means of the last and first two values, then extremes
    assert tables["configuration-table"][0] == ["key", "this run", "published"]
    assert ["objective.num_prototypes", "64", "1024"] in tables["configuration-table"]
    assert ["train.steps", "40", "null"] in tables["configuration-table"]
    assert len(tables["configuration-table"]) == 3
    assert tables["corpus-table"][1] == ["train", "48", "8", "0.06", "2.00", "2.00", "4.50", "7.00", "7.00"]
    assert "WARNING skipped utterance s0-u0: <broken> & gone" in text and "training, steps: 1 of 40" not in text
    session = ["Some GPU 80GB", "bfloat16", "2", "0", "2026-01-01 10:00 UTC"]
    assert tables["sessions-table"][1:] == [session]
    assert "trained on Some GPU 80GB in bfloat16 by 2 processes · 0:20:00 (h:min:s) for 40 steps" in text
    assert "ivector-mean scp:a.scp mean.vec" in text and f"sdpn-k2 train cuts.jsonl.gz {first}" in text
    assert f"sdpn-k2 results {data} {first}" in text and f"numpy {np.__version__}" in text


@pytest.mark.parametrize("which", ["report", "comparison"])
def test_the_page_needs_no_network(which, request):
    path = request.getfixturevalue(which)
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import", re.sub(r"<pre>.*?</pre>|\n *// .*", "", source, flags=re.DOTALL))
    ids = [attributes["id"] for _, attributes in Page(path).tags if "id" in attributes]
    for tag, attributes in Page(path).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in attributes and "srcset" not in attributes
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
            assert attributes.get(name, "#")[1:] in ids + [""]
    for name in re.findall(r"url\(#([^)]+)\)", source):
        assert name in ids
    assert "default-src 'none'" in source


def test_several_experiments_are_compared(comparison, first, second):
    tables = Page(comparison).tables
    heading, *rows = tables["results-table"]
    assert heading[1] == "experiment"
    assert [row[:2] for row in rows] == [
        ["cosine", "first"],
        ["cosine", "second"],
        ["plda", "first"],
        ["plda", "second"],
    ]
    assert tables["configuration-table"] == [
        ["key", "first", "second", "published"],
        ["objective.num_prototypes", "64", "as published", "1024"],
        ["train.steps", "40", "40", "null"],
    ]
    assert tables["health-table"][0][:3] == ["metric at the end", "first", "second"]
    assert "DET curves of cosine" in labels(comparison) and "DET curves of plda" in labels(comparison)
    assert text_of(comparison).count("silhouette 0.") == 2


@pytest.fixture
def sketched(monkeypatch):
    """Pages without real pictures (which take most of the time), for tests of the text around them."""
    monkeypatch.setattr(plots, "to_svg", lambda figure: '<svg viewBox="0 0 1 1"></svg>')


@pytest.mark.usefixtures("sketched")
def test_the_verdict_is_by_the_trainers_limits(data, first, report, tmp_path):
    """Half the steps are below the rank of 3 at which the trainer warns."""
    assert "✓ prototypes_in_use healthy: 900 at the worst (at least 3.2 is healthy)" in text_of(report)
    assert "✓ effective_rank healthy: 12 at the worst (at least 3 is healthy)" in text_of(report)
    assert "✓ mean_cosine healthy: 0.1 at the worst (at most 0.9 is healthy)" in text_of(report)
    assert "possible collapse" not in text_of(report)
    exp = without(first, tmp_path)
    lines = [json.loads(line) for line in (exp / "metrics.jsonl").read_text().splitlines()]
    for line in lines[10:]:
        line["effective_rank"] = 2.9
    (exp / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report([exp], data, tmp_path / "report.html")
    said = "✗ effective_rank possible collapse at 10 of 20 logged steps, first 22, last 40 (at least 3 is healthy)"
    assert said in text_of(tmp_path / "report.html")
    assert ("div", {"class": "verdict bad", "id": "verdict"}) in Page(tmp_path / "report.html").tags


@pytest.mark.usefixtures("sketched")
def test_reproduce_is_commands_that_can_be_pasted(data, first, tmp_path):
    def block(exp):
        write_report([exp], data, tmp_path / "report.html")
        section = (tmp_path / "report.html").read_text().partition('id="reproduce"')[2]
        return html.unescape(re.search(r"<pre>(.*?)</pre>", section, re.DOTALL)[1]).splitlines()

    lines = block(first)
    assert lines[0].startswith("git checkout abc123  # ") and lines[1].startswith("# later parts: ")
    assert lines[2:] == ["cd egs/voxceleb", "bash run.sh --stop-stage 2", "bash run.sh --config-set train.steps=40"]
    exp = without(first, tmp_path, "commands")  # made without run.sh
    assert block(exp)[2:] == [f"sdpn-k2 train cuts.jsonl.gz {first}", f"sdpn-k2 results {data} {first}"]


@pytest.mark.usefixtures("sketched")
def test_experiments_of_one_name_are_named_by_their_paths(data, first, tmp_path):
    shutil.copytree(first, tmp_path / "other" / "first")
    write_report([first, tmp_path / "other" / "first"], None, tmp_path / "page.html")
    assert Page(tmp_path / "page.html").tables["results-table"][1][1] == str(first)


def without(first, tmp_path, *parts):
    copy = tmp_path / "exp"
    shutil.copytree(first, copy)
    for part in parts:
        (shutil.rmtree if (copy / part).is_dir() else Path.unlink)(copy / part)
    return copy


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(
    "part, gone",
    [
        ("results.json", "results-table"),
        ("metrics.jsonl", "health-table"),
        ("training.json", "Some GPU"),
        ("config.yaml", "configuration-table"),
        ("scores", "DET curves"),
        ("xvectors_test/xvector.scp", "map of the embeddings of test"),
        ("xvectors_test", "map of the embeddings of test"),
    ],
)
def test_a_missing_part_is_named_and_the_rest_is_shown(data, first, report, tmp_path, part, gone):
    exp = without(first, tmp_path, part)
    said = f"{exp / part}/xvector.scp: " if part == "xvectors_test" else f"{exp / part}: "
    output = tmp_path / "report.html"
    done = CliRunner().invoke(cli, ["report", "--data", str(data), "-o", str(output), str(exp)])
    assert done.exit_code == 0 and f"missing: {said}" in done.output
    assert said in text_of(output)
    everything = list(Page(output).tables) + labels(output)
    expected = set(Page(report).tables) | set(labels(report))
    if gone == "Some GPU":
        assert gone in text_of(report) and gone not in text_of(output) and "not recorded" in text_of(output)
    else:
        assert gone in expected and gone not in everything
    assert len(everything) >= len(expected) - 9


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("part", ["train.log", "backend"])
def test_missing_parts_that_only_the_page_shows_are_named(data, first, tmp_path, part):
    exp = without(first, tmp_path, part)
    (line,) = write_report([exp], data, tmp_path / "report.html")
    assert line.startswith(f"{exp / part}: ")


@pytest.mark.usefixtures("sketched")
def test_cosine_scores_need_no_backend_and_a_run_no_stamps(data, first, tmp_path):
    exp = without(first, tmp_path, "backend", "scores/test/trials.plda", "commands")
    assert write_report([exp], data, tmp_path / "report.html") == []


@pytest.mark.usefixtures("sketched")
def test_a_contradictory_trial_list_is_named(data, first, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    with (tmp_path / "data" / "test" / "trials").open("a") as stream:
        stream.write("s0-u0 s0-u1 nontarget\n")
    missing = write_report([first], tmp_path / "data", tmp_path / "report.html")
    assert any("trials: s0-u0 s0-u1 " in line for line in missing)


@pytest.mark.usefixtures("sketched")
def test_trials_of_an_utterance_without_an_embedding_are_left_out(data, first, tmp_path):
    exp = without(first, tmp_path)
    for file in [exp / "xvectors_test" / "xvector.scp", *(exp / "scores" / "test").glob("trials.*")]:
        file.write_text("".join(line for line in file.read_text().splitlines(True) if "s3-u2" not in line))
    write(exp, collect(data, exp))
    (line,) = write_report([exp], data, tmp_path / "report.html")
    assert re.fullmatch(f"{exp}: test/trials: 47 of 1128 .*: 1, .* s3-u2", line)
    assert "DET curves" in labels(tmp_path / "report.html")
    assert write_report([exp, first], data, tmp_path / "report.html") == [line]
    assert "DET curves of plda" in labels(tmp_path / "report.html")


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("name", ["train", "test"])
def test_sets_that_are_not_counted_are_named(data, first, tmp_path, name):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / name / "utt2spk").unlink()
    missing = write_report([first], tmp_path / "data", tmp_path / "report.html")
    assert any(line.startswith(f"{tmp_path / 'data' / name / 'utt2spk'}: ") for line in missing)
    assert len(Page(tmp_path / "report.html").tables["corpus-table"]) == 2


@pytest.mark.usefixtures("sketched")
def test_the_data_folder_is_known_from_the_results(first, report, tmp_path):
    assert write_report([first], None, tmp_path / "report.html") == []
    assert labels(tmp_path / "report.html") == labels(report)


@pytest.mark.usefixtures("sketched")
def test_results_of_an_earlier_version_are_shown(data, first, tmp_path):
    exp = without(first, tmp_path)
    results = json.loads((exp / "results.json").read_text())
    del results["data"]
    for row in results["results"]:
        del row["min_dcf_01_interval"], row["min_dcf_05_interval"]
    (exp / "results.json").write_text(json.dumps(results))
    assert write_report([exp], data, tmp_path / "report.html") == []
    (line,) = write_report([exp], None, tmp_path / "report.html")
    assert "results.json names none" in line and "--data" in line


@pytest.mark.usefixtures("sketched")
def test_without_data_the_tables_are_shown(first, tmp_path):
    exp = without(first, tmp_path)
    results = json.loads((exp / "results.json").read_text())
    (exp / "results.json").write_text(json.dumps({**results, "data": str(tmp_path / "gone")}))
    (line,) = write_report([exp], None, tmp_path / "report.html")
    assert f"results.json names {tmp_path / 'gone'}" in line and "--data" in line
    assert list(Page(tmp_path / "report.html").tables) == [
        "results-table",
        "sessions-table",
        "health-table",
        "configuration-table",
    ]


@pytest.mark.usefixtures("sketched")
def test_broken_parts_are_named(data, first, tmp_path):
    exp = without(first, tmp_path)
    (exp / "results.json").write_text('{"results": [{"set": "x"}], "measured": {}}')
    (exp / "metrics.jsonl").write_text("nonsense\n{}\n")
    (exp / "config.yaml").write_text("trian: 3\n")
    scores = exp / "scores" / "test" / "trials.cosine"
    scores.write_text(scores.read_text().replace("s0-u0", "nobody"))
    missing = "\n".join(write_report([exp], data, tmp_path / "report.html"))
    for said in (
        "results.json: ",
        "metrics.jsonl:1: ",
        "trian",
        "trials.cosine: no score for s0-u0 s0-u1",
    ):
        assert said in missing
    assert "DET curves" in labels(tmp_path / "report.html")  # of the other scoring


@pytest.mark.usefixtures("sketched")
def test_results_older_than_the_scores_are_named(data, first, tmp_path):
    exp = without(first, tmp_path)
    newer = exp / "scores" / "test" / "trials.plda"
    newer.touch()
    (line,) = write_report([exp], data, tmp_path / "report.html")
    assert line.startswith(f"{exp / 'results.json'}: ") and str(newer) in line


@pytest.mark.usefixtures("sketched")
def test_folders_that_are_not_experiments_give_one_line(first, tmp_path):
    nowhere = tmp_path / "none"
    for arguments, said in (
        ([tmp_path], f"{tmp_path}: "),
        ([nowhere], f"{nowhere}: "),
        ([first, first], f"{first}: "),
        (["--data", nowhere, first], f"{nowhere}: "),
    ):
        # main() turns InputError into one line and exit status 1.
        done = CliRunner().invoke(cli, ["report", *map(str, arguments)])
        assert isinstance(done.exception, InputError) and str(done.exception).startswith(said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("")])
def test_a_set_without_durations_is_still_counted(data, tmp_path, spoil):
    shutil.copytree(data / "test", tmp_path / "test")
    spoil(tmp_path / "test" / "utt2dur")
    summary = summarise_set(tmp_path / "test")
    assert (summary.utterances, summary.speakers, summary.hours, summary.seconds) == (48, 8, None, None)


def test_panels_hold_the_same_utterances_of_every_system(data, first, second):
    panels = speaker_panels(
        {"a": first / "xvectors_test", "b": second / "xvectors_test"},
        data / "test" / "utt2spk",
        speakers=3,
        max_utterances=4,
    )
    assert [panel.title for panel in panels] == ["a", "b"]
    assert panels[0].speakers == panels[1].speakers == ["s0"] * 4 + ["s1"] * 4 + ["s2"] * 4
    assert panels[0].vectors.shape == (12, 8) and not np.array_equal(panels[0].vectors, panels[1].vectors)


def test_twice_the_utterances_need_at_most_2_2_times_the_operations(tmp_path):
    counts = []
    for n in (2000, 4000):
        folder = tmp_path / str(n)
        folder.mkdir()
        names = [f"s{i % 500:03d}-u{i}" for i in range(n)]
        (folder / "utt2spk").write_text("".join(f"{name} {name[:4]}\n" for name in names))
        (folder / "utt2dur").write_text("".join(f"{name} 4.5\n" for name in names))
        with TableWriter(f"ark,scp:{folder}/xvector.ark,{folder}/xvector.scp", "vector") as writer:
            for i, name in enumerate(names):
                writer.write(name, np.float32([i, 1]))
        parts = (lambda: summarise_set(folder), lambda: speaker_panels({"a": folder}, folder / "utt2spk"))  # noqa: B023
        counts.append([count_calls(part) for part in parts])
    few, many = counts
    assert many[0] <= 2.2 * few[0] and many[1] <= 2.2 * few[1]


def test_embeddings_are_found_beside_their_script_after_a_move(data, first, tmp_path):
    shutil.copytree(first / "xvectors_test", tmp_path / "moved")
    script = tmp_path / "moved" / "xvector.scp"
    script.write_text(script.read_text().replace(str(first / "xvectors_test"), "gone/elsewhere"))
    here, there = (
        speaker_panels({"x": folder}, data / "test" / "utt2spk")[0].vectors
        for folder in (tmp_path / "moved", first / "xvectors_test")
    )
    np.testing.assert_array_equal(here, there)


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(
    "part, content, said",
    [
        ("metrics.jsonl", b"\xff\xfe\n{}\n", "metrics.jsonl:1: "),
        ("metrics.jsonl", b'{"step": Infinity}\n{}\n', "metrics.jsonl:1: "),
        ("config.yaml", b"seed: 1  # caf\xe9\n", "config.yaml: "),
        ("results.json", b"\xff", "results.json: "),
    ],
)
def test_unreadable_parts_are_named(first, tmp_path, part, content, said):
    exp = without(first, tmp_path)
    (exp / part).write_bytes(content)
    assert any(said in line for line in write_report([exp], None, tmp_path / "report.html"))


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda results: results["results"][0].update(eer=None),
        lambda results: results["results"][0].update(eer_interval=[0.1]),
        lambda results: results["results"][0].update(backend=3),
        lambda results: results["measured"].update(versions=[]),
        lambda results: results["measured"].update(command=None),
        lambda results: results.update(missing=3),
        lambda results: results.update(plda_labels=["corpus"]),
        lambda results: results.update(results=[[]]),
    ],
)
def test_results_of_another_form_are_named(first, tmp_path, spoil):
    exp = without(first, tmp_path)
    results = json.loads((exp / "results.json").read_text())
    spoil(results)
    (exp / "results.json").write_text(json.dumps(results))
    missing = write_report([exp], None, tmp_path / "report.html")
    assert any(line.startswith(f"{exp / 'results.json'}: ") for line in missing)


@pytest.mark.parametrize(
    "vector, said",
    [
        ([1.0, 2.0], "xvector.scp: s0-u1 .*2.* 3"),
        ([1.0, np.inf, 3.0], "xvector.scp: .* s0-u1 "),
        ([0.0, 0.0, 0.0], "xvector.scp: .* s0-u1 "),
        ([1.0, np.nan, 3.0], "xvector.scp: .* s0-u1 "),
    ],
)
def test_embeddings_that_cannot_be_mapped_are_named(data, tmp_path, vector, said):
    with TableWriter(f"ark,scp:{tmp_path}/xvector.ark,{tmp_path}/xvector.scp", "vector") as writer:
        for name in UTTERANCES:
            writer.write(name, np.array(vector if name == "s0-u1" else [1.0, 2.0, 3.0], np.float32))
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path))}/{said}"):
        speaker_panels({"x": tmp_path}, data / "test" / "utt2spk")


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("which", ["report", "comparison"])
def test_tables_can_be_sorted_and_pictures_scaled(which, request):
    """Check the source: rows are complete, columns that sort by number hold numbers, and pictures have view boxes."""
    page = Page(request.getfixturevalue(which))
    for heading, *rows in page.tables.values():
        assert rows and all(len(row) == len(heading) for row in rows)
    values = [attributes["data-value"] for tag, attributes in page.tags if tag == "td" and "data-value" in attributes]
    assert len(values) > 30
    for value in values:
        assert value == "" or np.isfinite(float(value))
    pictures = [attributes for tag, attributes in page.tags if tag == "svg" and "aria-label" in attributes]
    for attributes in pictures:
        assert attributes["role"] == "img" and len(attributes["viewbox"].split()) == 4
    assert {tag for tag, _ in page.tags} >= {"nav", "main", "footer", "style", "script"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def column(browser, table, index):
    return browser.evaluate(
        f"[...document.querySelectorAll('#{table} tbody tr')].map(row => row.cells[{index}].textContent.trim())"
    )


def eers(browser):
    """The EERs of the results table, without the intervals below them."""
    return browser.evaluate(
        "[...document.querySelectorAll('#results-table td.key')].map(cell => Number(cell.firstChild.textContent))"
    )


@pytest.mark.slow
def test_a_browser_draws_every_picture(browser, report, comparison, tmp_path):
    for path in (report, comparison):
        for width, dark in ((1280, False), (1280, True), (390, False)):
            browser.console.clear()
            browser.requests.clear()
            browser.open(path, width=width, dark=dark)
            browser.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
            drawn = browser.evaluate("""[...document.querySelectorAll('figure svg')].map(svg => {
                const box = svg.getBoundingClientRect(), inside = svg.getBBox();
                const shapes = svg.querySelectorAll('path, use').length;
                return Math.min(box.width, box.height, inside.width, inside.height, 20 * shapes);
            })""")
            assert len(drawn) == len(labels(path)) and min(drawn) > 100
            # The page itself never scrolls sideways: wide things scroll in their own frames.
            assert browser.evaluate("document.documentElement.scrollWidth") == width
            ink, ground = (
                browser.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
            )
            brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, ground)]
            assert (brightness[0] > brightness[1]) == dark
            browser.screenshot(tmp_path / "page.png")
            assert (tmp_path / "page.png").stat().st_size > 50_000
            assert browser.console == []
            assert set(browser.requests) == {path.resolve().as_uri()}


def test_a_browser_sorts_and_prints(browser, report, comparison, tmp_path):
    browser.open(comparison)
    eer = eers(browser)
    assert eer != sorted(eer)
    browser.click("#results-table th:nth-child(3) button")
    assert eers(browser) == sorted(eer)
    assert browser.evaluate("document.querySelector('#results-table th:nth-child(3)').ariaSort") == "ascending"
    browser.click("#results-table th:nth-child(3) button")
    assert eers(browser) == sorted(eer, reverse=True)
    browser.click("#results-table th:nth-child(2) button")
    assert column(browser, "results-table", 1) == ["first", "first", "second", "second"]
    browser.open(report)
    browser.click("#health-table th:nth-child(1) button")
    names = column(browser, "health-table", 0)
    assert names == sorted(names) and len(names) == 8

    browser.open(report, width=720, dark=True)  # A4 between margins
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("document.documentElement.scrollWidth") == 720
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.pdf(tmp_path / "page.pdf")
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", content)) > 1
    browser.call("Emulation.setEmulatedMedia", media="")


@pytest.mark.slow
def test_what_matters_is_seen_on_a_phone(browser, report, comparison):
    """At 390 px, the EER and the value of the configuration are inside their boxes; boxes that scroll say so."""
    within = """(selector => {
        const cell = document.querySelector(selector), box = cell.closest(".scroll");
        return cell.getBoundingClientRect().right <= box.getBoundingClientRect().right + 1;
    })"""
    browser.open(report, width=390)
    for cell in ("#results-table td.key", "#results-table td:last-child", "#configuration-table td:nth-child(2)"):
        assert browser.evaluate(f"{within}('{cell}')"), cell
    assert browser.evaluate(f"{within}('#health-table td:nth-child(2)')")
    assert not browser.evaluate(f"{within}('#health-table td:last-child')")
    hint = "document.querySelector('#health-table').closest('.scroll').nextElementSibling"
    assert "Scroll" in browser.evaluate(f"{hint}.textContent") and not browser.evaluate(f"{hint}.hidden")
    fade = "document.querySelector('#health-table').closest('.scroll').classList.contains('more-right')"
    assert browser.evaluate(fade)
    browser.evaluate("document.querySelector('#health-table').closest('.scroll').scrollLeft = 10000")
    browser.evaluate("new Promise(resolve => setTimeout(resolve, 200))")
    assert not browser.evaluate(fade)
    folded = "[...document.querySelectorAll('.pictures-more svg')].filter(each => each.checkVisibility()).length"
    assert browser.evaluate(folded) == 0
    browser.open(report)
    assert browser.evaluate("document.querySelectorAll('p.hint').length") == 0
    # DET curves to the left of their bars, at the same height, for each back end.
    browser.open(comparison)
    rows = browser.evaluate("""[...document.querySelectorAll('.row')].map(row => {
        const [det, bars] = [...row.children].map(each => each.getBoundingClientRect());
        return [det.right < bars.left, Math.abs(det.top - bars.top)];
    })""")
    assert rows == [[True, 0], [True, 0]]


HOSTILE = "<script>hacked=1</script>\"'><img src=x onerror=hacked=1>&amp;\u202egnp\u2066\x1b"


@pytest.mark.slow
def test_names_from_outside_are_text(browser, data, first, tmp_path):
    """Scripts, quotes and marks of direction in names, logs, commands and speakers are shown, and do nothing else."""
    name = HOSTILE.replace("/", "")
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    exp = tmp_path / name
    shutil.copytree(first, exp)
    speakers = (folder / "test" / "utt2spk").read_text().replace(" s0\n", f" {name.replace(' ', '')}\n")
    (folder / "test" / "utt2spk").write_text(speakers)
    with (exp / "train.log").open("a") as stream:
        stream.write(f"2026-01-01 10:00:02 WARNING skipped utterance {HOSTILE}\n")
    with (exp / "commands").open("a") as stream:
        stream.write(f"bash run.sh --exp '{HOSTILE}'\n")
    session = json.loads((exp / "training.json").read_text())
    session["sessions"][0]["device"] = HOSTILE
    (exp / "training.json").write_text(json.dumps(session))
    results = json.loads((exp / "results.json").read_text())
    results["missing"] = [f"utterance {HOSTILE}"]
    results["results"][0]["set"] = HOSTILE
    results["measured"]["git_revision"] = HOSTILE
    (exp / "results.json").write_text(json.dumps(results))
    (exp / "scores" / "test" / "trials.plda").rename(exp / "scores" / "test" / f"trials.{name.replace('.', '')}")
    for paths, output in (([exp], tmp_path / "report.html"), ([exp, first], tmp_path / "compared.html")):
        write_report(paths, folder, output)
        browser.console.clear()
        browser.requests.clear()
        browser.open(output)
        assert browser.evaluate("typeof hacked") == "undefined"
        assert browser.evaluate("[document.scripts.length, document.images.length]") == [1, 0]
        assert browser.console == [] and set(browser.requests) == {output.resolve().as_uri()}
        text = browser.evaluate("document.body.textContent")
        assert text.count("<script>hacked=1</script>") > 5 and "onerror=hacked=1>&amp;U+202EgnpU+2066U+001B" in text
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", output.read_text(encoding="utf-8"))
