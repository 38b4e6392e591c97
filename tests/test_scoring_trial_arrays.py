"""Trial lists and score files: reading, writing, joining, and errors in them."""

import io
import re

import numpy as np
import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend import trials as reader
from sdpn_k2.scoring.trial_arrays import (
    Scores,
    Trials,
    check_labels_agree,
    match_scores,
    read_scores,
    read_trials,
    trials_between,
    write_scores,
)


@pytest.fixture
def write(tmp_path):
    def write_file(name, text):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_file


def pairs(trials):
    return [trials.pair(i) for i in range(len(trials))]


def test_trials_keep_order_and_labels(write):
    trials = read_trials(write("trials", "a x target\nb y nontarget\n\ta\t y  nontarget \nc x target"))
    assert pairs(trials) == ["a x", "b y", "a y", "c x"]
    assert trials.is_target.tolist() == [True, False, False, True]
    assert trials.enroll_ids == ["a", "b", "c"] and trials.test_ids == ["x", "y"]
    assert trials.enroll.dtype == np.int32


def test_numeric_labels_and_windows_line_ends(write):
    trials = read_trials(write("trials", "a x 1\r\nb y 0\r\n"))
    assert trials.is_target.tolist() == [True, False]


def test_trials_without_labels(write):
    trials = read_trials(write("trials", "a x\nb y\n"))
    assert trials.is_target is None
    with pytest.raises(InputError, match=re.escape(trials.source)):
        trials.labels()


def test_ids_are_split_at_ascii_blanks_only(write):
    trials = read_trials(write("trials", "é\u00a0a x target\n"))
    assert trials.enroll_ids == ["é\u00a0a"]


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
def test_block_size_does_not_change_the_result(write, monkeypatch, block_bytes):
    monkeypatch.setattr(reader, "BLOCK_BYTES", block_bytes)
    lines = [f"e{i % 7} t{i % 11} {'target' if i % 3 else 'nontarget'}" for i in range(100)]
    trials = read_trials(write("trials", "\n".join(lines)))
    assert [f"{pair} {'target' if t else 'nontarget'}" for pair, t in zip(pairs(trials), trials.is_target)] == lines
    with pytest.raises(InputError, match=r"bad:100: .*'e1 t1'"):
        read_trials(write("bad", "\n".join(lines[:99] + ["e1 t1"])))


@pytest.mark.parametrize(
    "text, where, word",
    [
        ("", "trials:", ""),
        ("\na x target\n", "trials:1:", "<enroll> <test>' or '<enroll> <test> <target|nontarget>"),
        ("a x target\n\nb y target\n", "trials:2:", "<enroll> <test> <target|nontarget>"),
        ("a x target\nb y\n", "trials:2:", "'b y'"),
        ("a x target 1\n", "trials:1:", "'a x target 1'"),
        ("a\n", "trials:1:", "'a'"),
        ("a x target\nb y\nc z w target\n", "trials:2:", "'b y'"),
        ("a x\nb y target\n", "trials:2:", "'b y target'"),
        ("a x target\nb y impostor\n", "trials:2:", "'impostor'"),
        (b"a x target\n\xff\xfe y target\n", "trials:", "UTF-8"),
    ],
)
def test_bad_trial_lists_name_the_line(write, text, where, word):
    with pytest.raises(InputError) as error:
        read_trials(write("trials", text))
    assert where in str(error.value) and word in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, where, word",
    [
        ("a x 1.0\nb y nan\n", "scores:2:", "'nan'"),
        ("a x 1.0\nb y inf\n", "scores:2:", "'inf'"),
        ("a x 1.0\nb y high\n", "scores:2:", "'high'"),
        ("a x\n", "scores:1:", "'a x'"),
        ("", "scores:", ""),
    ],
)
def test_bad_score_files_name_the_line(write, text, where, word):
    with pytest.raises(InputError) as error:
        read_scores(write("scores", text))
    assert where in str(error.value) and word in str(error.value)


def test_labelled_trials_are_streamed(write):
    path = write("trials", b"a b target\na \xff nontarget\r\n")
    assert list(reader.read_trials(path)) == [("a", "b", True), ("a", "\udcff", False)]
    for line, word in (("a b yes", "'yes'"), ("a b 2", "'2'"), ("a b", "'a b'"), ("", "''")):
        with pytest.raises(InputError, match=f"trials:2: .*{word}"):
            list(reader.read_trials(write("trials", f"a b target\n{line}\n")))


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="none: .*No such file"):
        read_trials(tmp_path / "none")
    with pytest.raises(InputError, match=f"{tmp_path.name}: .*Is a directory"):
        read_scores(tmp_path)


