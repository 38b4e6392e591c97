"""Every tool that reads vectors: its response to bad vectors and to outputs that cannot be written."""

import numpy as np
import pytest
from vector_tools import (
    KEYS,
    VECTORS,
    complaint,
    run,
    warnings,
    write_lists,
    write_vectors,
)

from sdpn_k2.kaldi.backend.plda import Plda, read_plda, write_plda
from sdpn_k2.kaldi.formats.tables import read_object, write_object

VECTOR_TOOLS = {
    "ivector-mean": ["{table}", "out"],
    "ivector-mean by speaker": ["ark:spk2utt", "{table}", "ark:out"],
    "ivector-normalize-length": ["{table}", "ark:out"],
    "ivector-subtract-global-mean": ["{table}", "ark:out"],
    "transform-vec": ["matrix", "{table}", "ark:out"],
    "ivector-transform": ["matrix", "{table}", "ark:out"],
    "ivector-compute-lda": ["--dim=2", "{table}", "ark:utt2spk", "out"],
    "ivector-compute-plda": ["ark:spk2utt", "{table}", "out"],
    "ivector-adapt-plda": ["plda", "{table}", "out"],
    "ivector-plda-scoring": ["plda", "{table}", "{table}", "trials", "out"],
    "ivector-plda-scoring-dense": ["plda", "ark:spk2utt", "{table}", "ark:out"],
    "ivector-compute-dot-products": ["trials", "{table}", "{table}", "out"],
    "est-pca": ["--read-vectors=true", "{table}", "out"],
}


def run_on(tool, rspecifier):
    write_lists()
    write_object("matrix", np.eye(5), "matrix")
    with open("trials", "w") as stream:
        stream.write(f"{KEYS[0]} {KEYS[1]}\n")
    return run(tool.split()[0], *[word.format(table=rspecifier) for word in VECTOR_TOOLS[tool]])


@pytest.mark.parametrize("tool", VECTOR_TOOLS)
def test_the_same_calls_succeed_on_good_input(table, plda, tool):
    assert run_on(tool, table) == 0
    assert open("out", "rb").read()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tool", VECTOR_TOOLS)
def test_nan_and_infinite_vectors_are_refused_by_name(plda, capfd, tool, bad):
    vectors = VECTORS.copy()
    vectors[17, 3] = bad
    assert run_on(tool, write_vectors("vectors.ark", KEYS, vectors)) == 1
    line = complaint(capfd)
    assert KEYS[17] in line and "NaN" in line
    with pytest.raises(FileNotFoundError):
        open("out")


@pytest.mark.parametrize("tool", VECTOR_TOOLS)
def test_mixed_dimensions_are_refused_by_name(plda, capfd, tool):
    vectors = list(VECTORS)
    vectors[17] = vectors[17][:4]
    assert run_on(tool, write_vectors("vectors.ark", KEYS, vectors)) == 1
    assert KEYS[17] in complaint(capfd)
    with pytest.raises(FileNotFoundError):
        open("out")


@pytest.mark.parametrize("tool", VECTOR_TOOLS)
def test_an_empty_table_is_a_failure(plda, capfd, tool):
    open("vectors.ark", "w").close()
    assert run_on(tool, "ark:vectors.ark") == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "vectors.ark" in said


@pytest.mark.parametrize("tool", sorted(set(VECTOR_TOOLS) - {"ivector-plda-scoring-dense"}))
def test_the_option_p_skips_bad_vectors(plda, capfd, tool):
    vectors = list(VECTORS.copy())
    vectors[17] = vectors[17][:4]
    vectors[18][0] = np.nan
    write_vectors("vectors.ark", KEYS, vectors)
    assert run_on(tool, "ark,p:vectors.ark") == 0
    said = " ".join(warnings(capfd))
    assert KEYS[17] in said and KEYS[18] in said
    assert open("out", "rb").read()


