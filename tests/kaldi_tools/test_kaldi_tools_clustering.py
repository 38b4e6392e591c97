"""agglomerative-cluster: its options, and bad input."""

import numpy as np
import pytest
from vector_tools import RNG, complaint, run

from sdpn_k2.kaldi.formats.tables import TableWriter


def test_costs_are_negated_scores():
    scores = RNG.normal(size=(6, 6)).astype(np.float32)
    scores += scores.T
    with TableWriter("ark:scores", "matrix") as writer:
        writer.write("r", scores)
    with TableWriter("ark:costs", "matrix") as writer:
        writer.write("r", -scores)
    with open("reco2utt", "w") as stream:
        stream.write("r a b c d e f\n")
    assert run("agglomerative-cluster", "--threshold=0.4", "ark:scores", "ark:reco2utt", "ark,t:labels1") == 0
    assert (
        run(
            "agglomerative-cluster",
            "--threshold=-0.4",
            "--read-costs=true",
            "ark:costs",
            "ark:reco2utt",
            "ark,t:labels2",
        )
        == 0
    )
    assert open("labels1").read() == open("labels2").read()
    assert [line.split()[0] for line in open("labels1")] == list("abcdef")


def test_a_recording_needs_a_speaker(capfd):
    with TableWriter("ark:scores", "matrix") as writer:
        writer.write("r", np.zeros((2, 2)))
    for name, line in (("reco2utt", "r a b\n"), ("reco2num_spk", "r 0\n")):
        with open(name, "w") as stream:
            stream.write(line)
    options = ["--reco2num-spk-rspecifier=ark:reco2num_spk"]
    assert run("agglomerative-cluster", *options, "ark:scores", "ark:reco2utt", "ark,t:labels") == 1
    assert "ark:reco2num_spk: 0 speakers of recording r" in complaint(capfd)


@pytest.mark.parametrize(
    "matrix, reco2utt, where",
    [
        (np.zeros((2, 2)), "other a b\n", "key r"),
        (np.zeros((2, 2)), "r a b c\n", "3 "),
        (np.zeros((2, 3)), "r a b\n", "square"),
        (np.full((2, 2), np.nan), "r a b\n", "NaN"),
    ],
)
def test_bad_score_matrices_are_refused(capfd, matrix, reco2utt, where):
    with TableWriter("ark:scores", "matrix") as writer:
        writer.write("r", matrix)
    with open("reco2utt", "w") as stream:
        stream.write(reco2utt)
    assert run("agglomerative-cluster", "ark:scores", "ark:reco2utt", "ark,t:labels") == 1
    assert where in complaint(capfd)
    with pytest.raises(FileNotFoundError):
        open("labels")
