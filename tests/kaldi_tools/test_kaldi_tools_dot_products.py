"""ivector-compute-dot-products: against NumPy, and any layout of a trial list."""

import numpy as np
import pytest
from vector_tools import KEYS, VECTORS, parse_scores, random_trials, run, warnings, write_vectors

from sdpn_k2.kaldi.backend import trials


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


def test_at_most_a_hundred_unknown_keys_are_named(table, capfd):
    with open("trials", "w") as stream:
        stream.write(f"{KEYS[0]} {KEYS[1]}\n")
        stream.writelines(f"{KEYS[0]} nobody{i}\n" for i in range(300))
    assert run("ivector-compute-dot-products", "trials", table, table, "scores") == 0
    assert len(warnings(capfd)) == 101


def test_a_long_list_is_scored_in_blocks(table, monkeypatch):
    pairs = random_trials(1500)
    with open("trials", "w") as stream:
        stream.writelines(f"{first} {second}\n" for first, second in pairs)
    assert run("ivector-compute-dot-products", "trials", table, table, "whole") == 0
    sizes = []
    dot_products = trials.dot_products

    def record(left, left_rows, *others):
        sizes.append(len(left_rows))
        return dot_products(left, left_rows, *others)

    monkeypatch.setattr(trials, "dot_products", record)
    monkeypatch.setattr(trials, "BLOCK_BYTES", 1000)
    assert run("ivector-compute-dot-products", "trials", table, table, "scores") == 0
    assert sum(sizes) == 1500 and max(sizes) < 300
    assert open("scores").read() == open("whole").read()


def test_one_table_on_both_sides_is_read_once(table):
    with open("trials", "w") as stream:
        stream.write(f"{KEYS[0]} {KEYS[1]}\n")
    pipe = f"ark:echo read >> log; cat {table[len('ark:') :]} |"
    assert run("ivector-compute-dot-products", "trials", pipe, pipe, "scores") == 0
    assert open("log").read() == "read\n"
