"""Stage 7: from a score folder to results.json, RESULTS.md and a table; and ``sdpn-k2 eval``."""

import json
import re
import shutil

import pytest
from click.testing import CliRunner

from sdpn_k2.cli.evaluate import evaluate
from sdpn_k2.cli.results import results as results_command
from sdpn_k2.errors import InputError
from sdpn_k2.reporting import results
from sdpn_k2.scoring.evaluation import summarise


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


def test_results_of_every_list_and_back_end(folders):
    data, exp = folders
    report = results.collect(data, exp, "some command")
    assert [(r.set, r.trials, r.backend, r.n_targets, r.n_nontargets) for r in report.results] == [
        ("test", "trials", "cosine", 2, 2),
        ("test", "trials", "plda", 2, 2),
        ("test", "trials_o", "cosine", 1, 1),
    ]
    cosine, plda, _ = report.results
    assert (cosine.eer, cosine.min_dcf_01, cosine.min_dcf_05) == (0.5, 0.5, 0.5)
    assert (plda.eer, plda.min_dcf_01) == (0.0, 0.0)
    assert report.missing == ["test/trials_o has no plda scores"]
    assert report.plda_labels == "clusters"


def test_result_files(folders):
    data, exp = folders
    done = CliRunner().invoke(results_command, [str(data), str(exp)])
    assert done.exit_code == 0, done.output
    row = next(line for line in done.output.splitlines() if "plda" in line)
    assert row.split() == ["test", "trials", "plda", "2", "2", "0.00", "0.0000", "0.0000"]
    assert "Missing: test/trials_o has no plda scores" in done.output
    assert "no speaker labels were used" in done.output
    page = (exp / "RESULTS.md").read_text()
    assert "| test | trials | cosine | 2 | 2 | 50.00 |  | 0.5000 |  | 0.5000 |  |" in page
    assert "no speaker labels were used" in page and "sdpn-k2 " in page and "numpy" in page
    stored = json.loads((exp / "results.json").read_text())
    assert stored["results"][1]["eer"] == 0.0
    assert set(stored["measured"]["versions"]) >= {"python", "numpy"}
    assert stored["data"] == str(data)


def test_what_the_plda_used_is_said_or_said_to_be_unknown(folders):
    data, exp = folders
    (exp / "backend" / "plda_labels").write_text("corpus\n")
    assert "with the speaker labels of the training set" in results.table(results.collect(data, exp))
    (exp / "backend" / "plda_labels").unlink()
    assert "not recorded" in results.table(results.collect(data, exp))
    for content, said in ((b"oracle\n", "oracle"), (b"caf\xe9\n", "plda_labels: says 'caf")):
        (exp / "backend" / "plda_labels").write_bytes(content)
        with pytest.raises(InputError, match=said):
            results.collect(data, exp)


def test_trials_of_utterances_without_an_embedding_are_left_out_and_counted(folders):
    data, exp = folders
    (data / "test" / "trials").write_text(
        "a x target\nb y target\na y nontarget\nb x nontarget\nb lost target\nlost x nontarget\n"
    )
    # What has no features is not in utt2spk either.
    (data / "test" / "utt2spk").write_text("a 1\nb 2\nx 1\ny 2\n")
    (exp / "xvectors_test").mkdir()
    table = exp / "xvectors_test" / "xvector.scp"
    table.write_text("a x.ark:2\nb x.ark:2\nx x.ark:2\ny x.ark:2\n")
    report = results.collect(data, exp)
    assert [(r.trials, r.backend, r.n_targets, r.n_nontargets) for r in report.results] == [
        ("trials", "cosine", 2, 2),
        ("trials", "plda", 2, 2),
        ("trials_o", "cosine", 1, 1),
    ]
    assert all(result.eer_interval for result in report.results)
    left_out = "test/trials: 2 of 6 trials are left out, since 1 utterances have no embedding; the first: lost"
    assert report.missing == [left_out, "test/trials_o has no plda scores"]
    # Other trials without a score are an error as ever; so are they where the names are not those of utterances.
    table.write_text(table.read_text() + "lost x.ark:2\n")
    assert any("no score for b lost" in line for line in results.collect(data, exp).missing)
    table.write_text("other x.ark:2\n")
    assert any("no score for b lost" in line for line in results.collect(data, exp).missing)


