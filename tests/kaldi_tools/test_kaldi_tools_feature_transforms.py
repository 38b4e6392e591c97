"""The tools that change features frame by frame, against Kaldi's output and against closed forms."""

import numpy as np
import pytest
from kaldi_support import refuse, shell, succeed

from sdpn_k2.kaldi.features import frames
from sdpn_k2.kaldi.formats.tables import TableWriter, read_table, write_object


@pytest.fixture
def kaldi(golden, tmp_path):
    """Kaldi's inputs as files; return all its matrices by "<table>.<utterance>"."""
    arrays = dict(np.load(golden / "nnet3" / "feature_tools.npz"))
    for name in ("feats13", "shorter"):
        with TableWriter(f"ark:{tmp_path}/{name}.ark", "matrix") as writer:
            for key in ("u1", "u2"):
                writer.write(key, arrays[f"{name}.{key}"])
    with TableWriter("ark:feats24.ark", "matrix") as writer:
        for key, features in read_table(f"ark:{golden}/nnet3/feats24.ark", "matrix"):
            if key in ("u1", "u2"):
                writer.write(key, features)
    for name in ("lin.mat", "aff.mat"):
        write_object(name, arrays[name], "matrix")
    with TableWriter("ark,t:rows_sum.txt", "vector") as writer:
        for key in ("u1", "u2"):
            writer.write(key, arrays[f"rows_sum.{key}"])
    return arrays


def write(name, **matrices):
    with TableWriter(f"ark:{name}", "matrix") as writer:
        for key, matrix in matrices.items():
            writer.write(key, np.asarray(matrix))


def read(name, kind="matrix"):
    return dict(read_table(f"ark:{name}", kind))


@pytest.mark.parametrize(
    "command, table",
    [
        ("add-deltas ark:feats13.ark ark:out", "deltas"),
        ("add-deltas --delta-order=1 --delta-window=3 ark:feats13.ark ark:out", "deltas1_3"),
        ("add-deltas --truncate=5 ark:feats13.ark ark:out", "deltas_t5"),
        ("splice-feats --left-context=2 --right-context=1 ark:feats13.ark ark:out", "spliced"),
        ("transform-feats lin.mat ark:feats13.ark ark:out", "lin"),
        ("transform-feats aff.mat ark:feats13.ark ark:out", "aff"),
        ("select-feats 0-3,7,12,5-6 ark:feats13.ark ark:out", "selected"),
        ("subsample-feats --n=3 ark:feats13.ark ark:out", "sub3"),
        ("subsample-feats --n=4 --offset=2 ark:feats13.ark ark:out", "sub4_2"),
        ("subsample-feats --n=-2 ark:feats13.ark ark:out", "subm2"),
        ("subsample-feats --n=30 --offset=25 ark:feats13.ark ark:out", "sub30"),
        ("paste-feats ark:feats13.ark ark:feats24.ark ark:out", "pasted"),
        ("paste-feats --length-tolerance=2 ark:feats13.ark ark:shorter.ark ark:out", "pasted_tol"),
        ("matrix-sum-rows ark:feats13.ark ark:out", "rows_sum"),
        ("copy-vector --scale=-0.5 ark:rows_sum.txt ark:out", "scaled"),
    ],
)
def test_output_is_kaldis(command, table, kaldi, tmp_path):
    log = succeed(command, tmp_path)
    expected = {key.partition(".")[2]: value for key, value in kaldi.items() if key.startswith(f"{table}.u")}
    ours = read("out", "vector" if table in ("rows_sum", "scaled") else "matrix")
    assert list(ours) == list(expected)
    for key in ours:
        np.testing.assert_allclose(ours[key], expected[key], rtol=2e-6, atol=2e-6 * np.abs(expected[key]).max())
    if table == "sub30":
        assert "For utterance u1, output would have no rows, producing no output." in log


def test_deltas_are_regression_slopes():
    time = np.arange(20.0)
    features = np.stack([3 * time, time**2], axis=1).astype(np.float32)
    result = frames.add_deltas(features, frames.delta_filters(2, 2))
    np.testing.assert_allclose(result[4:-4, 2], 3, rtol=1e-5)  # the slope of a line
    np.testing.assert_allclose(result[4:-4, 3], 2 * time[4:-4], rtol=1e-5)
    np.testing.assert_allclose(result[4:-4, 4:], np.tile([0, 2], (12, 1)), atol=1e-4)