def test_standard_input_and_output(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a x 0.25\nb y -1e-3\n")))
    scores = read_scores("-")
    assert scores.values.tolist() == [0.25, -0.001]
    write_scores("-", scores)
    assert capsys.readouterr().out == "a x 0.25\nb y -0.001\n"


def test_scores_survive_a_file(tmp_path):
    rng = np.random.default_rng(0)
    trials = Trials(
        [f"e{i}" for i in range(50)],
        [f"t{i}" for i in range(70)],
        rng.integers(0, 50, 200_000).astype(np.int32),
        rng.integers(0, 70, 200_000).astype(np.int32),
    )
    values = rng.standard_normal(200_000).astype(np.float32)
    write_scores(tmp_path / "scores", Scores(trials, values))
    again = read_scores(tmp_path / "scores")
    assert pairs(again.trials) == pairs(trials)
    np.testing.assert_allclose(again.values, values, rtol=5.1e-7)


def test_kaldi_score_files_are_read(golden):
    trials = read_trials(golden / "trials")
    values = match_scores(read_scores(golden / "scores"), trials)
    expected = [line.split() for line in (golden / "eer_input").read_text().splitlines()]
    assert values.tolist() == [float(score) for score, _ in expected]
    assert trials.is_target.tolist() == [label == "target" for _, label in expected]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores"
    path.write_text("old\n")
    trials = Trials(["a"], ["x"], np.zeros(3, np.int32), np.array([0, 0, 5], np.int32))
    with pytest.raises(IndexError):
        write_scores(path, Scores(trials, np.zeros(3)))
    assert path.read_text() == "old\n" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="none/scores"):
        write_scores(tmp_path / "none" / "scores", Scores(trials, np.zeros(3)))


def test_scores_are_matched_in_any_order(write):
    trials = read_trials(write("trials", "a x target\nb y nontarget\na y nontarget\n"))
    scores = read_scores(write("scores", "q x 9\na y 3\na z 8\na x 1\nb y 2\nb x 7\nb y 2\n"))
    assert match_scores(scores, trials).tolist() == [1.0, 2.0, 3.0]


def test_missing_scores_are_named_and_counted(write):
    trials = read_trials(write("trials", "a x target\nb y nontarget\nc x target\n"))
    scores = read_scores(write("scores", "a x 1\n"))
    with pytest.raises(InputError, match=r"scores: .* b y .*trials; 2 of 3 "):
        match_scores(scores, trials)
    with pytest.raises(InputError, match="other: .* 3 trials .* a x"):
        match_scores(read_scores(write("other", "q x 1\n")), trials)


def test_trials_between_given_ids(write):
    trials = read_trials(write("trials", "a x target\nb y nontarget\na y nontarget\nc x target\n"))
    kept = trials_between(trials, {"a", "c", "x"})
    assert pairs(kept) == ["a x", "c x"] and kept.labels().tolist() == [True, True]
    assert (kept.enroll_ids, kept.test_ids) == (["a", "c"], ["x"])
    assert kept.enroll.dtype == np.int32 and kept.source == trials.source
    assert len(trials_between(trials, {})) == 0
    assert trials_between(read_trials(write("pairs", "a x\nb y\n")), {"a", "x"}).is_target is None


def test_one_trial_with_two_scores_is_refused(write):
    trials = read_trials(write("trials", "a x target\nb y nontarget\n"))
    scores = read_scores(write("scores", "a x 1\nb y 2\na x 1\nb y 2.5\n"))
    with pytest.raises(InputError, match=r"scores: b y .* 2 \(line 2\) .* 2.5 \(line 4\); .*: 1"):
        match_scores(scores, trials)
    assert match_scores(scores, read_trials(write("without", "a x target\n"))).tolist() == [1.0]
    # Also where the pair's ids are in the list, in other pairs.
    scores = read_scores(write("crossed", "a x 1\nb y 2\na y 3\na y 4\n"))
    assert match_scores(scores, trials).tolist() == [1.0, 2.0]


def test_a_pair_with_both_labels_is_refused(write):
    check_labels_agree(read_trials(write("trials", "a x target\na x target\n")))
    with pytest.raises(InputError, match="trials: a x "):
        check_labels_agree(read_trials(write("trials", "a x target\nb x target\na x nontarget\n")))
