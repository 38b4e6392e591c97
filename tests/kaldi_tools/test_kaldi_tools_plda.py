"""The PLDA tools: scores against the model's, files in both formats, and bad models and lists."""

import numpy as np
import pytest
from vector_tools import (
    KEYS,
    VECTORS,
    complaint,
    parse_scores,
    random_trials,
    run,
    warnings,
    write_lists,
    write_vectors,
)

from sdpn_k2.kaldi.backend import trials
from sdpn_k2.kaldi.backend.plda import read_plda
from sdpn_k2.kaldi.formats.tables import TableWriter, read_table


@pytest.mark.parametrize("several", [False, True])
def test_plda_scores_of_a_list_equal_the_models(table, plda, several, monkeypatch):
    pairs = random_trials(3000)
    with open("trials", "w") as stream:
        stream.writelines(f"{first} {second}\n" for first, second in pairs)
    num_utts = np.arange(40) % 5 + 1 if several else np.full(40, 3)
    with TableWriter("ark,t:num_utts", "int") as writer:
        for key, number in zip(KEYS, num_utts.tolist()):
            writer.write(key, number)
    enroll, _ = plda.transform_vectors(VECTORS, num_utts)
    test, _ = plda.transform_vectors(VECTORS)
    matrix = plda.log_likelihood_ratios(enroll, num_utts, test)
    expected = [matrix[KEYS.index(first), KEYS.index(second)] for first, second in pairs]
    for block in (1 << 20, 100):  # bytes: the whole list at once, a few lines at a time
        monkeypatch.setattr(trials, "BLOCK_BYTES", block)
        assert run("ivector-plda-scoring", "--num-utts=ark:num_utts", "plda", table, table, "trials", "scores") == 0
        keys, scores = parse_scores("scores")
        assert keys == pairs
        np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-5)


def test_trials_with_unknown_keys_are_dropped_with_a_warning(table, plda, capfd):
    with open("trials", "w") as stream:
        stream.write(f"{KEYS[0]} {KEYS[1]}\nnobody {KEYS[1]}\nnobody {KEYS[2]}\n{KEYS[0]} nowhere\n")
    assert run("ivector-plda-scoring", "plda", table, table, "trials", "scores") == 0
    assert parse_scores("scores")[0] == [(KEYS[0], KEYS[1])]
    captured = capfd.readouterr().err
    assert "Key nobody not present in training iVectors." in captured
    assert "Key nowhere not present in test iVectors." in captured
    assert "Processed 1 trials, 3 had errors." in captured


@pytest.mark.parametrize(
    "text, where",
    [
        ("{0} {1}\n{0}\n", ":2:"),
        ("{0} {1} target\n", ":1:"),
        ("{0} {1}\n\n{0} {1}\n", ":2:"),
        ("{0}\n{0} {1} {1}\n", ":1:"),
        ("", "trials"),
    ],
)
def test_malformed_trial_lists_are_refused(table, plda, capfd, text, where):
    with open("trials", "w") as stream:
        stream.write(text.format(*KEYS))
    assert run("ivector-plda-scoring", "plda", table, table, "trials", "scores") == 1
    line = complaint(capfd)
    assert "trials" in line and where in line
    with pytest.raises(FileNotFoundError):
        open("scores")


def test_speakers_without_a_number_of_utterances_are_left_out(table, plda, capfd):
    with open("num_utts", "w") as stream:
        stream.write(f"{KEYS[0]} 2\n")
    with open("trials", "w") as stream:
        stream.write(f"{KEYS[0]} {KEYS[1]}\n{KEYS[1]} {KEYS[0]}\n")
    assert run("ivector-plda-scoring", "--num-utts=ark:num_utts", "plda", table, table, "trials", "scores") == 0
    assert parse_scores("scores")[0] == [(KEYS[0], KEYS[1])]
    assert any(f"Number of utterances not given for speaker {KEYS[1]}" in line for line in warnings(capfd))
    with open("num_utts", "w") as stream:
        stream.write(f"{KEYS[0]} 0\n")
    assert run("ivector-plda-scoring", "--num-utts=ark:num_utts", "plda", table, table, "trials", "scores") == 1
    line = complaint(capfd)
    assert KEYS[0] in line and "0 utterances" in line


