"""compute-eer: its output, and bad input."""

import numpy as np
import pytest
from vector_tools import RNG, complaint, run

from sdpn_k2.kaldi.backend import trials
from sdpn_k2.kaldi.backend.eer import kaldi_eer


def test_compute_eer_prints_four_digits_without_a_line_end(capfd, monkeypatch):
    scores = np.concatenate([RNG.normal(2, 1, 300), RNG.normal(0, 1, 700)]).round(5)
    labels = np.repeat(["target", "nontarget"], [300, 700])
    with open("scores", "w") as stream:
        stream.writelines(f"{score} {label}\n" for score, label in zip(scores, labels))
    eer, _ = kaldi_eer(scores[:300], scores[300:])
    monkeypatch.setattr(trials, "BLOCK_BYTES", 100)
    assert run("compute-eer", "scores") == 0
    assert capfd.readouterr().out == f"{100 * eer:.4g}"


@pytest.mark.parametrize(
    "text, where",
    [
        ("1 target\n2 impostor\n", ":2:"),
        ("1 target\nx nontarget\n", ":2:"),
        ("1 target\n2\n", ":2:"),
        ("1 target\n", "nontarget"),
        ("", "target"),
        ("nan target\n1 nontarget\n", "NaN"),
    ],
)
def test_compute_eer_refuses_bad_lines(capfd, text, where):
    with open("scores", "w") as stream:
        stream.write(text)
    assert run("compute-eer", "scores") == 1
    assert where in complaint(capfd)
