"""The tools around embeddings: their options against NumPy, and what they do with bad input."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdpn_k2.kaldi import tools
from sdpn_k2.kaldi.backend import trials
from sdpn_k2.kaldi.backend.eer import kaldi_eer
from sdpn_k2.kaldi.backend.plda import Plda, read_plda, write_plda
from sdpn_k2.kaldi.formats.tables import TableWriter, read_object, read_table, write_object


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*command):
    return tools.run(command[0], [str(word) for word in command[1:]])


def write_vectors(name, keys, vectors):
    with TableWriter(f"ark:{name}", "vector") as writer:
        for key, vector in zip(keys, vectors):
            writer.write(key, np.asarray(vector, np.float32))
    return f"ark:{name}"


def vectors_of(name):
    table = list(read_table(f"ark:{name}", "vector"))
    return [key for key, _ in table], np.array([vector for _, vector in table])


def complaint(capfd):
    """The one ERROR line of the last tool; nothing of Python's may be there."""
    stderr = capfd.readouterr().err
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("ERROR")]
    return line


def warnings(capfd):
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("WARNING")]


RNG = np.random.default_rng(0)
KEYS = [f"spk{i // 4}-utt{i}" for i in range(40)]
VECTORS = (RNG.normal(size=(10, 5)).repeat(4, axis=0) * 2 + RNG.normal(size=(40, 5)) + 1.0).astype(np.float32)


@pytest.fixture
def table():
    return write_vectors("vectors.ark", KEYS, VECTORS)


@pytest.fixture
def plda():
    model = Plda.from_covariances(VECTORS.mean(axis=0), np.eye(5) + 0.2, np.diag([3.0, 2.0, 1.0, 0.5, 0.2]))
    write_plda("plda", model)
    return model


def write_lists():
    with open("spk2utt", "w") as spk2utt, open("utt2spk", "w") as utt2spk:
        for speaker in range(10):
            print(f"spk{speaker}", *KEYS[4 * speaker : 4 * speaker + 4], file=spk2utt)
        for key in KEYS:
            print(key, key.split("-")[0], file=utt2spk)


# Means, centring, normalisation, transforms


def test_global_mean_is_text_of_seven_digits_or_binary_double(table):
    assert run("ivector-mean", table, "mean.txt") == 0
    assert run("ivector-mean", "--binary=true", table, "mean.bin") == 0
    mean = VECTORS.mean(axis=0, dtype=float)
    with open("mean.txt") as stream:
        assert stream.read() == " [ " + "".join(f"{value:.7g} " for value in mean) + "]\n"
    with open("mean.bin", "rb") as stream:
        assert stream.read(5) == b"\0BDV "
    np.testing.assert_allclose(read_object("mean.bin", "double_vector"), mean, rtol=1e-12)


def test_speaker_means_count_an_utterance_for_everybody_who_lists_it(table):
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


@pytest.mark.parametrize("tool", ["transform-vec", "ivector-transform"])
def test_transforms_are_linear_or_affine(table, tool):
    matrix = RNG.normal(size=(3, 6)).astype(np.float32)
    write_object("affine", matrix, "matrix")
    write_object("linear", matrix[:, :5], "matrix")
    assert run(tool, "affine", table, "ark:out") == 0
    np.testing.assert_allclose(vectors_of("out")[1], VECTORS @ matrix[:, :5].T + matrix[:, 5], atol=1e-5)
    assert run(tool, "linear", table, "ark:out") == 0
    np.testing.assert_allclose(vectors_of("out")[1], VECTORS @ matrix[:, :5].T, atol=1e-5)


def test_many_batches_are_as_one(monkeypatch, table):
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


# Scoring of trials


def parse_scores(name):
    lines = [line.split() for line in open(name, encoding="utf-8").read().splitlines()]
    return [(first, second) for first, second, _ in lines], np.array([float(score) for *_, score in lines])


def random_trials(count):
    return [(KEYS[i], KEYS[j]) for i, j in RNG.integers(0, len(KEYS), (count, 2))]


@pytest.mark.parametrize("several", [False, True])
def test_plda_scores_of_a_list_are_those_of_the_model(table, plda, several, monkeypatch):
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