def test_splicing_repeats_the_ends(tmp_path):
    write("in", a=np.arange(3.0)[:, None])
    succeed("splice-feats --left-context=1 --right-context=2 ark:in ark:out", tmp_path)
    assert read("out")["a"].tolist() == [[0, 0, 1, 2], [0, 1, 2, 2], [1, 2, 2, 2]]


def test_transforms_of_speakers(tmp_path):
    random = np.random.default_rng(0)
    features = {"a-1": random.normal(size=(4, 3)), "a-2": random.normal(size=(2, 3)), "b-1": random.normal(size=(5, 3))}
    write("in", **features)
    matrices = {"a": random.normal(size=(3, 4)), "c": random.normal(size=(2, 2))}
    write("transforms", **matrices)
    (tmp_path / "utt2spk").write_text("a-1 a\na-2 a\nb-1 b\n")
    log = succeed("transform-feats --utt2spk=ark:utt2spk ark:transforms ark:in ark:out", tmp_path)
    out = read("out")
    assert list(out) == ["a-1", "a-2"]
    for key in out:
        expected = features[key] @ matrices["a"][:, :3].T + matrices["a"][:, 3]
        np.testing.assert_allclose(out[key], expected, rtol=1e-5, atol=1e-5)
    assert "No fMLLR transform available for utterance b-1 [spk = b], producing no output" in log
    assert "Applied transform to 2 utterances; 1 had errors." in log
    logdet = np.log(abs(np.linalg.det(matrices["a"][:, :3])))
    assert f"logdet is {logdet:.4g}"[:-1] in log and "over 6 frames." in log
    (tmp_path / "utt2spk").write_text("a-1 c\n")
    log = succeed("transform-feats --utt2spk=ark:utt2spk ark:transforms ark:in ark:out", tmp_path)
    assert "Transform matrix for key c has bad dimension 2x2 versus feat dim 3" in log
    assert "Utt2spk map has no value for utterance b-1" in log
    assert read("out") == {}


def test_pasting(tmp_path):
    write("in1", a=np.ones((3, 2)), b=np.ones((3, 1)), c=np.ones((4, 1)))
    write("in2", a=np.zeros((3, 1)), c=np.zeros((2, 1)))
    log = succeed("paste-feats ark:in1 ark:in2 ark:in2 ark:out", tmp_path)
    assert {key: matrix.tolist() for key, matrix in read("out").items()} == {"a": [[1, 1, 0, 0]] * 3}
    assert "Missing utt b from input ark:in2" in log and "Done 1 utts, errors on 2" in log
    assert "Length mismatch 4 vs. 2 for utt c exceeds tolerance 0" in log
    write_object("1.mat", np.ones((3, 1)), "matrix")
    write_object("2.mat", np.zeros((2, 2)), "matrix")
    assert shell("paste-feats 1.mat 2.mat 3.mat", tmp_path).returncode == 1
    text = shell("paste-feats --length-tolerance=1 --binary=false 1.mat 2.mat -", tmp_path).stdout
    assert text == " [\n  1 0 0 \n  1 0 0 ]\n"
    assert "cannot mix" in refuse("paste-feats ark:in1 2.mat ark:out", tmp_path)
    assert shell("paste-feats ark:in1 ark:/dev/null ark:out", tmp_path).returncode == 1


@pytest.mark.parametrize(
    "command, words",
    [
        ("add-deltas --truncate=4 ark:in ark:out", "cannot truncate 3 dimensions to --truncate=4"),
        ("add-deltas --delta-window=0 ark:in ark:out", "--delta-window=0"),
        ("splice-feats --left-context=-1 ark:in ark:out", "--left-context=-1"),
        ("subsample-feats --n=0 ark:in ark:out", "--n=0"),
        ("subsample-feats --offset=-1 ark:in ark:out", "--offset=-1"),
        ("apply-cmvn-online --norm-means=false --norm-vars=true stats ark:in ark:out", "not the mean"),
        ("apply-cmvn-online --cmn-window=0 stats ark:in ark:out", "--cmn-window=0"),
        ("apply-cmvn-online --skip-dims=3 stats ark:in ark:out", "dimension 3 does not exist"),
        ("apply-cmvn-online ark:in ark:in ark:out", "ark:in"),
    ],
)
def test_impossible_options_are_refused(command, words, tmp_path):
    write("in", a=np.ones((5, 3)))
    write_object("stats", np.ones((2, 4)), "double_matrix")
    assert words in refuse(command, tmp_path)
    assert not (tmp_path / "out").exists()


