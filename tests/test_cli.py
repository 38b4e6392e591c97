"""The command line as a whole: what is bad input and what is wrong usage."""

import sys

import pytest

from sdpn_k2 import cli


@pytest.mark.parametrize(
    "arguments, status, said",
    [
        (["results", "/no/such", "exp"], 1, "sdpn-k2: error: Directory '/no/such' does not exist."),
        (["extract", "model.pt", __file__, "out"], 1, f"sdpn-k2: error: Directory '{__file__}' is a file."),
        (["train", "--config", "/", "cuts", "exp"], 1, "sdpn-k2: error: File '/' is a directory."),
        (["results", "/"], 2, "Error: Missing argument 'EXP'."),
        (["vad", "--nj", "many", "data"], 2, "--nj"),
    ],
)
def test_files_that_cannot_be_used_are_bad_input_and_not_wrong_usage(monkeypatch, capsys, arguments, status, said):
    monkeypatch.setattr(sys, "argv", ["sdpn-k2", *arguments])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    errors = capsys.readouterr().err
    assert leaving.value.code == status and said in errors
    assert status == 2 or errors == f"{said}\n"
