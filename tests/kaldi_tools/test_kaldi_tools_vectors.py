"""The tools for tables of vectors: means, centring, length normalisation and transforms, against NumPy."""

import math
import weakref

import numpy as np
import pytest
from vector_tools import KEYS, RNG, VECTORS, complaint, run, vectors_of, warnings, write_lists, write_vectors

from sdpn_k2.kaldi.backend.plda import read_plda
from sdpn_k2.kaldi.backend.vectors import vector_batches
from sdpn_k2.kaldi.formats.tables import read_object, write_object


def test_global_mean_is_text_of_seven_digits_or_binary_double(table):
    assert run("ivector-mean", table, "mean.txt") == 0
    assert run("ivector-mean", "--binary=true", table, "mean.bin") == 0
    mean = VECTORS.mean(axis=0, dtype=float)
    with open("mean.txt") as stream:
        assert stream.read() == " [ " + "".join(f"{value:.7g} " for value in mean) + "]\n"
    with open("mean.bin", "rb") as stream:
        assert stream.read(5) == b"\0BDV "
    np.testing.assert_allclose(read_object("mean.bin", "double_vector"), mean, rtol=1e-12)


def test_speaker_means_count_an_utterance_for_every_speaker_that_lists_it(table):
    with open("lists", "w") as stream:
        stream.write(f"b {KEYS[3]} {KEYS[0]}\na {KEYS[0]}\n")
    assert run("ivector-mean", "ark:lists", table, "ark,t:means", "ark,t:counts") == 0
    keys, means = vectors_of("means")
    assert keys == ["b", "a"]
    np.testing.assert_allclose(means, [(VECTORS[0] + VECTORS[3]) / 2, VECTORS[0]], atol=1e-6)
    assert open("counts").read() == "b 2 \na 1 \n"


def test_a_speaker_without_vectors_is_left_out(table, capfd):
    with open("lists", "w") as stream:
        stream.write(f"a {KEYS[0]} gone1\nb gone2\n")
    assert run("ivector-mean", "ark:lists", table, "ark:means", "ark,t:counts") == 0
    assert vectors_of("means")[0] == ["a"]
    assert open("counts").read() == "a 1 \n"
    said = " ".join(warnings(capfd))
    assert "utterance gone1" in said and "utterance gone2" in said and "Not producing output for speaker b" in said


def test_no_speaker_with_vectors_is_a_failure(table):
    with open("lists", "w") as stream:
        stream.write("a gone\n")
    assert run("ivector-mean", "ark:lists", table, "ark:means") == 1


def test_means_are_not_written_without_their_counts(table):
    write_lists()
    assert run("ivector-mean", "ark:spk2utt", table, "ark:out", "ark:nofolder/counts") == 1
    with pytest.raises(FileNotFoundError):
        open("out")


@pytest.mark.parametrize("scaleup, length", [("true", math.sqrt(5)), ("false", 1.0)])
def test_normalize_length(table, scaleup, length):
    assert run("ivector-normalize-length", f"--scaleup={scaleup}", table, "ark:out") == 0
    keys, vectors = vectors_of("out")
    assert keys == KEYS
    expected = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True) * length
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_normalize_false_copies(table):
    assert run("ivector-normalize-length", "--normalize=false", table, "ark:out") == 0
    np.testing.assert_array_equal(vectors_of("out")[1], VECTORS)


def test_a_zero_vector_stays_zero_with_a_warning(capfd):
    assert run("ivector-normalize-length", write_vectors("in", ["a", "b"], [[0, 0], [3, 4]]), "ark:out") == 0
    np.testing.assert_allclose(vectors_of("out")[1], np.array([[0, 0], [0.6, 0.8]]) * math.sqrt(2), atol=1e-6)
    assert any("Zero iVector" in line and "key a" in line for line in warnings(capfd))


