"""The tools that estimate LDA and PCA transforms: their options, and bad input."""

import numpy as np
from vector_tools import KEYS, VECTORS, complaint, run, warnings, write_lists, write_vectors

from sdpn_k2.kaldi.formats.tables import TableWriter, read_object


def test_est_pca_of_matrices_equals_that_of_their_rows(table):
    with TableWriter("ark:matrices", "matrix") as writer:
        writer.write("a", VECTORS[:15])
        writer.write("b", VECTORS[15:])
        writer.write("c", np.zeros((2, 3), np.float32))  # of another dimension: left out
    assert run("est-pca", "--normalize-mean=true", "ark:matrices", "of_matrices") == 0
    assert run("est-pca", "--normalize-mean=true", "--read-vectors=true", "--dim=2", table, "of_vectors") == 0
    full, reduced = read_object("of_matrices", "matrix"), read_object("of_vectors", "matrix")
    assert full.shape == (5, 6) and reduced.shape == (2, 6)
    np.testing.assert_allclose(abs(full[:2]), abs(reduced), atol=1e-5)


def test_lda_ignores_a_second_vector_of_an_utterance(table, capfd):
    write_lists()
    assert run("ivector-compute-lda", "--dim=2", table, "ark:utt2spk", "once") == 0
    twice = write_vectors("twice.ark", KEYS + KEYS[5:6], [*VECTORS, VECTORS[5] + 9])
    assert run("ivector-compute-lda", "--dim=2", twice, "ark:utt2spk", "twice") == 0
    np.testing.assert_array_equal(read_object("once", "matrix"), read_object("twice", "matrix"))
    assert any(f"Duplicate iVector found for utterance {KEYS[5]}" in line for line in warnings(capfd))


def test_a_singular_covariance_is_refused_without_a_floor(capfd):
    write_lists()
    flat = write_vectors("flat.ark", KEYS, VECTORS * [1, 1, 0, 1, 1])
    assert run("ivector-compute-lda", "--dim=2", "--covariance-floor=0", flat, "ark:utt2spk", "out") == 1
    assert "singular" in complaint(capfd)
    assert run("ivector-compute-lda", "--dim=2", flat, "ark:utt2spk", "out") == 0
    assert any("Floored 1 eigenvalues" in line for line in warnings(capfd))