def test_dot_products(table):
    pairs = random_trials(1500)
    with open("trials", "w") as stream:
        stream.writelines(f"{first} {second}\n" for first, second in pairs)
    assert run("ivector-compute-dot-products", "trials", table, table, "scores") == 0
    keys, scores = parse_scores("scores")
    assert keys == pairs
    products = VECTORS.astype(float) @ VECTORS.T.astype(float)
    expected = [products[KEYS.index(first), KEYS.index(second)] for first, second in pairs]
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6)


def test_scores_have_seven_digits_as_c_plus_plus_prints_them():
    vectors = [[1.0], [1e-5], [123456.789], [1234567890.0], [-0.5], [0.0]]
    rspecifier = write_vectors("v", "abcdef", vectors)
    with open("trials", "w") as stream:
        stream.writelines(f"a {key}\n" for key in "abcdef")
    assert run("ivector-compute-dot-products", "trials", rspecifier, rspecifier, "scores") == 0
    printed = [line.split()[2] for line in open("scores")]
    assert printed == ["1", "1e-05", "123456.8", "1.234568e+09", "-0.5", "0"]


@pytest.mark.parametrize(
    "text",
    [
        "àb é\nx àb\n",  # in UTF-8 à holds a byte that is a blank in Latin-1
        "àb\té\r\n  x  àb  \r\n",
        "àb é\nx àb",
    ],
)
def test_any_layout_and_alphabet_of_a_trial_list(text):
    rspecifier = write_vectors("v", ["àb", "é", "x"], [[1.0], [2.0], [3.0]])
    with open("trials", "w", encoding="utf-8", newline="") as stream:
        stream.write(text)
    assert run("ivector-compute-dot-products", "trials", rspecifier, rspecifier, "scores") == 0
    assert open("scores", encoding="utf-8").read() == "àb é 2\nx àb 3\n"


def test_trials_with_unknown_keys_are_dropped_with_a_warning(table, plda, capfd):
    with open("trials", "w") as stream:
        stream.write(f"{KEYS[0]} {KEYS[1]}\nnobody {KEYS[1]}\nnobody {KEYS[2]}\n{KEYS[0]} nowhere\n")
    assert run("ivector-plda-scoring", "plda", table, table, "trials", "scores") == 0
    assert parse_scores("scores")[0] == [(KEYS[0], KEYS[1])]
    captured = capfd.readouterr().err
    assert "Key nobody not present in training iVectors." in captured
    assert "Key nowhere not present in test iVectors." in captured
    assert "Processed 1 trials, 3 had errors." in captured


def test_unknown_keys_are_named_a_hundred_at_most(table, capfd):
    with open("trials", "w") as stream:
        stream.write(f"{KEYS[0]} {KEYS[1]}\n")
        stream.writelines(f"{KEYS[0]} nobody{i}\n" for i in range(300))
    assert run("ivector-compute-dot-products", "trials", table, table, "scores") == 0
    assert len(warnings(capfd)) == 101


@pytest.mark.parametrize("tool", ["ivector-plda-scoring", "ivector-compute-dot-products"])
def test_no_trial_left_is_a_failure(table, plda, capfd, tool):
    with open("trials", "w") as stream:
        stream.write("nobody nowhere\n")
    arguments = ["plda", table, table, "trials"] if tool == "ivector-plda-scoring" else ["trials", table, table]
    assert run(tool, *arguments, "scores") == 1
    assert "all 1 trials have unknown keys" in complaint(capfd)
    with pytest.raises(FileNotFoundError):
        open("scores")