def test_lists_without_scores_are_reported(folders):
    data, exp = folders
    (data / "train" / "trials").write_text("a b target\n")
    missing = results.collect(data, exp).missing
    assert "train/trials has no cosine scores" in missing and "train/trials has no plda scores" in missing


def test_eer_and_costs_have_intervals_where_the_speakers_are_known(folders):
    data, exp = folders
    (data / "test" / "utt2spk").write_text("a one\nx one\nb two\ny two\n")
    report = results.collect(data, exp)
    cosine = report.results[0]
    for value, interval in (
        (cosine.eer, cosine.eer_interval),
        (cosine.min_dcf_01, cosine.min_dcf_01_interval),
        (cosine.min_dcf_05, cosine.min_dcf_05_interval),
    ):
        assert interval.low <= value <= interval.high
    page = results.markdown(report, "exp")
    low, high = cosine.min_dcf_01_interval
    assert f"| 0.5000 | {low:.3f}..{high:.3f} | 0.5000 |" in page and "when the speakers are drawn anew" in page


@pytest.mark.parametrize(
    "table, said",
    [
        ("a a\nb b\nx x\ny y\n", "no intervals: .*a x is a target trial, but not by the speakers given"),
        ("a one\nx one\nb two\n", "no intervals: .*the speaker of y is not known"),
        ("a\n", "no intervals: .*utt2spk:1: 'a' has no value"),
    ],
)
def test_unusable_speakers_cost_the_intervals_only(folders, table, said):
    data, exp = folders
    (data / "test" / "utt2spk").write_text(table)
    report = results.collect(data, exp)
    assert len(report.results) == 3 and report.results[0].eer_interval is None
    assert re.search(said, report.missing[0])


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("trials.cosine", "a x 0.5\nb y 0.5\na y 0.5\nb x 0.5\n", "trials.cosine: all 4 scores are 0.5"),
        ("trials.cosine", "a x nan\nb y 1\na y 2\nb x 3\n", "trials.cosine:1: the score is 'nan'"),
        ("trials.cosine", "", "trials.cosine: "),
        ("trials.cosine", "a x 1\n", "trials.cosine: no score for b y"),
        ("trials_none.cosine", "a x 1\n", "trials_none: no such trial list, but .* has scores for it"),
    ],
)
def test_score_files_that_cannot_be_measured_are_named(folders, name, content, said):
    data, exp = folders
    (exp / "scores" / "test" / name).write_text(content)
    report = results.collect(data, exp)
    assert {result.backend for result in report.results} == {"cosine", "plda"}
    assert re.search(said, report.missing[0]) and report.missing[1:] == ["test/trials_o has no plda scores"]


def test_experiments_that_cannot_be_measured(folders):
    data, exp = folders
    (data / "test" / "trials").write_text("a x target\na x nontarget\n")
    (data / "test" / "trials_o").unlink()
    with pytest.raises(InputError, match="none of the score files .* the first fault: .*both target and nontarget"):
        results.collect(data, exp)
    (exp / "scores" / "test" / "trials_o.cosine").unlink()
    with pytest.raises(InputError, match="^[^ ]*trials: a x is both target and nontarget"):
        results.collect(data, exp)
    shutil.rmtree(exp / "scores")
    with pytest.raises(InputError, match="no score files .* run the scoring stage first"):
        results.collect(data, exp)


def test_eval_prints_kaldis_digits(shared):
    golden = shared / "kaldi-golden"
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
    lines = dict(line.rsplit("  ", 1) for line in done.output.splitlines())
    figures = {name.strip(): value for name, value in lines.items()}
    assert figures["EER % (Kaldi's compute-eer)"] == "4.688"
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
        summarise(scores, data / "test" / "trials", p_targets=(1.5,))
    (tmp_path / "targets").write_text("a x target\n")
    with pytest.raises(InputError, match="trials.cosine: no nontarget trials"):
        summarise(scores, tmp_path / "targets")
    done = CliRunner().invoke(evaluate, ["-", "-"])
    assert isinstance(done.exception, InputError)
