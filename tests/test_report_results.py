"""Stage 7: from a score folder to results.json, RESULTS.md and a table; and ``sdpn-k2 eval``."""

import json
import re
import shutil

import pytest
from click.testing import CliRunner
from operation_count import count_calls

from sdpn_k2.cli.evaluate import evaluate
from sdpn_k2.cli.results import results as results_command
from sdpn_k2.errors import InputError
from sdpn_k2.reporting import results
from sdpn_k2.scoring.evaluation import evaluate_scores


@pytest.fixture
def folders(tmp_path):
    """A data folder with two lists and an experiment that has scored them."""
    data, exp = tmp_path / "data", tmp_path / "exp"
    for folder in (data / "test", data / "train", exp / "scores" / "test", exp / "backend"):
        folder.mkdir(parents=True)
    (data / "test" / "trials").write_text("a x target\nb y target\na y nontarget\nb x nontarget\n")
    (data / "test" / "trials_o").write_text("a x target\na y nontarget\n")
    scores = exp / "scores" / "test"
    (scores / "trials.cosine").write_text("a x 0.9\nb y 0.2\na y 0.3\nb x 0.1\n")
    (scores / "trials.plda").write_text("b x -4\na y -3\nb y 1\na x 2\n")
    (scores / "trials_o.cosine").write_text("a x 0.9\na y 0.3\n")
    (scores / "log").mkdir()
    (data / "test" / "trials_old").mkdir()
    for backup in (data / "test" / "trials~", data / "test" / "trials.bak", scores / "trials.bak.cosine"):
        backup.write_text("no trial list, nor scores\n")
    (exp / "backend" / "plda_labels").write_text("clusters\n")
    return data, exp


def test_results_of_every_list_and_scoring(folders):
    data, exp = folders
    report = results.collect(data, exp, "some command")
    assert [(r.set, r.trials, r.scoring, r.n_targets, r.n_nontargets) for r in report.rows] == [
        ("test", "trials", "cosine", 2, 2),
        ("test", "trials", "plda", 2, 2),
        ("test", "trials_o", "cosine", 1, 1),
    ]
    cosine, plda, _ = report.rows
    assert (cosine.eer, cosine.min_dcf_01, cosine.min_dcf_05) == (0.5, 0.5, 0.5)
    assert (plda.eer, plda.min_dcf_01) == (0.0, 0.0)
    assert report.missing == ["test/trials_o: no plda scores"]
    assert report.plda_labels == "clusters"


def test_twice_the_trials_need_at_most_2_2_times_the_operations(tmp_path):
    counts = []
    for n in (2000, 4000):
        data, exp = tmp_path / f"data{n}", tmp_path / f"exp{n}"
        (data / "test").mkdir(parents=True)
        (exp / "scores" / "test").mkdir(parents=True)
        names = [f"s{i % 20:02d}-{i}" for i in range(n)]
        pairs = [(name, names[(i * 7 + 20 * (i % 2)) % n]) for i, name in enumerate(names)]
        (data / "test" / "trials").write_text("".join(f"{a} {b} {'non' * (a[:3] != b[:3])}target\n" for a, b in pairs))
        (data / "test" / "utt2spk").write_text("".join(f"{name} {name[:3]}\n" for name in names))
        (exp / "scores" / "test" / "trials.cosine").write_text(
            "".join(f"{a} {b} {(i * 31 % 97) / 97}\n" for i, (a, b) in enumerate(pairs))
        )
        counts.append(count_calls(lambda data=data, exp=exp: results.collect(data, exp)))
    assert counts[1] <= 2.2 * counts[0]


