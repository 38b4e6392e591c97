"""nnet3-copy, nnet3-info and nnet3-xvector-compute against Kaldi's output for two networks."""

import gzip
import re
import shutil

import numpy as np
import pytest
from kaldi_support import refuse, shell, succeed

from sdpn_k2.kaldi.formats.tables import TableWriter, read_table
from sdpn_k2.kaldi.nnet3.raw_network import read_network, write_network

VARIANTS = {
    "c10000": "--min-chunk-size=25 --chunk-size=10000",
    "c100": "--min-chunk-size=25 --chunk-size=100",
    "c150.nopad": "--min-chunk-size=100 --chunk-size=150 --pad-input=false",
    "whole": "--min-chunk-size=40 --chunk-size=-1",
}


@pytest.fixture
def nnet3(golden):
    return golden / "nnet3"


def close(ours, kaldis):
    assert np.linalg.norm(ours - kaldis) <= 1e-5 * np.linalg.norm(kaldis)


@pytest.mark.parametrize("name", ["xvector", "mixed"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_are_those_of_kaldi(name, variant, nnet3, tmp_path):
    network = f"nnet3-copy --nnet-config={nnet3}/extract_{name}.config {nnet3}/{name}.raw - |"
    output = f"ark,scp:{tmp_path}/x.ark,{tmp_path}/x.scp"
    command = f"nnet3-xvector-compute --use-gpu=no {VARIANTS[variant]} '{network}' ark:{nnet3}/feats24.ark {output}"
    log = succeed(command, tmp_path)
    expected = {
        key[len(f"{name}.{variant}.") :]: vector
        for key, vector in np.load(nnet3 / "vectors.npz").items()
        if key.startswith(f"{name}.{variant}.")
    }
    ours = dict(read_table(f"scp:{tmp_path}/x.scp", "vector"))
    assert list(ours) == list(expected)
    for key in ours:
        close(ours[key], expected[key])
    refused = "Minimum chunk size of 100 is greater than the number of rows in utterance: "
    assert [utterance for utterance in ("u1", "u2", "u3", "u4") if refused + utterance in log] == (
        ["u1", "u2"] if variant == "c150.nopad" else []
    )
    assert f"Done {len(expected)} utterances, failed for {4 - len(expected)}" in log


def test_copies_are_kaldis(nnet3, tmp_path):
    for name in ("xvector", "mixed"):
        succeed(f"nnet3-copy {nnet3}/{name}.raw same.raw && cmp same.raw {nnet3}/{name}.raw", tmp_path)
    options = f"--binary=false --nnet-config={nnet3}/extract_mixed.config --edits=remove-orphans"
    succeed(f"nnet3-copy {options} {nnet3}/mixed.raw text.raw", tmp_path)
    ours = (tmp_path / "text.raw").read_text()
    theirs = gzip.decompress((nnet3 / "mixed.extract.txt.gz").read_bytes()).decode()
    assert len(ours.splitlines()) == len(theirs.splitlines())
    for one, other in zip(re.split(r"([ \n])", ours), re.split(r"([ \n])", theirs)):
        assert one == other or abs(float(one) - float(other)) <= 2e-7 * abs(float(other))  # Kaldi keeps sums
    succeed("nnet3-copy text.raw binary.raw && nnet3-copy --binary=false binary.raw again.raw", tmp_path)
    assert (tmp_path / "again.raw").read_text() == ours


def test_info_is_kaldis(nnet3, tmp_path):
    for name in ("xvector", "mixed"):
        ours = shell(f"nnet3-info {nnet3}/{name}.raw", tmp_path).stdout
        theirs = (nnet3 / f"{name}.info.txt").read_text()
        # The mean of a row norm may be rounded up from a last digit that single precision does not have.
        assert ours.replace("1.00,", "1.0,") == theirs.replace("1.00,", "1.0,")


def test_edits(nnet3, tmp_path):
    (tmp_path / "edits").write_text("# a comment\nrename-node old-name=tdnn6.affine new-name=embedding\n")
    edits = "set-learning-rate-factor name=tdnn*.affine learning-rate-factor=0.5;set-learning-rate learning-rate=0.25"
    options = f"--edits-config=edits --edits='{edits}' --scale=2"
    succeed(f"nnet3-copy {options} {nnet3}/xvector.raw changed.raw", tmp_path)
    before, after = read_network(f"{nnet3}/xvector.raw"), read_network(f"{tmp_path}/changed.raw")
    assert "embedding" in after.nodes and "tdnn6.affine" not in after.nodes
    assert after.nodes["tdnn6.relu"].line().endswith("input=embedding")
    fields, old = after.components["tdnn1.affine"].fields, before.components["tdnn1.affine"].fields
    np.testing.assert_array_equal(fields["LinearParams"], 2 * old["LinearParams"])
    assert fields["LearningRate"] == 0.25 and fields["LearningRateFactor"] == 0.5
    succeed(f"nnet3-copy --set-dropout-proportion=0.5 {nnet3}/mixed.raw mixed.raw", tmp_path)
    assert read_network(f"{tmp_path}/mixed.raw").components["t2.dropout"].fields["DropoutProportion"] == 0.5
    succeed(f"nnet3-copy --edits='remove-output-nodes name=out*;remove-orphans' {nnet3}/mixed.raw empty.raw", tmp_path)
    assert list(read_network(f"{tmp_path}/empty.raw").nodes) == ["input"]
    for edit, words in (
        ("convert-to-fixed-affine", "not a valid or supported edit"),
        ("rename-node old-name=a new-name=b", "no such node"),
        ("remove-output-nodes name=a", "no name matches"),
        ("set-learning-rate learning-rate=x", "expected a number"),
    ):
        assert words in refuse(f"nnet3-copy --edits='{edit}' {nnet3}/mixed.raw x", tmp_path)


@pytest.mark.parametrize(
    "line, words",
    [
        ("output-node name=output input=nowhere", "there is no node 'nowhere'"),
        ("component-node name=x component=y input=input", "there is no component 'y'"),
        ("component name=x type=NoOpComponent dim=3", "new components are not supported"),
        ("output-node name=output input=Offset(input, a)", "needs a number"),
        ("output-node name=output input=Offset(input, 1, 1)", "only the time"),
        ("output-node name=output input=Append(input", "wrong arguments of Append"),
        ("output-node name=output input=input) x", "follows its end"),
        ("output-node name=output inputs=input", "unknown value 'inputs'"),
        ("output-node name=output", "'input=' is missing"),
        ("input-node name=x dim=0", "above zero"),
        ("something name=x", "not a valid line"),
    ],
)
def test_bad_config_lines_are_refused(line, words, nnet3, tmp_path):
    (tmp_path / "config").write_text(f"# comment\n\n{line}\n")
    assert words in refuse(f"nnet3-copy --nnet-config=config {nnet3}/mixed.raw x", tmp_path)


def test_unsupported_networks_are_refused_by_name(nnet3, tmp_path):
    data = (nnet3 / "mixed.raw").read_bytes()
    (tmp_path / "lstm.raw").write_bytes(data.replace(b"TanhComponent", b"LstmComponent"))
    line = refuse("nnet3-info lstm.raw", tmp_path)
    assert "component e.tanh has the type LstmComponent, which is not supported" in line
    (tmp_path / "cut.raw").write_bytes(data[:20000])
    assert "cut short" in refuse("nnet3-info cut.raw", tmp_path)
    (tmp_path / "text").write_text("hello\n")
    assert "expected <Nnet3>, got hello" in refuse("nnet3-info text", tmp_path)
    recurrent = "component-node name=t1 component=t1 input=IfDefined(Offset(t1.norm, -1))"
    (tmp_path / "config").write_text(recurrent)
    succeed(f"nnet3-copy --nnet-config=config {nnet3}/mixed.raw loop.raw", tmp_path)
    assert "recurrent networks are not supported" in refuse("nnet3-info loop.raw", tmp_path)
    command = f"nnet3-xvector-compute {{}} ark:{nnet3}/feats24.ark ark:out"
    assert "recurrent networks are not supported" in refuse(command.format("loop.raw"), tmp_path)
    (tmp_path / "config").write_text("component-node name=t2.relu component=t2.relu input=t2.linear")
    succeed(f"nnet3-copy --nnet-config=config {nnet3}/mixed.raw odd.raw", tmp_path)
    line = refuse(command.format("odd.raw"), tmp_path)
    assert "node t2.relu: its input has 16 dimensions, RectifiedLinearComponent needs 40" in line
    network = read_network(str(nnet3 / "mixed.raw"))
    network.components["t2.batchnorm"].fields["Count"] = np.float64(0)
    write_network(str(tmp_path / "untrained.raw"), network)
    assert "BatchNormComponent without statistics" in refuse(command.format("untrained.raw"), tmp_path)


def test_unusable_features(nnet3, tmp_path):
    random = np.random.default_rng(0)
    with TableWriter(f"ark:{tmp_path}/f", "matrix") as writer:
        writer.write("empty", np.zeros((0, 0)))
        writer.write("good", random.normal(size=(30, 24)))
    log = succeed(f"nnet3-xvector-compute --min-chunk-size=10 {nnet3}/mixed.raw ark:f ark:out", tmp_path)
    assert "Zero-length utterance: empty" in log and "Done 1 utterances, failed for 1" in log
    options = "--pad-input=false --min-chunk-size=20 --chunk-size=10"
    assert "--chunk-size=10 is smaller" in refuse(
        f"nnet3-xvector-compute {options} {nnet3}/mixed.raw ark:f ark:out", tmp_path
    )
    assert "--chunk-size=0" in refuse(f"nnet3-xvector-compute --chunk-size=0 {nnet3}/mixed.raw ark:f ark:out", tmp_path)
    with TableWriter(f"ark:{tmp_path}/f", "matrix") as writer:
        writer.write("u", random.normal(size=(30, 23)))
    line = refuse(f"nnet3-xvector-compute {nnet3}/mixed.raw ark:f ark:out", tmp_path)
    assert "u: features of 23 dimensions, but the network needs 24" in line
    with TableWriter(f"ark:{tmp_path}/f", "matrix") as writer:
        writer.write("u", random.normal(size=(4, 24)))
    line = refuse(f"nnet3-xvector-compute --min-chunk-size=4 {nnet3}/mixed.raw ark:f ark:out", tmp_path)
    assert "u: 4 frames are too few for the context of the network" in line
    shutil.copy(nnet3 / "mixed.raw", tmp_path)
    assert "no output node" in refuse(
        "nnet3-xvector-compute 'nnet3-copy --edits=remove-output-nodes\\ name=* mixed.raw - |' ark:f ark:out", tmp_path
    )
