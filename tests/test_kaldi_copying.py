"""The tools that copy, scale, add and measure: Kaldi's golden files, and the effect of each option."""

import os
import struct

import kaldiio
import numpy as np
import pytest
from kaldi_support import ROOT, succeed

from sdpn_k2.kaldi import tools
from sdpn_k2.kaldi.formats.tables import TableWriter, read_object, read_table, write_object


@pytest.fixture
def run(capfd):
    """Run a tool; return (exit status, standard output, standard error)."""

    def runner(name, *arguments):
        capfd.readouterr()
        status = tools.run(name, ["--print-args=false", *map(str, arguments)])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return runner


def write(wspecifier, kind, **entries):
    with TableWriter(wspecifier, kind) as writer:
        for key, value in entries.items():
            writer.write(key, value)


def read(rspecifier, kind="vector"):
    return dict(read_table(rspecifier, kind))


def last_digit(text, reference):
    """Assert that texts are equal, except for the last of seven digits of some numbers."""
    ours, theirs = text.split(), reference.split()
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        assert one == other or abs(float(one) - float(other)) <= 1.1e-6 * abs(float(other))


# Golden commands


def test_copy_vector_golden(run, golden, tmp_path, monkeypatch):
    monkeypatch.chdir(golden)
    assert run("copy-vector", "scp:test.scp", f"ark,t:{tmp_path}/text")[0] == 0
    assert (tmp_path / "text").read_bytes() == (golden / "test.text.ark").read_bytes()
    status, _, error = run("copy-vector", "scp:test.scp", f"ark,scp:{tmp_path}/copy.ark,{tmp_path}/copy.scp")
    assert status == 0 and error.endswith("Copied 240 vectors.\n")
    assert (tmp_path / "copy.ark").read_bytes() == (golden / "test.ark").read_bytes()
    monkeypatch.chdir(tmp_path)
    assert run("copy-vector", f"ark:{golden}/test.ark", "ark,scp:test.ark,test.scp")[0] == 0
    assert (tmp_path / "test.scp").read_text() == (golden / "test.scp").read_text()
    run("copy-vector", "--binary=false", golden / "mean.vec", "mean.txt")
    assert (tmp_path / "mean.txt").read_bytes() == (golden / "mean.txt").read_bytes()
    run("copy-vector", f"ark:{golden}/double_vec.ark", "ark,t:double_vec.txt")
    last_digit((tmp_path / "double_vec.txt").read_text(), (golden / "double_vec.txt").read_text())


def test_copy_matrix_golden(run, golden, tmp_path):
    run("copy-matrix", "--binary=false", golden / "transform.mat", tmp_path / "transform.txt")
    assert (tmp_path / "transform.txt").read_bytes() == (golden / "transform.txt").read_bytes()
    run("copy-matrix", f"ark:{golden}/double_mat.ark", f"ark,t:{tmp_path}/double_mat.txt")
    last_digit((tmp_path / "double_mat.txt").read_text(), (golden / "double_mat.txt").read_text())
    run("copy-matrix", golden / "transform.mat", tmp_path / "transform.mat")
    assert (tmp_path / "transform.mat").read_bytes() == (golden / "transform.mat").read_bytes()