def test_result_files(folders):
    data, exp = folders
    done = CliRunner().invoke(results_command, [str(data), str(exp)])
    assert done.exit_code == 0, done.output
    row = next(line for line in done.output.splitlines() if "plda" in line)
    assert row.split() == ["test", "trials", "plda", "2", "2", "0.00", "0.0000", "0.0000"]
    assert "Missing: test/trials_o: no plda scores" in done.output
    assert results.PLDA_LABELS["clusters"] in done.output
    page = (exp / "RESULTS.md").read_text()
    assert "| test | trials | cosine | 2 | 2 | 50.00 |  | 0.5000 |  | 0.5000 |  |" in page
    assert results.PLDA_LABELS["clusters"] in page and "sdpn-k2 " in page and "numpy" in page
    stored = json.loads((exp / "results.json").read_text())
    assert stored["results"][1]["eer"] == 0.0
    assert set(stored["measured"]["versions"]) >= {"python", "numpy"}
    assert stored["data"] == str(data)
    assert [row["backend"] for row in stored["results"]] == ["cosine", "plda", "cosine"]
    read = results.read(exp / "results.json")
    assert read.rows == results.collect(data, exp).rows and read.measured.command == stored["measured"]["command"]


def test_the_labels_of_the_plda_are_reported_or_unknown(folders):
    data, exp = folders
    (exp / "backend" / "plda_labels").write_text("corpus\n")
    assert results.PLDA_LABELS["corpus"] in results.table(results.collect(data, exp))
    (exp / "backend" / "plda_labels").unlink()
    assert results.UNKNOWN_LABELS in results.table(results.collect(data, exp))
    for content, said in ((b"oracle\n", "oracle"), (b"caf\xe9\n", "plda_labels: 'caf")):
        (exp / "backend" / "plda_labels").write_bytes(content)
        with pytest.raises(InputError, match=said):
            results.collect(data, exp)


def test_trials_of_utterances_without_an_embedding_are_left_out_and_counted(folders):
    data, exp = folders
    (data / "test" / "trials").write_text(
        "a x target\nb y target\na y nontarget\nb x nontarget\nb lost target\nlost x nontarget\n"
    )
    # Utterances without features are not in utt2spk either.
    (data / "test" / "utt2spk").write_text("a 1\nb 2\nx 1\ny 2\n")
    (exp / "xvectors_test").mkdir()
    table = exp / "xvectors_test" / "xvector.scp"
    table.write_text("a x.ark:2\nb x.ark:2\nx x.ark:2\ny x.ark:2\n")
    report = results.collect(data, exp)
    assert [(r.trials, r.scoring, r.n_targets, r.n_nontargets) for r in report.rows] == [
        ("trials", "cosine", 2, 2),
        ("trials", "plda", 2, 2),
        ("trials_o", "cosine", 1, 1),
    ]
    assert all(result.eer_interval for result in report.rows)
    left_out, no_plda = report.missing
    assert re.fullmatch("test/trials: 2 of 6 .*: 1, .* lost", left_out) and no_plda == "test/trials_o: no plda scores"
    # Other trials without a score are still an error. So are these trials if their names are not those of utterances.
    table.write_text(table.read_text() + "lost x.ark:2\n")
    assert any("trials.plda: " in line and " b lost " in line for line in results.collect(data, exp).missing)
    table.write_text("other x.ark:2\n")
    assert any("trials.plda: " in line and " b lost " in line for line in results.collect(data, exp).missing)


def test_lists_without_scores_are_reported(folders):
    data, exp = folders
    (data / "train" / "trials").write_text("a b target\n")
    missing = results.collect(data, exp).missing
    assert {"train/trials: no cosine scores", "train/trials: no plda scores"} <= set(missing)


def test_eer_and_costs_have_intervals_where_the_speakers_are_known(folders):
    data, exp = folders
    (data / "test" / "utt2spk").write_text("a one\nx one\nb two\ny two\n")
    report = results.collect(data, exp)
    cosine = report.rows[0]
    for value, interval in (
        (cosine.eer, cosine.eer_interval),
        (cosine.min_dcf_01, cosine.min_dcf_01_interval),
        (cosine.min_dcf_05, cosine.min_dcf_05_interval),
    ):
        assert interval.low <= value <= interval.high
    page = results.markdown(report, "exp")
    low, high = cosine.min_dcf_01_interval
    assert f"| 0.5000 | {low:.3f}..{high:.3f} | 0.5000 |" in page and "bootstrap" in page


