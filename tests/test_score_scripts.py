"""The scripts that join scores and labels: local/prepare_for_eer.py and sid/compute_min_dcf.py."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def script(name, *arguments):
    root = Path(__file__).resolve().parent.parent
    return subprocess.run([sys.executable, root / name, *arguments], capture_output=True, text=True)


def write_scored_trials():
    with open("trials", "w") as labelled, open("scores", "w") as scores:
        labelled.write("a b target\nb\tc nontarget\nab c target\na bc nontarget\n")
        scores.write("a bc -1.5\nab c 0.25\na b 1e2\n")


def test_prepare_for_eer_keeps_the_order_of_the_scores():
    write_scored_trials()
    result = script("local/prepare_for_eer.py", "trials", "scores")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "-1.5 nontarget\n0.25 target\n1e2 target\n"


def test_compute_min_dcf_prints_the_threshold():
    write_scored_trials()
    result = script("sid/compute_min_dcf.py", "--p-target", "0.5", "--c-fa", "2", "scores", "trials")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "0.0000\n"
    assert "minDCF is 0.0000 at threshold -1.5000 (p-target=0.5, c-miss=1, c-fa=2)" in result.stderr


@pytest.mark.parametrize("name", ["local/prepare_for_eer.py", "sid/compute_min_dcf.py"])
@pytest.mark.parametrize(
    "trial, score, where",
    [
        ("a b target", "a c 1", "'a c'"),
        ("a b imposter", "a b 1", "trials:1:"),
        ("a b", "a b 1", "trials:1:"),
        ("a b target", "a b", "scores:1:"),
    ],
)
def test_scripts_refuse_scores_that_do_not_match_the_trials(name, trial, score, where):
    Path("trials").write_text(trial + "\n")
    Path("scores").write_text(score + "\n")
    files = ["trials", "scores"] if "eer" in name else ["scores", "trials"]
    result = script(name, *files)
    assert result.returncode == 1
    assert where in result.stderr and "Traceback" not in result.stderr


def test_compute_min_dcf_refuses_impossible_costs_and_scores():
    write_scored_trials()
    for arguments in (["--p-target", "0"], ["--c-miss", "0"], ["--c-fa", "nan"], ["--nosuch"], ["--p-target", "x"]):
        result = script("sid/compute_min_dcf.py", *arguments, "scores", "trials")
        assert (result.returncode, len(result.stderr.splitlines())) == (1, 1) and arguments[0] in result.stderr
    Path("scores").write_text("a b much\n")
    result = script("sid/compute_min_dcf.py", "scores", "trials")
    assert result.returncode == 1 and "'much'" in result.stderr
    Path("scores").write_text("a b 1\n")
    result = script("sid/compute_min_dcf.py", "scores", "trials")
    assert result.returncode == 1 and "targets" in result.stderr
