"""Back ends that Kaldi trained (mean.vec, transform.mat, plda), applied to archives that sdpn-k2 extract wrote."""

from pathlib import Path

import kaldiio
import numpy as np
import pytest
from click.testing import CliRunner
from three_d_speaker import INTEROP
from tiny_models import write_data

from sdpn_k2.cli import cli
from sdpn_k2.kaldi import tools


@pytest.fixture(scope="module")
def xvectors(speech, tmp_path_factory):
    """48-dimensional embeddings of released weights, which fit the golden back end."""
    folder = tmp_path_factory.mktemp("xvectors")
    data = write_data(folder / "data", speech)
    for command in (
        ["convert", "3dspeaker", INTEROP / "3dspeaker-sdpn-tiny.pth", folder / "final.pt"],
        ["extract", "--device", "cpu", folder / "final.pt", data, folder],
    ):
        result = CliRunner().invoke(cli, list(map(str, command)))
        assert result.exit_code == 0, result.output
    return folder


def text_numbers(path):
    """Return the bracketed blocks of a text file that Kaldi wrote."""
    blocks = path.read_text().replace("<Plda>", "").replace("</Plda>", "").split("[")[1:]
    return [np.array([line.split() for line in block.split("]")[0].strip().splitlines()], float) for block in blocks]


@pytest.fixture(scope="module")
def projected(xvectors, golden):
    """The embeddings centred, reduced by LDA and scaled to length sqrt(dim), computed here."""
    (mean,), (transform,) = text_numbers(golden / "mean.txt"), text_numbers(golden / "transform.txt")
    vectors = {}
    for name, vector in kaldiio.load_scp(str(xvectors / "xvector.scp")).items():
        y = transform[:, :48] @ (vector.astype(float) - mean[0])
        if transform.shape[1] == 49:
            y += transform[:, 48]
        vectors[name] = y * np.sqrt(len(y)) / np.linalg.norm(y)
    return vectors


def read_scores(path):
    return {tuple(line.split()[:2]): float(line.split()[2]) for line in path.read_text().splitlines()}


def test_plda_scores_are_likelihood_ratios(xvectors, projected, golden, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(__file__).parents[1] / "utils" / "kaldi-bin"), prepend=":")
    trials = xvectors / "data" / "trials"
    vectors = (
        f"ark:ivector-subtract-global-mean {golden}/mean.vec scp:{xvectors}/xvector.scp ark:- | transform-vec "
        f"{golden}/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |"
    )
    arguments = [f"{golden}/plda", vectors, vectors, f"cut -d ' ' -f 1,2 {trials} |", str(tmp_path / "scores")]
    assert tools.run("ivector-plda-scoring", ["--normalize-length=true", *arguments]) == 0
    scores = read_scores(tmp_path / "scores")
    assert len(scores) == 36

    mean, transform, psi = text_numbers(golden / "plda.txt")
    mean, psi = mean[0], psi[0]
    latent = {}
    for name, vector in projected.items():
        u = transform @ (vector - mean)
        latent[name] = u * np.sqrt(len(u) / np.sum(u**2 / (psi + 1)))
    for (enroll, test), score in scores.items():
        # In each dimension, two Gaussians over the pair: correlated by the speaker, or independent.
        pair = np.stack([latent[enroll], latent[test]])
        ratio = 0.0
        for x, between in zip(pair.T, psi):
            same = np.array([[1 + between, between], [between, 1 + between]])
            other = np.diag(np.diag(same))
            ratio += 0.5 * (x @ np.linalg.inv(other) @ x - x @ np.linalg.inv(same) @ x)
            ratio += 0.5 * (np.linalg.slogdet(other)[1] - np.linalg.slogdet(same)[1])
        assert score == pytest.approx(ratio, rel=1e-3, abs=1e-2)


def test_cosine_scores_through_the_same_projection(xvectors, projected, golden, tmp_path):
    command = [
        "score",
        "--enroll",
        xvectors / "xvector.scp",
        "--trials",
        xvectors / "data" / "trials",
        "--mean",
        golden / "mean.vec",
        "--transform",
        golden / "transform.mat",
        tmp_path / "scores",
    ]
    result = CliRunner().invoke(cli, list(map(str, command)))
    assert result.exit_code == 0, result.output
    for (enroll, test), score in read_scores(tmp_path / "scores").items():
        a, b = projected[enroll], projected[test]
        assert score == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-4)