@pytest.mark.parametrize(
    "table, said",
    [
        ("a a\nb b\nx x\ny y\n", "no intervals: .*trials: a x .*target"),
        ("a one\nx one\nb two\n", "no intervals: .*trials: .* y "),
        ("a\n", "no intervals: .*utt2spk:1: 'a'"),
    ],
)
def test_unusable_speakers_cost_the_intervals_only(folders, table, said):
    data, exp = folders
    (data / "test" / "utt2spk").write_text(table)
    report = results.collect(data, exp)
    assert len(report.rows) == 3 and report.rows[0].eer_interval is None
    assert re.search(said, report.missing[0])


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("trials.cosine", "a x 0.5\nb y 0.5\na y 0.5\nb x 0.5\n", "trials.cosine: all 4 scores are 0.5"),
        ("trials.cosine", "a x nan\nb y 1\na y 2\nb x 3\n", "trials.cosine:1: 'nan'"),
        ("trials.cosine", "", "trials.cosine: "),
        ("trials.cosine", "a x 1\n", "trials.cosine: .* b y "),
        ("trials_none.cosine", "a x 1\n", "trials_none: .*scores"),
    ],
)
def test_score_files_that_cannot_be_measured_are_named(folders, name, content, said):
    data, exp = folders
    (exp / "scores" / "test" / name).write_text(content)
    report = results.collect(data, exp)
    assert {result.scoring for result in report.rows} == {"cosine", "plda"}
    assert re.search(said, report.missing[0]) and report.missing[1:] == ["test/trials_o: no plda scores"]


def test_experiments_that_cannot_be_measured(folders):
    data, exp = folders
    (data / "test" / "trials").write_text("a x target\na x nontarget\n")
    (data / "test" / "trials_o").unlink()
    with pytest.raises(InputError, match="exp: .*trials: a x "):
        results.collect(data, exp)
    (exp / "scores" / "test" / "trials_o.cosine").unlink()
    with pytest.raises(InputError, match="^[^ ]*trials: a x "):
        results.collect(data, exp)
    shutil.rmtree(exp / "scores")
    with pytest.raises(InputError, match="exp/scores: "):
        results.collect(data, exp)


def test_eval_prints_kaldis_digits(golden):
    done = CliRunner().invoke(
        evaluate,
        [
            str(golden / "scores"),
            str(golden / "trials"),
            "--p-target",
            "0.001",
            "--p-target",
            "0.05",
            "--nist",
            "sre16",
        ],
    )
    assert done.exit_code == 0, done.output
    figures = dict(re.split("  +", line, maxsplit=1) for line in done.output.splitlines())
    assert figures["EER % (Kaldi's compute-eer)"] == "4.688  (to compare with Kaldi)"
    assert figures["minDCF (p_target 0.001)"] == "0.4276"
    assert figures["minDCF (p_target 0.05)"] == "0.2423"
    assert "sre16 min" in figures


def test_eval_reads_a_pipe_and_prints_json(folders):
    data, exp = folders
    done = CliRunner().invoke(
        evaluate,
        ["-", str(data / "test" / "trials"), "--json"],
        input=(exp / "scores" / "test" / "trials.cosine").read_text(),
    )
    assert done.exit_code == 0, done.output
    figures = json.loads(done.output)
    assert figures["n_targets"] == 2 and figures["eer"] == 0.5 and figures["costs"][0]["min_dcf"] == 0.5


def test_eval_refuses(folders, tmp_path):
    data, exp = folders
    scores = exp / "scores" / "test" / "trials.cosine"
    with pytest.raises(InputError, match="p_target"):
        evaluate_scores(scores, data / "test" / "trials", p_targets=(1.5,))
    (tmp_path / "targets").write_text("a x target\n")
    with pytest.raises(InputError, match="trials.cosine: .*nontarget"):
        evaluate_scores(scores, tmp_path / "targets")
    done = CliRunner().invoke(evaluate, ["-", "-"])
    assert isinstance(done.exception, InputError)