def test_subtract_global_mean(table):
    assert run("ivector-subtract-global-mean", table, "ark:own") == 0
    np.testing.assert_allclose(vectors_of("own")[1], VECTORS - VECTORS.mean(axis=0), atol=1e-6)
    assert run("ivector-subtract-global-mean", "--subtract-mean=false", table, "ark:copy") == 0
    np.testing.assert_array_equal(vectors_of("copy")[1], VECTORS)
    write_object("mean", np.arange(5.0), "vector", binary=False)
    assert run("ivector-subtract-global-mean", "mean", table, "ark:given") == 0
    np.testing.assert_allclose(vectors_of("given")[1], VECTORS - np.arange(5), atol=1e-6)


def test_only_a_table_that_can_be_read_once_is_held_to_subtract_its_mean(table, monkeypatch):
    held = []

    def record(rspecifier):
        for keys, vectors in vector_batches(rspecifier):
            batches.append(weakref.ref(vectors))
            held.append(sum(batch() is not None for batch in batches))
            yield keys, vectors

    monkeypatch.setattr("sdpn_k2.kaldi.backend.vectors.BATCH_SIZE", 2)
    monkeypatch.setattr("sdpn_k2.kaldi.tools.vectors.vector_batches", record)
    outputs, most = [], []
    for source in (table, f"ark:cat {table[len('ark:') :]} |"):
        batches = []
        held.clear()
        assert run("ivector-subtract-global-mean", source, "ark:out") == 0
        outputs.append(vectors_of("out")[1])
        most.append(max(held))
    np.testing.assert_array_equal(*outputs)
    assert most[0] <= 3 and most[1] == -(-len(KEYS) // 2)


def test_a_mean_of_another_dimension_is_refused(table, capfd):
    write_object("wrong", np.ones(4), "vector")
    assert run("ivector-subtract-global-mean", "wrong", table, "ark:out") == 1
    line = complaint(capfd)
    assert "wrong" in line and "4" in line and "5" in line


@pytest.mark.parametrize("tool", ["transform-vec", "ivector-transform"])
def test_transforms_are_linear_or_affine(table, tool):
    matrix = RNG.normal(size=(3, 6)).astype(np.float32)
    write_object("affine", matrix, "matrix")
    write_object("linear", matrix[:, :5], "matrix")
    assert run(tool, "affine", table, "ark:out") == 0
    np.testing.assert_allclose(vectors_of("out")[1], VECTORS @ matrix[:, :5].T + matrix[:, 5], atol=1e-5)
    assert run(tool, "linear", table, "ark:out") == 0
    np.testing.assert_allclose(vectors_of("out")[1], VECTORS @ matrix[:, :5].T, atol=1e-5)


@pytest.mark.parametrize("tool", ["transform-vec", "ivector-transform"])
def test_transforms_of_other_dimensions_are_refused(table, capfd, tool):
    write_object("wrong", np.eye(4), "matrix")
    assert run(tool, "wrong", table, "ark:out") == 1
    line = complaint(capfd)
    assert "wrong" in line and "4" in line and "5 or 6" in line


def test_many_batches_equal_one(monkeypatch, table):
    write_lists()
    outputs = []
    for size in (4096, 7):
        monkeypatch.setattr("sdpn_k2.kaldi.backend.vectors.BATCH_SIZE", size)
        assert run("ivector-mean", table, "mean") == 0
        assert run("ivector-mean", "ark:spk2utt", table, "ark:spk") == 0
        assert run("ivector-subtract-global-mean", table, "ark:out") == 0
        assert run("ivector-compute-lda", "--dim=3", table, "ark:utt2spk", "lda") == 0
        assert run("ivector-compute-plda", "ark:spk2utt", table, "model") == 0
        outputs.append(
            [
                read_object("mean", "double_vector"),
                vectors_of("spk")[1],
                vectors_of("out")[1],
                abs(read_object("lda", "matrix")),
                read_plda("model").psi,
            ]
        )
    for whole, pieces in zip(*outputs):
        np.testing.assert_allclose(pieces, whole, atol=2e-6)