def test_copy_int_vector_golden(run, golden, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, error = run("copy-int-vector", f"ark:{golden}/ints.txt", "ark,scp:ints.ark,ints.scp")
    assert status == 0 and "Copied 3 vectors of int32." in error
    for name in ("ints.ark", "ints.scp"):
        assert (tmp_path / name).read_bytes() == (golden / name).read_bytes()
    run("copy-int-vector", "scp:ints.scp", "ark,t:ints.txt")
    assert (tmp_path / "ints.txt").read_text().split() == (golden / "ints.txt").read_text().split()


def test_copy_feats_golden(run, golden, tmp_path, monkeypatch):
    kaldis = np.load(golden / "compressed_matrices.npz")
    tables = {"fbank80": {}, "mfcc30": {}}
    for name in kaldis:
        table, _, key = name.partition("/")
        if table in tables:
            tables[table][key] = kaldis[name]
    monkeypatch.chdir(tmp_path)
    for name, table in tables.items():
        kaldiio.save_ark(f"{name}.ark", table, scp=f"{name}.scp")
    (tmp_path / "cm1.ark").write_bytes(kaldis["cm1.ark"])
    (tmp_path / "range.scp").write_text((tmp_path / "fbank80.scp").read_text().replace("\n", "[0:1,3:17]\n"))
    run("copy-feats", "scp:range.scp", "ark,t:range.txt")
    assert (tmp_path / "range.txt").read_bytes() == (golden / "range.txt").read_bytes()
    (tmp_path / "range_cm.scp").write_text("chirp cm1.ark:6[0:1]\n")
    run("copy-feats", "scp:range_cm.scp", "ark,t:range_cm.txt")
    last_digit((tmp_path / "range_cm.txt").read_text(), (golden / "range_cm.txt").read_text())
    run("copy-feats", "--compress=true", "scp:mfcc30.scp", "ark,scp:c.ark,c.scp")
    ours, theirs = (tmp_path / "c.ark").read_bytes(), kaldis["cm1.ark"].tobytes()
    assert len(ours) == len(theirs)
    assert np.mean(np.frombuffer(ours, np.uint8) != np.frombuffer(theirs, np.uint8)) <= 0.005
    for method in range(1, 8):
        (tmp_path / "compressed.ark").write_bytes(kaldis[f"cm{method}.ark"])
        run("copy-feats", "ark:compressed.ark", "ark:float.ark")
        expected = {key: kaldis[f"cm{method}.float/{key}"] for key in ("chirp", "noise-short")}
        kaldiio.save_ark("expected.ark", expected)
        assert (tmp_path / "float.ark").read_bytes() == (tmp_path / "expected.ark").read_bytes()
    run("copy-feats", "scp:fbank80.scp", "ark:copy.ark")
    assert (tmp_path / "copy.ark").read_bytes() == (tmp_path / "fbank80.ark").read_bytes()


def test_a_reader_that_stops_early_is_not_a_failure(tmp_path):
    write(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp", "matrix", **{f"k{i}": np.ones((100, 80)) for i in range(99)})
    copied = succeed("copy-matrix 'ark:copy-matrix scp:a.scp ark,t:- | head -n 101 |' ark:x", tmp_path)
    assert "Copied 1 matrices" in copied and "ERROR" not in copied
    (tmp_path / "x").unlink()
    job = f"{ROOT}/utils/run.pl x.log copy-feats --write-num-frames=ark,t:frames scp:a.scp ark:- "
    succeed(job + "\\| subset-feats --n=1 ark:- ark:x", tmp_path)
    assert list(read(f"ark:{tmp_path}/x", "matrix")) == ["k0"]
    assert "Traceback" not in (tmp_path / "x.log").read_text() and not (tmp_path / "frames").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["vector", "matrix"])
@pytest.mark.parametrize("options", ["", ",t"])
def test_numbers_too_large_for_float_become_infinite(run, tmp_path, kind, options):
    value = np.array([1e39, 2.0]) if kind == "vector" else np.array([[1e39, 2.0]])
    write(f"ark{options}:{tmp_path}/a", f"double_{kind}", a=value)
    assert run(f"copy-{kind}", f"ark:{tmp_path}/a", f"ark:{tmp_path}/b")[0] == 0
    assert read(f"ark:{tmp_path}/b", kind)["a"].tolist() == np.where(value == 1e39, np.inf, value).tolist()


def test_an_empty_matrix_has_neither_rows_nor_columns(tmp_path):
    write(f"ark:{tmp_path}/a", "matrix", a=np.empty((0, 80)))
    assert (tmp_path / "a").read_bytes() == b"a \0BFM \4\0\0\0\0\4\0\0\0\0"
    assert read(f"ark:{tmp_path}/a", "matrix")["a"].shape == (0, 0)


# Options


def test_copy_vector_changes_dimensions(run, tmp_path):
    write(f"ark:{tmp_path}/a", "vector", a=[1, 2, 3], b=[4])
    assert run("copy-vector", "--change-dim=2", f"ark:{tmp_path}/a", f"ark:{tmp_path}/b")[0] == 0
    assert {key: value.tolist() for key, value in read(f"ark:{tmp_path}/b").items()} == {"a": [1, 2], "b": [4, 0]}


@pytest.mark.parametrize(
    "option, function",
    [
        ("--scale=-2", lambda x: -2 * x),
        ("--apply-exp=true", np.exp),
        ("--apply-power=3", lambda x: x**3),
        ("--apply-log", np.log),
        ("--apply-softmax-per-row", lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)),
    ],
)
def test_copy_matrix_options(run, tmp_path, option, function):
    matrix = np.random.default_rng(1).uniform(0.5, 2, (3, 4)).astype(np.float32)
    write(f"ark:{tmp_path}/a", "matrix", a=matrix)
    assert run("copy-matrix", option, f"ark:{tmp_path}/a", f"ark:{tmp_path}/b")[0] == 0
    assert np.allclose(read(f"ark:{tmp_path}/b", "matrix")["a"], function(matrix), rtol=1e-5)