@pytest.mark.parametrize(
    "text, where",
    [
        ("{0} {1}\n{0}\n", ":2:"),
        ("{0} {1} target\n", ":1:"),
        ("{0} {1}\n\n{0} {1}\n", ":2:"),
        ("{0}\n{0} {1} {1}\n", ":1:"),
        ("", "no trials"),
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
    assert f"{KEYS[0]} has 0 utterances" in complaint(capfd)


# Bad vectors, models and lists

VECTOR_TOOLS = {
    "ivector-mean": ["{table}", "out"],
    "ivector-mean by speaker": ["ark:spk2utt", "{table}", "ark:out"],
    "ivector-normalize-length": ["{table}", "ark:out"],
    "ivector-subtract-global-mean": ["{table}", "ark:out"],
    "transform-vec": ["matrix", "{table}", "ark:out"],
    "ivector-transform": ["matrix", "{table}", "ark:out"],
    "ivector-compute-lda": ["--dim=2", "{table}", "ark:utt2spk", "out"],
    "ivector-compute-plda": ["ark:spk2utt", "{table}", "out"],
    "ivector-adapt-plda": ["plda", "{table}", "out"],
    "ivector-plda-scoring": ["plda", "{table}", "{table}", "trials", "out"],
    "ivector-plda-scoring-dense": ["plda", "ark:spk2utt", "{table}", "ark:out"],
    "ivector-compute-dot-products": ["trials", "{table}", "{table}", "out"],
    "est-pca": ["--read-vectors=true", "{table}", "out"],
}


def run_on(tool, rspecifier):
    write_lists()
    write_object("matrix", np.eye(5), "matrix")
    with open("trials", "w") as stream:
        stream.write(f"{KEYS[0]} {KEYS[1]}\n")
    return run(tool.split()[0], *[word.format(table=rspecifier) for word in VECTOR_TOOLS[tool]])


@pytest.mark.parametrize("tool", VECTOR_TOOLS)
def test_the_same_calls_succeed_on_good_input(table, plda, tool):
    assert run_on(tool, table) == 0
    assert open("out", "rb").read()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tool", VECTOR_TOOLS)
def test_nan_and_infinite_vectors_are_refused_by_name(plda, capfd, tool, bad):
    vectors = VECTORS.copy()
    vectors[17, 3] = bad
    assert run_on(tool, write_vectors("vectors.ark", KEYS, vectors)) == 1
    line = complaint(capfd)
    assert KEYS[17] in line and "NaN" in line
    with pytest.raises(FileNotFoundError):
        open("out")


@pytest.mark.parametrize("tool", VECTOR_TOOLS)
def test_mixed_dimensions_are_refused_by_name(plda, capfd, tool):
    vectors = list(VECTORS)
    vectors[17] = vectors[17][:4]
    assert run_on(tool, write_vectors("vectors.ark", KEYS, vectors)) == 1
    assert KEYS[17] in complaint(capfd)
    with pytest.raises(FileNotFoundError):
        open("out")


@pytest.mark.parametrize("tool", VECTOR_TOOLS)
def test_an_empty_table_is_a_failure(plda, capfd, tool):
    open("vectors.ark", "w").close()
    assert run_on(tool, "ark:vectors.ark") == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "vectors.ark" in said


@pytest.mark.parametrize("tool", sorted(set(VECTOR_TOOLS) - {"ivector-plda-scoring-dense"}))
def test_the_option_p_skips_bad_vectors(plda, capfd, tool):
    vectors = list(VECTORS.copy())
    vectors[17] = vectors[17][:4]
    vectors[18][0] = np.nan
    write_vectors("vectors.ark", KEYS, vectors)
    assert run_on(tool, "ark,p:vectors.ark") == 0
    said = " ".join(warnings(capfd))
    assert KEYS[17] in said and KEYS[18] in said
    assert open("out", "rb").read()


@pytest.mark.parametrize(
    "tool",
    [
        "ivector-mean by speaker",
        "ivector-compute-plda",
        "ivector-plda-scoring",
        "ivector-plda-scoring-dense",
        "ivector-compute-dot-products",
    ],
)
def test_duplicate_keys_are_refused_where_keys_are_looked_up(plda, capfd, tool):
    assert run_on(tool, write_vectors("vectors.ark", KEYS + KEYS[5:6], [*VECTORS, VECTORS[5]])) == 1
    assert KEYS[5] in complaint(capfd)


def test_lda_ignores_a_second_vector_of_an_utterance(table, capfd):
    write_lists()
    assert run("ivector-compute-lda", "--dim=2", table, "ark:utt2spk", "once") == 0
    twice = write_vectors("twice.ark", KEYS + KEYS[5:6], [*VECTORS, VECTORS[5] + 9])
    assert run("ivector-compute-lda", "--dim=2", twice, "ark:utt2spk", "twice") == 0
    np.testing.assert_array_equal(read_object("once", "matrix"), read_object("twice", "matrix"))
    assert any(f"Duplicate iVector found for utterance {KEYS[5]}" in line for line in warnings(capfd))


def test_utterances_that_nobody_lists_do_not_count(table, capfd):
    write_lists()
    more = write_vectors("more.ark", ["other", *KEYS], [VECTORS[0] + 9, *VECTORS])
    assert run("ivector-compute-lda", "--dim=2", table, "ark:utt2spk", "lda") == 0
    assert run("ivector-compute-lda", "--dim=2", more, "ark:utt2spk", "lda_more") == 0
    assert any("no entry for utterance other" in line for line in warnings(capfd))
    np.testing.assert_array_equal(read_object("lda", "matrix"), read_object("lda_more", "matrix"))
    assert run("ivector-compute-plda", "ark:spk2utt", table, "plda1") == 0
    assert run("ivector-compute-plda", "ark:spk2utt", more, "plda2") == 0
    np.testing.assert_array_equal(read_plda("plda1").transform, read_plda("plda2").transform)


@pytest.mark.parametrize(
    "tool, complaint_",
    [
        ("transform-vec", "5 or 6 columns"),
        ("ivector-transform", "5 or 6 columns"),
    ],
)
def test_transforms_of_other_dimensions_are_refused(table, capfd, tool, complaint_):
    write_object("wrong", np.eye(4), "matrix")
    assert run(tool, "wrong", table, "ark:out") == 1
    line = complaint(capfd)
    assert "wrong" in line and complaint_ in line


def test_a_mean_of_another_dimension_is_refused(table, capfd):
    write_object("wrong", np.ones(4), "vector")
    assert run("ivector-subtract-global-mean", "wrong", table, "ark:out") == 1
    assert "a mean of 4 dimensions for vectors of 5" in complaint(capfd)


@pytest.mark.parametrize("tool", ["ivector-plda-scoring", "ivector-plda-scoring-dense", "ivector-adapt-plda"])
def test_a_plda_of_another_dimension_is_refused(table, capfd, tool):
    write_plda("plda", Plda(np.zeros(4), np.eye(4), np.ones(4)))
    assert run_on(tool, table) == 1
    assert "a PLDA of 4 dimensions for vectors of 5" in complaint(capfd)


@pytest.mark.parametrize(
    "content, complaint_",
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
def test_broken_plda_files_are_refused(table, capfd, content, complaint_):
    with open("plda", "wb") as stream:
        stream.write(content)
    assert run("ivector-copy-plda", "plda", "copy") == 1
    line = complaint(capfd)
    assert "plda" in line and complaint_ in line
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
    assert "more vectors than dimensions: 5 of 5" in complaint(capfd)
    single = write_vectors("single.ark", KEYS[::4], VECTORS[::4])
    assert run("ivector-compute-plda", "ark:spk2utt", single, "out") == 1
    assert "two utterances" in complaint(capfd)
    with pytest.raises(FileNotFoundError):
        open("out")


def test_a_speaker_line_without_utterances_is_refused(table, capfd):
    with open("lists", "w") as stream:
        stream.write("spk0\n")
    for command in (
        ["ivector-compute-plda", "ark:lists", table, "out"],
        ["ivector-mean", "ark:lists", table, "ark:out"],
    ):
        assert run(*command) == 1
        assert "the speaker spk0 has no utterances" in complaint(capfd)


def test_a_singular_covariance_is_refused_without_a_floor(capfd):
    write_lists()
    flat = write_vectors("flat.ark", KEYS, VECTORS * [1, 1, 0, 1, 1])
    assert run("ivector-compute-lda", "--dim=2", "--covariance-floor=0", flat, "ark:utt2spk", "out") == 1
    assert "singular" in complaint(capfd)
    assert run("ivector-compute-lda", "--dim=2", flat, "ark:utt2spk", "out") == 0
    assert any("Floored 1 eigenvalues" in line for line in warnings(capfd))


def test_a_failing_command_in_a_pipe_is_a_failure(plda, capfd):
    assert run("ivector-mean", "ark:cat nosuchfile |", "mean") == 1
    assert "nosuchfile" in complaint(capfd)
    table = write_vectors("vectors.ark", KEYS, VECTORS)
    with open("trials", "w") as stream:
        stream.write(f"{KEYS[0]} {KEYS[1]}\n")
    assert run("ivector-plda-scoring", "plda", table, table, "cat trials; false |", "scores") == 1
    assert "exit status 1" in complaint(capfd)
    with pytest.raises(FileNotFoundError):
        open("scores")


@pytest.mark.parametrize("tool", VECTOR_TOOLS)
def test_an_output_that_cannot_be_written_is_named(table, plda, capfd, tool, monkeypatch):
    monkeypatch.setitem(VECTOR_TOOLS, tool, [word.replace("out", "nofolder/out") for word in VECTOR_TOOLS[tool]])
    assert run_on(tool, table) == 1
    assert "nofolder/out" in complaint(capfd)


def test_means_are_not_written_without_their_counts(table):
    write_lists()
    assert run("ivector-mean", "ark:spk2utt", table, "ark:out", "ark:nofolder/counts") == 1
    with pytest.raises(FileNotFoundError):
        open("out")


# Clustering and dense scoring


def test_dense_scoring_needs_every_segment(table, plda, capfd):
    with open("reco2utt", "w") as stream:
        stream.write(f"reco {KEYS[0]} nobody\n")
    assert run("ivector-plda-scoring-dense", "plda", "ark:reco2utt", table, "ark:out") == 1
    assert "nobody" in complaint(capfd)
    assert run("ivector-plda-scoring-dense", "--target-energy=1.5", "plda", "ark:reco2utt", table, "ark:out") == 1
    assert "--target-energy" in complaint(capfd)


def test_dense_scoring_takes_recordings_of_any_size(table, plda, capfd):
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


def test_costs_are_scores_with_the_sign_changed():
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


@pytest.mark.parametrize(
    "matrix, reco2utt, where",
    [
        (np.zeros((2, 2)), "other a b\n", "no entry for r"),
        (np.zeros((2, 2)), "r a b c\n", "3 utterances"),
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


# Equal error rate


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
        ("1 target\n", "no nontarget scores"),
        ("", "no target scores"),
        ("nan target\n1 nontarget\n", "NaN"),
    ],
)
def test_compute_eer_refuses_bad_lines(capfd, text, where):
    with open("scores", "w") as stream:
        stream.write(text)
    assert run("compute-eer", "scores") == 1
    assert where in complaint(capfd)


# The scripts that join scores and labels


def script(name, *arguments):
    root = Path(__file__).resolve().parent.parent
    return subprocess.run([sys.executable, root / name, *arguments], capture_output=True, text=True)


def write_scored_trials():
    with open("trials", "w") as labelled, open("scores", "w") as scores:
        labelled.write("a b target\nb\tc nontarget\nab c target\na bc nontarget\n")
        scores.write("a bc -1.5\nab c 0.25\na b 1e2\n")


def test_prepare_for_eer_takes_the_scores_in_their_order():
    write_scored_trials()
    result = script("local/prepare_for_eer.py", "trials", "scores")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "-1.5 nontarget\n0.25 target\n1e2 target\n"


def test_compute_min_dcf_says_where_the_minimum_lies():
    write_scored_trials()
    result = script("sid/compute_min_dcf.py", "--p-target", "0.5", "--c-fa", "2", "scores", "trials")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "0.0000\n"
    assert "minDCF is 0.0000 at threshold -1.5000 (p-target=0.5, c-miss=1, c-fa=2)" in result.stderr


@pytest.mark.parametrize("name", ["local/prepare_for_eer.py", "sid/compute_min_dcf.py"])
@pytest.mark.parametrize(
    "trial, score, where",
    [
        ("a b target", "a c 1", "'a c'"),
        ("a b imposter", "a b 1", "trials:1:"),
        ("a b", "a b 1", "trials:1:"),
        ("a b target", "a b", "scores:1:"),
    ],
)
def test_scripts_refuse_what_does_not_fit(name, trial, score, where):
    Path("trials").write_text(trial + "\n")
    Path("scores").write_text(score + "\n")
    files = ["trials", "scores"] if "eer" in name else ["scores", "trials"]
    result = script(name, *files)
    assert result.returncode == 1
    assert where in result.stderr and "Traceback" not in result.stderr


def test_compute_min_dcf_refuses_impossible_costs_and_scores():
    write_scored_trials()
    for arguments in (["--p-target", "0"], ["--c-miss", "0"], ["--c-fa", "nan"], ["--nosuch"], ["--p-target", "x"]):
        result = script("sid/compute_min_dcf.py", *arguments, "scores", "trials")
        assert (result.returncode, len(result.stderr.splitlines())) == (1, 1) and arguments[0] in result.stderr
    Path("scores").write_text("a b much\n")
    result = script("sid/compute_min_dcf.py", "scores", "trials")
    assert result.returncode == 1 and "'much'" in result.stderr
    Path("scores").write_text("a b 1\n")
    result = script("sid/compute_min_dcf.py", "scores", "trials")
    assert result.returncode == 1 and "targets" in result.stderr
