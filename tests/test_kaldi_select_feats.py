"""select-feats: Kaldi's selections of columns."""

import numpy as np
import pytest

from sdpn_k2.kaldi import tools
from sdpn_k2.kaldi.formats.tables import TableWriter, read_table


@pytest.fixture
def select(tmp_path, monkeypatch, capfd):
    """Select columns of two utterances with 5 columns and an empty one; return the exit status, table and log."""
    monkeypatch.chdir(tmp_path)
    features = {"a": np.arange(15).reshape(3, 5), "b": np.arange(5, 10).reshape(1, 5), "none": np.empty((0, 0))}
    with TableWriter("ark,scp:in.ark,in.scp", "matrix") as writer:
        for key, matrix in features.items():
            writer.write(key, matrix)

    def run(selection):
        status = tools.run("select-feats", ["--print-args=false", selection, "scp:in.scp", "ark:out"])
        return status, dict(read_table("ark:out", "matrix")) if status == 0 else None, capfd.readouterr().err

    return run


@pytest.mark.parametrize(
    "selection, columns",
    [("0", [0]), ("1-4", [1, 2, 3, 4]), ("0,4-2,1", [0, 4, 3, 2, 1]), ("3,3", [3, 3]), ("2-2", [2])],
)
def test_columns_in_the_order_of_the_selection(select, selection, columns):
    status, selected, _ = select(selection)
    assert status == 0
    assert selected["a"].tolist() == np.arange(15).reshape(3, 5)[:, columns].tolist()
    assert selected["b"].tolist() == [[5 + column for column in columns]]
    assert selected["none"].size == 0


@pytest.mark.parametrize(
    "selection, part",
    [
        ("5", "column 5"),
        ("1-7", "column 7"),
        ("7-1", "column 7"),
        ("1-999999999999999999", "column 999999999999999999"),
    ],
)
def test_missing_columns_are_refused_by_key(select, tmp_path, selection, part):
    status, _, error = select(selection)
    assert status == 1 and error.count("\n") == 1 and "in.ark" in error and "a has 5" in error and part in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("selection", ["", "1-", "-3", "a", "0,,1", "0 1", "1:3", "1-2-3"])
def test_malformed_selections_are_refused(select, selection):
    status, _, error = select(selection)
    if selection.startswith("-"):
        assert status == 1  # an option
    else:
        assert status == 1 and error.count("\n") == 1 and f"'{selection}'" in error


def test_an_empty_table_is_not_an_error(select, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert tools.run("select-feats", ["0", f"ark:{tmp_path}/empty", f"ark:{tmp_path}/out"]) == 0