def test_copy_matrix_refuses_the_logarithm_of_negative_numbers(run, tmp_path):
    write_object(f"{tmp_path}/a", np.array([[1.0, -1.0]]), "matrix")
    status, _, error = run("copy-matrix", "--apply-log", tmp_path / "a", tmp_path / "b")
    assert status == 1 and "--apply-log" in error and os.listdir(tmp_path) == ["a"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("command", [
    ["copy-matrix", "--scale=1e38", "ark:a.mat"],
    ["copy-matrix", "--apply-exp", "--scale=99", "ark:a.mat"],
    ["copy-matrix", "--apply-power=0.5", "ark:a.mat"],
    ["vector-scale", "--scale=1e39", "ark:a.vec"],
    ["matrix-sum", "--scale2=1e38", "ark:a.mat", "ark:a.mat"],
    ["matrix-sum", "ark:inf.mat", "ark:a.mat"],
    ["transform-vec", "big.mat", "ark:a.vec"],
    ["ivector-transform", "big.mat", "ark:a.vec"],
])  # fmt: skip
def test_results_beyond_float_are_refused_by_key(run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    write("ark:a.mat", "matrix", key7=[[-1.0, 9.0]])
    write("ark:inf.mat", "matrix", key7=[[np.inf, 9.0]])
    write("ark:a.vec", "vector", key7=[-1.0, 9.0])
    write_object("big.mat", np.array([[1e38, 1e38]]), "matrix")
    status, _, error = run(*command, "ark:new")
    assert status == 1 and "key7" in error and not os.path.exists("new")


@pytest.mark.filterwarnings("error")
def test_sums_in_a_file_are_finite(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("ark:a", "vector", one=[1e38, 1.0], two=[3e38, 1.0])
    write("ark:b", "vector", one=[np.nan, 1.0])
    for source, words in (("a", "the sum of ark:a"), ("b", "ark:b: one")):
        status, _, error = run("vector-sum", f"ark:{source}", "new")
        assert status == 1 and words in error and not os.path.exists("new")


def test_copy_feats_counts_frames_and_copies_single_files(run, tmp_path):
    write(f"ark:{tmp_path}/a", "matrix", a=np.ones((3, 2)), b=np.ones((12, 2)))
    run("copy-feats", f"--write-num-frames=ark,t:{tmp_path}/frames", f"ark:{tmp_path}/a", f"ark:{tmp_path}/b")
    assert (tmp_path / "frames").read_text() == "a 3 \nb 12 \n"
    run("copy-feats", "--compress", "--compression-method=6", f"{tmp_path}/a:2", tmp_path / "one")
    assert (tmp_path / "one").read_bytes()[:6] == b"\0BCM3 "
    assert np.array_equal(read_object(f"{tmp_path}/one", "matrix"), np.ones((3, 2)))
    status, _, error = run(
        "copy-feats", "--compress", "--compression-method=9", f"ark:{tmp_path}/a", f"ark:{tmp_path}/c"
    )
    assert status == 1 and "--compression-method=9" in error


def test_copy_int_vector_of_single_files(run, tmp_path):
    # Kaldi's ReadIntegerVector: one width for all integers in binary, brackets in text.
    (tmp_path / "a").write_bytes(b"\0B\4\3\0\0\0\1\0\0\0\2\0\0\0\xff\xff\xff\xff")
    assert run("copy-int-vector", "--binary=false", tmp_path / "a", "-")[1] == "[ 1 2 -1 ]\n"
    (tmp_path / "b").write_text("[ 1 2 -1 ]\n")
    run("copy-int-vector", tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()


def test_vector_scale(run, tmp_path):
    write(f"ark:{tmp_path}/a", "vector", a=[1, 2])
    assert run("vector-scale", "--scale=-2.0", f"ark:{tmp_path}/a", "ark,t:-")[:2] == (0, "a  [ -2 -4 ]\n")
    assert run("vector-scale", "--scale=0.5", f"{tmp_path}/a:2", "-")[:2] == (0, " [ 0.5 1 ]\n")


def test_sums_of_tables(run, tmp_path):
    write(f"ark:{tmp_path}/a", "vector", a=[1, 2], b=[3, 4], c=[5, 6], d=[7, 8], e=[9, 9], f=[1, 1])
    write(f"ark:{tmp_path}/b", "vector", a=[10, 20], c=[1], d=[1, 1], e=[1, 1], f=[0, 0])
    status, _, error = run(
        "vector-sum", f"ark:{tmp_path}/a", f"ark:{tmp_path}/b", f"ark:{tmp_path}/a", f"ark:{tmp_path}/c"
    )
    assert status == 0
    assert {key: value.tolist() for key, value in read(f"ark:{tmp_path}/c").items()} == {
        "a": [12, 24],
        "b": [6, 8],
        "c": [10, 12],
        "d": [15, 17],
        "e": [19, 19],
        "f": [2, 2],
    }
    warned = [line for line in error.splitlines() if line.startswith("WARNING")]
    assert len(warned) == 2 and f"{tmp_path}/b: no entry for b" in warned[0] and f"{tmp_path}/b: skipped c" in warned[1]
    assert "1 total missing vectors" in error
    for key, value in {"a": np.eye(2), "b": np.ones((2, 2))}.items():
        write(f"ark:{tmp_path}/{key}.mat", "matrix", x=value)
    run(
        "matrix-sum",
        "--scale1=2",
        "--scale2=-1",
        f"ark:{tmp_path}/a.mat",
        f"ark:{tmp_path}/b.mat",
        f"ark:{tmp_path}/c.mat",
    )
    assert read(f"ark:{tmp_path}/c.mat", "matrix")["x"].tolist() == [[1, -1], [-1, 1]]
    run("matrix-sum", "--average", f"ark:{tmp_path}/a.mat", f"ark:{tmp_path}/b.mat", f"ark:{tmp_path}/c.mat")
    assert read(f"ark:{tmp_path}/c.mat", "matrix")["x"].tolist() == [[1, 0.5], [0.5, 1]]


def test_sum_of_a_table_and_of_files(run, tmp_path):
    write(f"ark:{tmp_path}/a", "vector", a=[1, 2], b=[3, 4], c=[5, 6], d=[1])
    status, out, error = run("vector-sum", "--binary=false", f"ark:{tmp_path}/a", "-")
    assert (status, out) == (0, " [ 9 12 ]\n")
    assert "skipped d" in error and "Summed 3 vectors, 1 with errors" in error
    for i in range(3):
        write_object(f"{tmp_path}/{i}.mat", np.full((1, 2), i), "matrix")
    names = [f"{tmp_path}/{i}.mat" for i in range(3)]
    assert run("matrix-sum", "--binary=false", *names, "-")[1] == " [\n  3 3 ]\n"
    assert run("matrix-sum", "--binary=false", "--average=true", *names, "-")[1] == " [\n  1 1 ]\n"
    write_object(f"{tmp_path}/x.mat", np.ones((2, 2)), "matrix")
    status, _, error = run("matrix-sum", names[0], f"{tmp_path}/x.mat", f"{tmp_path}/out")
    assert status == 1 and "x.mat: " in error and "2 × 2" in error and not (tmp_path / "out").exists()
    status, _, error = run("vector-sum", f"ark:{tmp_path}/a", "b", "ark:c")
    assert status == 1 and "ark:c" in error


def test_matrix_dim(run, tmp_path):
    write(f"ark:{tmp_path}/a", "matrix", a=np.ones((3, 2)), b=np.ones((1, 4)))
    assert run("matrix-dim", f"ark:{tmp_path}/a")[:2] == (0, "a\t3\t2\nb\t1\t4\n")
    assert run("matrix-dim", f"{tmp_path}/a:2")[:2] == (0, "3\t2\n")


# Bad input


@pytest.mark.parametrize("name", ["copy-vector", "copy-matrix", "copy-feats", "copy-int-vector", "vector-scale"])
def test_empty_broken_and_unwritable(run, tmp_path, name):
    (tmp_path / "empty").write_bytes(b"")
    status, _, error = run(name, f"ark:{tmp_path}/empty", f"ark:{tmp_path}/out")
    assert status == 1 and f"{tmp_path}/empty" in error
    (tmp_path / "broken").write_bytes(b"utt7 \0B\x04zzz")
    os.remove(tmp_path / "out")
    status, _, error = run(name, f"ark:{tmp_path}/broken", f"ark,scp:{tmp_path}/out,{tmp_path}/out.scp")
    assert status == 1 and error.count("\n") == 1 and "ERROR" in error and "key utt7, which starts at byte 0" in error
    status, _, error = run(name, f"ark:{tmp_path}/nosuch", f"ark:{tmp_path}/out")
    assert status == 1 and error.count("\n") == 1 and "nosuch: " in error and "No such file" in error
    status, _, error = run(name, f"ark:{tmp_path}/broken", f"ark:{tmp_path}/no/out")
    assert status == 1 and error.count("\n") == 1 and f"{tmp_path}/no/out: " in error
    status, _, error = run(name, f"ark:cat {tmp_path}/broken |", "--allow-pipes=true", f"ark:{tmp_path}/out")
    assert status == 1 and "Usage" in error  # options come first
    status, _, error = run(name, "--allow-pipes=false", f"ark:cat {tmp_path}/broken |", f"ark:{tmp_path}/out")
    assert status == 1 and "--allow-pipes=false" in error
    status, _, error = run(name, f"ark:{tmp_path}/broken", f"{tmp_path}/out")
    assert status == 1 and f"{tmp_path}/out" in error
    assert sorted(os.listdir(tmp_path)) == ["broken", "empty"]


def test_pipe_that_dies_midway(run, golden, tmp_path):
    for source in (f"ark:head -c 20000 {golden}/test.ark |", f"ark:cat {golden}/test.ark; exit 1 |"):
        status, _, error = run("copy-vector", source, f"ark:{tmp_path}/out")
        assert status == 1 and error.count("\n") == 1 and golden.name in error
    status, _, error = run("copy-vector", f"ark,p:head -c 20000 {golden}/test.ark |", f"ark:{tmp_path}/some")
    assert status == 0 and "WARNING" in error and len(read(f"ark:{tmp_path}/some")) == 93
    assert run("copy-vector", f"ark:{golden}/train.ark", "ark:| head -c 9 > /dev/null; exit 5")[0] == 1
    assert os.listdir(tmp_path) == ["some"]


def test_nan_passes_through_copies(run, tmp_path):
    write(f"ark:{tmp_path}/a", "vector", a=[np.nan, np.inf])
    assert run("copy-vector", f"ark:{tmp_path}/a", "ark,t:-")[:2] == (0, "a  [ nan inf ]\n")
    assert np.isnan(next(kaldiio.load_ark(f"{tmp_path}/a"))[1][0])


def test_scale_of_vectors(run, tmp_path):
    write(f"ark:{tmp_path}/v", "vector", a=np.array([1.0, 2.0]), b=np.array([3.0, 4.0]))
    assert run("copy-vector", "--scale=-0.5", f"ark:{tmp_path}/v", "ark,t:-")[1] == "a  [ -0.5 -1 ]\nb  [ -1.5 -2 ]\n"
    assert run("copy-vector", "--scale=2", "--change-dim=1", f"ark:{tmp_path}/v", "ark,t:-")[1].startswith("a  [ 2 ]")
    assert run("vector-sum", "--average=true", "--binary=false", f"ark:{tmp_path}/v", "-")[1] == " [ 2 3 ]\n"


# Files of HTK and Sphinx


def test_copy_feats_reads_htk_and_sphinx(run, tmp_path):
    features = np.random.default_rng(2).normal(size=(4, 26)).astype(np.float32)
    htk = struct.pack(">iihH", 4, 100000, 104, 0o20007) + features.astype(">f4").tobytes()
    sphinx = struct.pack("<i", features.size) + features.tobytes()
    for option, data, expected in (("htk-in", htk, features), ("sphinx-in", sphinx, features.reshape(8, 13))):
        (tmp_path / "x").write_bytes(data)
        (tmp_path / "x.scp").write_text(f"u {tmp_path}/x\n")
        assert run("copy-feats", f"--{option}", f"scp:{tmp_path}/x.scp", f"ark:{tmp_path}/out")[0] == 0
        np.testing.assert_array_equal(read(f"ark:{tmp_path}/out", "matrix")["u"], expected)
        assert run("copy-feats", f"--{option}", f"{tmp_path}/x", f"{tmp_path}/one")[0] == 0
        np.testing.assert_array_equal(read_object(f"{tmp_path}/one", "matrix"), expected)
        for damaged in (data[:-1], data[:5], b""):
            (tmp_path / "x").write_bytes(damaged)
            status, _, log = run("copy-feats", f"--{option}", f"{tmp_path}/x", f"{tmp_path}/two")
            assert status == 1 and "cut short" in log


@pytest.mark.parametrize(
    "header, words",
    [
        ((4, 1, 104, 0o2007), "compressed"),
        ((4, 1, 104, 0), "waveforms"),
        ((-1, 1, 4, 6), "size"),
        ((4, 1, 6, 6), "size"),
    ],
)
def test_htk_files_without_features_are_refused(run, tmp_path, header, words):
    (tmp_path / "x").write_bytes(struct.pack(">iihH", *header) + bytes(416))
    status, _, log = run("copy-feats", "--htk-in", f"{tmp_path}/x", f"{tmp_path}/out")
    assert status == 1 and words in log and log.count("ERROR") == 1