def test_empty_features(tmp_path):
    write("in", a=np.zeros((0, 0)), b=np.ones((2, 1)))
    assert "Empty feature matrix for key a" in succeed("add-deltas ark:in ark:out", tmp_path)
    assert list(read("out")) == ["b"]
    assert "no frames to splice" in refuse("splice-feats ark:in ark:out", tmp_path)
    assert read("out")["b"].shape == (2, 3)
    write("nan", a=np.full((2, 2), np.nan))
    for name in ("add-deltas ark:nan", "matrix-sum-rows ark:nan", "transform-feats ark:nan ark:nan"):
        assert "NaN" in refuse(f"{name} ark:out", tmp_path)


# apply-cmvn-online


def expected_online(features, of_speaker, of_all, window, speaker_frames, global_frames, norm_vars):
    """Kaldi's definition, frame by frame."""
    result = []
    for t in range(len(features)):
        rows = features[max(0, t - window + 1) : t + 1].astype(np.float64)
        count, total, squares = len(rows), rows.sum(axis=0), np.square(rows).sum(axis=0)
        for earlier, limit in ((of_speaker, speaker_frames), (of_all, global_frames)):
            available = len(earlier) if earlier is of_speaker else np.inf
            taken = min(window - count, limit, available)
            if taken > 0:
                total = total + taken * earlier.mean(axis=0)
                squares = squares + taken * np.square(earlier).mean(axis=0)
                count += taken
        mean = total / count
        deviation = np.sqrt(squares / count - mean**2) if norm_vars else 1
        result.append((features[t] - mean) / deviation)
    return np.array(result)


@pytest.mark.parametrize("norm_vars", [False, True])
def test_online_normalisation(norm_vars, tmp_path):
    random = np.random.default_rng(3)
    everything = random.normal(2, 3, size=(40, 2))
    stats = np.array([[*everything.sum(axis=0), 40], [*np.square(everything).sum(axis=0), 0]])
    write_object("stats", stats, "double_matrix")
    features = {
        key: random.normal(1, 2, size=(n, 2)).astype(np.float32) for key, n in (("a-1", 4), ("a-2", 30), ("b-1", 6))
    }
    write("in", **features)
    (tmp_path / "spk2utt").write_text("a a-1 a-2 a-3\nb b-1\n")
    options = f"--cmn-window=12 --speaker-frames=6 --global-frames=5 --norm-vars={str(norm_vars).lower()}"
    log = succeed(f"apply-cmvn-online {options} --spk2utt=ark:spk2utt stats ark:in ark:out", tmp_path)
    ours = read("out")
    assert list(ours) == list(features) and "No features for utterance a-3" in log
    for key, earlier in (("a-1", []), ("a-2", features["a-1"]), ("b-1", [])):
        earlier = np.reshape(earlier, (-1, 2)).astype(np.float64)
        expected = expected_online(features[key], earlier, everything, 12, 6, 5, norm_vars)
        np.testing.assert_allclose(ours[key], expected, rtol=1e-4, atol=1e-5)
    succeed(f"apply-cmvn-online {options} --skip-dims=1 stats ark:in ark:out", tmp_path)
    expected = expected_online(features["a-2"], np.zeros((0, 2)), everything, 12, 6, 5, norm_vars)
    np.testing.assert_allclose(read("out")["a-2"][:, 0], expected[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(read("out")["a-2"][:, 1], features["a-2"][:, 1])
    succeed("apply-cmvn-online --norm-means=false stats ark:in ark:out", tmp_path)
    np.testing.assert_array_equal(read("out")["a-2"], features["a-2"])
