"""Vectors for the tests of the tools that work on them, and short ways to run these tools in the current folder."""

import numpy as np

from sdpn_k2.kaldi import tools
from sdpn_k2.kaldi.backend.plda import Plda, write_plda
from sdpn_k2.kaldi.formats.tables import TableWriter, read_table

RNG = np.random.default_rng(0)
KEYS = [f"spk{i // 4}-utt{i}" for i in range(40)]
VECTORS = (RNG.normal(size=(10, 5)).repeat(4, axis=0) * 2 + RNG.normal(size=(40, 5)) + 1.0).astype(np.float32)


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


def write_lists():
    with open("spk2utt", "w") as spk2utt, open("utt2spk", "w") as utt2spk:
        for speaker in range(10):
            print(f"spk{speaker}", *KEYS[4 * speaker : 4 * speaker + 4], file=spk2utt)
        for key in KEYS:
            print(key, key.split("-")[0], file=utt2spk)


def write_model():
    """Write a PLDA model of the dimension of VECTORS as "plda"."""
    model = Plda.from_covariances(VECTORS.mean(axis=0), np.eye(5) + 0.2, np.diag([3.0, 2.0, 1.0, 0.5, 0.2]))
    write_plda("plda", model)
    return model


def complaint(capfd):
    """Return the one ERROR line of the last tool, which must not print a traceback."""
    stderr = capfd.readouterr().err
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("ERROR")]
    return line


def warnings(capfd):
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("WARNING")]


def random_trials(count):
    return [(KEYS[i], KEYS[j]) for i, j in RNG.integers(0, len(KEYS), (count, 2))]


def parse_scores(name):
    lines = [line.split() for line in open(name, encoding="utf-8").read().splitlines()]
    return [(first, second) for first, second, _ in lines], np.array([float(score) for *_, score in lines])
