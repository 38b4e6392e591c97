"""The command line of the drop-in tools: options, help, log lines, exit status, start-up."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi import tools
from sdpn_k2.kaldi.formats.io import ReaderGone
from sdpn_k2.kaldi.formats.log import log, vlog, warn
from sdpn_k2.kaldi.tools.command_line import STANDARD_OPTIONS, Option, parse, tool

BIN = Path(__file__).resolve().parents[1] / "utils" / "kaldi-bin"
DECLARED = [
    Option("num-bins", 23, "bins"),
    Option("scale", 1.0, "factor"),
    Option("use-energy", True, "energy"),
    Option("window", "povey", "window"),
    *STANDARD_OPTIONS,
]


def parsed(*argv):
    return parse(DECLARED, argv)


def test_values_have_the_type_of_the_default():
    options, positional = parsed(
        "--num-bins=40", "--scale=1e-3", "--use-energy=false", "--window= hamming ", "ark:a", "ark:b"
    )
    assert (options.num_bins, options.scale, options.use_energy, options.window) == (40, 1e-3, False, "hamming")
    assert positional == ["ark:a", "ark:b"]
    assert parsed()[0].num_bins == 23
    assert parsed("--scale=-inf")[0].scale == float("-inf")
    assert parsed("--window=")[0].window == ""


def test_names_ignore_case_and_underscores():
    assert parsed("--num_bins=3")[0].num_bins == 3
    assert parsed("--Use-Energy=F")[0].use_energy is False


@pytest.mark.parametrize(
    "text, value",
    [
        ("", True),
        ("=", True),
        ("=true", True),
        ("=T", True),
        ("=1", True),
        ("=false", False),
        ("=f", False),
        ("=0", False),
    ],
)
def test_bools(text, value):
    assert parsed("--use-energy" + text)[0].use_energy is value


def test_options_end_at_the_first_argument_or_two_dashes():
    assert parsed("a", "--num-bins=3")[1] == ["a", "--num-bins=3"]
    assert parsed("--num-bins=4", "--", "--b", "--")[1] == ["--b", "--"]
    assert parsed("-", "--", "x")[1] == ["-", "x"]


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--num-bin=3", "--num-bins"),
        ("--xyz", "--help"),
        ("--num-bins=3.5", "integer"),
        ("--num-bins", "--num-bins=<value>"),
        ("--scale=x", "number"),
        ("--scale=1_0", "number"),
        ("--scale=nan", "number"),
        ("--num-bins=2147483648", "32"),
        ("--use-energy=yes", "true"),
        ("--scale=", "number"),
    ],
)
def test_wrong_options_are_refused(argument, message):
    with pytest.raises(InputError, match=f"Invalid option {re.escape(argument)}.*{message}"):
        parsed(argument)


def test_config_files(tmp_path):
    config = tmp_path / "fbank.conf"
    config.write_text("# the front end\n--num-bins=30  # bins\n\n--use-energy\n  --window=hamming\n")
    options, _ = parsed("--num-bins=80", f"--config={config}", "a")
    assert (options.num_bins, options.window) == (80, "hamming")  # the command line wins, whatever the order
    (tmp_path / "second.conf").write_text("--window=blackman\n")
    assert parsed(f"--config={config}", f"--config={tmp_path}/second.conf")[0].window == "blackman"
    for text, message in (
        ("num-bins=3\n", "line 1: .*'num-bins=3'"),
        ("\n--nom-bins=3\n", "line 2: .*--num-bins"),
        ("--num-bins=x", "line 1: .*--num-bins=x"),
    ):
        config.write_text(text)
        with pytest.raises(InputError, match=message):
            parsed(f"--config={config}")
    with pytest.raises(InputError, match="nosuch"):
        parsed(f"--config={tmp_path}/nosuch")


@tool(options=[Option("loud", False, "Say more")], arguments=(1, 2))
def make_things(options, count, *more):
    """Make things.

    Usage: make-things [options] <n> [<more>]
    """
    if count == "bad":
        raise InputError("the count\nis bad")
    if count == "pipe":
        raise BrokenPipeError
    if count == "head":
        raise ReaderGone("standard output")
    if count == "disk":
        raise OSError(28, "No space left on device", "a.ark")
    vlog(1, "chatter")
    if options.loud:
        warn("careful")
    log(f"Made {count} things.")
    return int(count)


def test_log_lines_have_kaldis_shape(capfd):
    assert make_things(["--loud", "--verbose=1", "3", "it's $here"]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "make-things --loud --verbose=1 3 'it'\\''s $here' "
    assert re.fullmatch(
        r"VLOG\[1\] \(make-things\[sdpn_k2\]:main\(\):test_kaldi_command_line.py:\d+\) chatter", lines[1]
    )
    assert re.fullmatch(r"WARNING \(make-things\[sdpn_k2\]:main\(\):test_kaldi_command_line.py:\d+\) careful", lines[2])
    assert re.fullmatch(
        r"LOG \(make-things\[sdpn_k2\]:main\(\):test_kaldi_command_line.py:\d+\) Made 3 things.", lines[3]
    )
    assert make_things(["--print-args=false", "3"]) == 0
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_exit_status(capfd):
    assert make_things(["0"]) == 1
    capfd.readouterr()
    for word in ("pipe", "head"):  # the reader has closed the pipe: 128 + SIGPIPE, without an error
        assert make_things(["--print-args=false", word]) == 141
        assert capfd.readouterr().err == ""
    for arguments, message in (
        (["bad"], "the count is bad"),
        (["disk"], "a.ark: No space left on device"),
        (["--lout", "1"], "did you mean --loud"),
    ):
        capfd.readouterr()
        assert make_things(["--print-args=false", *arguments]) == 1
        assert re.fullmatch(
            rf"ERROR \(make-things\[sdpn_k2\]:\S+\(\):\S+:\d+\) .*{message}.*\n", capfd.readouterr().err
        )
    for arguments in ([], ["1", "2", "3"]):
        assert make_things(arguments) == 1
        assert "Usage: make-things" in capfd.readouterr().err


def test_help(capfd):
    assert make_things(["--nonsense", "--help"]) == 0
    text = capfd.readouterr().err
    assert "Usage: make-things" in text
    assert "  --loud                      : Say more (bool, default = false)\n" in text
    assert "Standard options:\n  --allow-pipes" in text


# The executables


def test_every_tool_has_an_executable():
    assert sorted(os.listdir(BIN)) == tools.names()
    assert all(os.access(BIN / name, os.X_OK) for name in tools.names())
    with pytest.raises(InputError, match="'copy-vectors'"):
        tools.run("copy-vectors", [])


@pytest.mark.parametrize("name", tools.names())
def test_every_tool_explains_itself(name, capfd):
    assert tools.run(name, ["--help"]) == 0
    text = capfd.readouterr().err
    assert re.search(rf"Usage:\s+{name} ", text)
    assert tools.get(name).name == name
    assert tools.run(name, ["--no-such-option"]) == 1


@pytest.mark.parametrize("module", sorted(set(tools.MODULE_OF.values())))
def test_tools_share_only_the_command_line(module):
    source = (Path(tools.__file__).parent / f"{module}.py").read_text()
    assert set(re.findall(r"sdpn_k2\.kaldi\.tools\.(\w+)", source)) == {"command_line"}


@pytest.mark.parametrize("module", sorted(set(tools.MODULE_OF.values())))
def test_tools_import_nothing_heavy(module):
    code = (
        f"import sys, sdpn_k2.kaldi.tools.{module}\n"
        "heavy = {'torch', 'scipy', 'lhotse', 'soundfile', 'kaldiio', 'click'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_temporary_file(tmp_path, number):
    command = ["python3", BIN / "copy-vector", "ark:echo 'a [ 1 ]'; sleep 60 |", "ark:out"]
    # Under nohup, tests inherit that SIGHUP is ignored, and the tool would keep it so.
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)
    )
    while not os.listdir(tmp_path):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.2)  # the file appears a moment before the tool knows its name
    process.send_signal(number)
    assert process.wait(timeout=20) == 128 + number and os.listdir(tmp_path) == []
    assert b"Traceback" not in process.stderr.read()


def test_executable_runs_from_anywhere(golden, tmp_path):
    environment = {**os.environ, "PATH": f"{BIN}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"copy-vector scp:test.scp ark:- | copy-vector ark:- ark,t:{tmp_path}/out"],
        cwd=golden,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    assert result.stderr.count("Copied 240 vectors.") == 2
    assert (tmp_path / "out").read_bytes() == (golden / "test.text.ark").read_bytes()
    for unbuffered in ("", "1"):
        environment["PYTHONUNBUFFERED"] = unbuffered
        result = subprocess.run(
            ["bash", "-c", "copy-vector scp:train.scp ark:- | head -c 10; exit ${PIPESTATUS[0]}"],
            cwd=golden,
            env=environment,
            capture_output=True,
        )
        assert result.returncode == 141
        assert result.stderr == b"copy-vector scp:train.scp ark:- \n"
        result = subprocess.run(
            ["bash", "-c", "copy-vector scp:train.scp ark:- | (sleep 0.2; cat)"],
            cwd=golden,
            env=environment,
            capture_output=True,
        )
        assert result.stdout == (golden / "train.ark").read_bytes()
