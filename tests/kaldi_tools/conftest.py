"""Fixtures of the tests of Kaldi's tools for vectors, which run in a folder of their own."""

import pytest
from vector_tools import KEYS, VECTORS, write_model, write_vectors


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """The current folder of the test, empty at first."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def table(own_folder):
    """The rspecifier of an archive with VECTORS under KEYS."""
    return write_vectors("vectors.ark", KEYS, VECTORS)


@pytest.fixture
def plda(own_folder):
    """The model in the file "plda"."""
    return write_model()