@pytest.mark.parametrize(
    "tool",
    [
        "ivector-mean by speaker",
        "ivector-compute-plda",
        "ivector-plda-scoring",
        "ivector-plda-scoring-dense",
        "ivector-compute-dot-products",
    ],
)
def test_duplicate_keys_are_refused_where_keys_are_looked_up(plda, capfd, tool):
    assert run_on(tool, write_vectors("vectors.ark", KEYS + KEYS[5:6], [*VECTORS, VECTORS[5]])) == 1
    assert KEYS[5] in complaint(capfd)


def test_utterances_that_no_speaker_lists_are_ignored(table, capfd):
    write_lists()
    more = write_vectors("more.ark", ["other", *KEYS], [VECTORS[0] + 9, *VECTORS])
    assert run("ivector-compute-lda", "--dim=2", table, "ark:utt2spk", "lda") == 0
    assert run("ivector-compute-lda", "--dim=2", more, "ark:utt2spk", "lda_more") == 0
    assert any("utterance other" in line for line in warnings(capfd))
    np.testing.assert_array_equal(read_object("lda", "matrix"), read_object("lda_more", "matrix"))
    assert run("ivector-compute-plda", "ark:spk2utt", table, "plda1") == 0
    assert run("ivector-compute-plda", "ark:spk2utt", more, "plda2") == 0
    np.testing.assert_array_equal(read_plda("plda1").transform, read_plda("plda2").transform)


@pytest.mark.parametrize("tool", ["ivector-plda-scoring", "ivector-plda-scoring-dense", "ivector-adapt-plda"])
def test_a_plda_of_another_dimension_is_refused(table, capfd, tool):
    write_plda("plda", Plda(np.zeros(4), np.eye(4), np.ones(4)))
    assert run_on(tool, table) == 1
    line = complaint(capfd)
    assert "plda" in line and "4" in line and "5" in line


@pytest.mark.parametrize("tool", ["ivector-plda-scoring", "ivector-compute-dot-products"])
def test_no_scorable_trial_is_a_failure(table, plda, capfd, tool):
    with open("trials", "w") as stream:
        stream.write("nobody nowhere\n")
    arguments = ["plda", table, table, "trials"] if tool == "ivector-plda-scoring" else ["trials", table, table]
    assert run(tool, *arguments, "scores") == 1
    assert "trials: " in complaint(capfd)
    with pytest.raises(FileNotFoundError):
        open("scores")


def test_a_speaker_line_without_utterances_is_refused(table, capfd):
    with open("lists", "w") as stream:
        stream.write("spk0\n")
    for command in (
        ["ivector-compute-plda", "ark:lists", table, "out"],
        ["ivector-mean", "ark:lists", table, "ark:out"],
    ):
        assert run(*command) == 1
        line = complaint(capfd)
        assert "lists" in line and "spk0" in line


def test_a_failing_command_in_a_pipe_is_a_failure(plda, capfd):
    assert run("ivector-mean", "ark:cat nosuchfile |", "mean") == 1
    assert "nosuchfile" in complaint(capfd)
    table = write_vectors("vectors.ark", KEYS, VECTORS)
    with open("trials", "w") as stream:
        stream.write(f"{KEYS[0]} {KEYS[1]}\n")
    assert run("ivector-plda-scoring", "plda", table, table, "cat trials; false |", "scores") == 1
    assert "exit status 1" in complaint(capfd)
    with pytest.raises(FileNotFoundError):
        open("scores")


@pytest.mark.parametrize("tool", VECTOR_TOOLS)
def test_an_output_that_cannot_be_written_is_named(table, plda, capfd, tool, monkeypatch):
    monkeypatch.setitem(VECTOR_TOOLS, tool, [word.replace("out", "nofolder/out") for word in VECTOR_TOOLS[tool]])
    assert run_on(tool, table) == 1
    assert "nofolder/out" in complaint(capfd)