@pytest.mark.parametrize(
    "content, word",
    [
        (b"", "token"),
        (b"<Nnet> ", "<Plda>"),
        (b"\0B<Plda> DV \4\3\0\0\0", "cut short"),
        (b"<Plda> [ 1 2 ] [ 1 0\n 0 1 ] [ 1 ] </Plda> ", "shapes"),
        (b"<Plda> [ 1 nan ] [ 1 0\n 0 1 ] [ 1 1 ] </Plda> ", "NaN"),
        (b"<Plda> [ 1 ] [ 1 ] [ -1 ] </Plda> ", "negative"),
        (b"<Plda> [ 1 2 ] [ 1 1\n 1 1 ] [ 1 1 ] </Plda> ", "singular"),
        (b"<Plda> [ ] [ ] [ ] </Plda> ", "shapes"),
        (b"<Plda> [ 1 ] [ 1 ] [ 1 ] ", "token"),
    ],
)
def test_broken_plda_files_are_refused(table, capfd, content, word):
    with open("plda", "wb") as stream:
        stream.write(content)
    assert run("ivector-copy-plda", "plda", "copy") == 1
    line = complaint(capfd)
    assert "plda" in line and word in line
    with pytest.raises(FileNotFoundError):
        open("copy")


def test_plda_files_survive_both_formats(plda):
    assert run("ivector-copy-plda", "--binary=false", "plda", "text") == 0
    assert run("ivector-copy-plda", "text", "binary") == 0
    assert open("text").read().startswith("<Plda>  [ ")
    for name in ("mean", "transform", "psi"):
        np.testing.assert_allclose(getattr(read_plda("binary"), name), getattr(plda, name), rtol=1e-6, atol=1e-7)
    assert run("ivector-copy-plda", "plda", "exact") == 0
    assert open("exact", "rb").read() == open("plda", "rb").read()


def test_plda_needs_more_vectors_than_dimensions_and_two_of_a_speaker(capfd):
    write_lists()
    few = write_vectors("few.ark", KEYS[:5], VECTORS[:5])
    assert run("ivector-compute-plda", "ark:spk2utt", few, "out") == 1
    assert "5 of 5" in complaint(capfd)
    single = write_vectors("single.ark", KEYS[::4], VECTORS[::4])
    assert run("ivector-compute-plda", "ark:spk2utt", single, "out") == 1
    assert "two" in complaint(capfd)
    with pytest.raises(FileNotFoundError):
        open("out")


def test_dense_scoring_needs_every_segment(table, plda, capfd):
    with open("reco2utt", "w") as stream:
        stream.write(f"reco {KEYS[0]} nobody\n")
    assert run("ivector-plda-scoring-dense", "plda", "ark:reco2utt", table, "ark:out") == 1
    assert "nobody" in complaint(capfd)
    assert run("ivector-plda-scoring-dense", "--target-energy=1.5", "plda", "ark:reco2utt", table, "ark:out") == 1
    assert "--target-energy" in complaint(capfd)


def test_dense_scoring_accepts_recordings_of_any_size(table, plda, capfd):
    with open("reco2utt", "w") as stream:
        stream.write(f"one {KEYS[0]}\nnone\ntwo {KEYS[0]} {KEYS[5]}\nall {' '.join(KEYS)}\n")
    for energy in (0, 0.5, 1):
        assert (
            run("ivector-plda-scoring-dense", f"--target-energy={energy}", "plda", "ark:reco2utt", table, "ark:out")
            == 0
        )
        scores = dict(read_table("ark:out", "matrix"))
        assert {key: matrix.shape for key, matrix in scores.items()} == {"one": (1, 1), "two": (2, 2), "all": (40, 40)}
        assert all(np.isfinite(matrix).all() for matrix in scores.values())
    assert any("recording none" in line for line in warnings(capfd))
