"""Compressed matrices: Kaldi's golden bytes and kaldi_native_io."""

import kaldi_native_io as native
import numpy as np
import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.compression import CompressedMatrix, compress
from sdpn_k2.kaldi.formats.tables import TableWriter, read_table

METHODS = range(1, 8)
RECORDINGS = ("chirp", "noise-short")  # 170 frames, and 3, which method 1 does not store as CM
SHAPES = [(1, 1), (1, 7), (2, 3), (3, 2), (4, 5), (5, 5), (8, 3), (9, 3), (50, 13)]


def read(path, kind="matrix"):
    return dict(read_table(f"ark:{path}", kind))


def differing_bytes(first, second):
    return np.mean(np.frombuffer(first, np.uint8) != np.frombuffer(second, np.uint8))


@pytest.fixture(scope="module")
def kaldis(golden):
    """Features, Kaldi's archives of them (bytes) and the floats that Kaldi expanded them to."""
    return np.load(golden / "compressed_matrices.npz")


@pytest.mark.parametrize("method", METHODS)
def test_golden_reading(kaldis, method, tmp_path):
    (tmp_path / "kaldis").write_bytes(kaldis[f"cm{method}.ark"])
    ours = read(tmp_path / "kaldis")
    assert tuple(ours) == RECORDINGS
    assert all(np.array_equal(ours[key], kaldis[f"cm{method}.float/{key}"]) for key in ours)


@pytest.mark.parametrize("method", METHODS)
def test_golden_writing(kaldis, method, tmp_path):
    with TableWriter(f"ark:{tmp_path}/ours", "matrix", compression_method=method) as writer:
        for key in RECORDINGS:
            writer.write(key, kaldis[f"mfcc30/{key}"])
    ours, expected = (tmp_path / "ours").read_bytes(), kaldis[f"cm{method}.ark"].tobytes()
    assert len(ours) == len(expected)
    assert differing_bytes(ours, expected) <= 0.005


def random_matrix(shape, method, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=shape) * 3
    scaled = {4: matrix * 10000, 6: matrix * 40 + 100, 7: matrix / 5 + 0.5}.get(method, matrix)
    return scaled.astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_native_writes_the_same_and_reads_ours(tmp_path, method):
    matrices = {f"m{i}": random_matrix(shape, method, i) for i, shape in enumerate(SHAPES)}
    matrices["constant"] = np.full((12, 4), 2.5, np.float32)
    matrices["columns"] = np.repeat(np.arange(4, dtype=np.float32)[None], 12, axis=0)
    with native.CompressedMatrixWriter(f"ark:{tmp_path}/theirs") as writer:
        for key, matrix in matrices.items():
            writer.write(key, matrix, native.CompressionMethod(method))
    with TableWriter(f"ark:{tmp_path}/ours", "general_matrix") as writer:
        for key, matrix in matrices.items():
            writer.write(key, compress(matrix, method))
    ours, theirs = (tmp_path / "ours").read_bytes(), (tmp_path / "theirs").read_bytes()
    assert len(ours) == len(theirs) and differing_bytes(ours, theirs) <= 0.005
    expanded = read(tmp_path / "ours")
    with native.SequentialFloatMatrixReader(f"ark:{tmp_path}/ours") as reader:
        for key, matrix in reader:
            assert np.allclose(expanded[key], np.array(matrix), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method, levels", [(1, 64), (2, 64), (3, 65535), (5, 255)])
def test_error_is_within_a_step(method, levels):
    for i, shape in enumerate(SHAPES):
        matrix = random_matrix(shape, method, 100 + i)
        error = np.abs(compress(matrix, method).to_array() - matrix).max()
        assert error <= 1.001 * max(np.ptp(matrix) / levels, 1 + abs(matrix.min()) if matrix.size == 1 else 0)


def test_integers_survive_the_integer_methods():
    samples = np.arange(-32768, 32768, 7, dtype=np.float32).reshape(-1, 1)
    assert np.array_equal(compress(samples, 4).to_array(), samples)
    levels = np.arange(256, dtype=np.float32).reshape(2, 128)
    assert np.array_equal(compress(levels, 6).to_array(), levels)


def test_compressed_stays_compressed(kaldis, tmp_path):
    (tmp_path / "kaldis").write_bytes(kaldis["cm1.ark"])
    matrices = read(tmp_path / "kaldis", "general_matrix")
    assert [matrix.format for matrix in matrices.values()] == ["CM", "CM2"]
    assert all(isinstance(matrix, CompressedMatrix) for matrix in matrices.values())
    assert all(np.array_equal(matrices[key].to_array(), matrix) for key, matrix in read(tmp_path / "kaldis").items())


def test_text_output_is_expanded(tmp_path):
    matrix = compress(np.array([[0.0, 1.0], [2.0, 3.0]]), 5)
    with TableWriter(f"ark,t:{tmp_path}/a", "general_matrix") as writer:
        writer.write("a", matrix)
    assert np.allclose(read(tmp_path / "a")["a"], matrix.to_array())


def test_empty_matrix(tmp_path):
    with TableWriter(f"ark:{tmp_path}/a", "matrix", compression_method=2) as writer:
        writer.write("a", np.empty((0, 0)))
        writer.write("b", np.ones((9, 1)))
    assert read(tmp_path / "a")["a"].shape == (0, 0) and read(tmp_path / "a")["b"].shape == (9, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_numbers_are_refused(method, bad):
    matrix = np.ones((10, 2), np.float32)
    matrix[3, 1] = bad
    with pytest.raises(InputError, match="NaN"):
        compress(matrix, method)


def test_ranges_beyond_float_are_refused():
    with pytest.raises(InputError, match=r"-3e\+38 .*3e\+38"):
        compress(np.array([[-3e38], [3e38]]), 5)


def test_unknown_method():
    with pytest.raises(InputError, match="8 .*1 to 7"):
        compress(np.ones((2, 2)), 8)
