"""Completion in real shells where they are installed, and by click's protocol; misspelt commands get a suggestion."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from sdpn_k2.cli import cli, main

# A line before TAB and after it, in a folder with the files below. Files are completed wherever there are no values.
LINES = {
    "sdpn-k2 extr": "sdpn-k2 extract",
    "sdpn-k2 kaldi copy-ve": "sdpn-k2 kaldi copy-vector ",
    "sdpn-k2 kaldi copy-vector notes": "sdpn-k2 kaldi copy-vector notes.txt ",
    "sdpn-k2 prepare vox": "sdpn-k2 prepare voxceleb ",
    "sdpn-k2 train --set train.batch": "sdpn-k2 train --set train.batch_size=",
    "sdpn-k2 train --set=train.batch": "sdpn-k2 train --set=train.batch_size=",
    "sdpn-k2 embed -c model --chan": "sdpn-k2 embed -c model --channel ",
    "sdpn-k2 embed -c mod": "sdpn-k2 embed -c model.pt ",
    "sdpn-k2 embed model.pt note": "sdpn-k2 embed model.pt notes.txt ",
    "sdpn-k2 score --norm z": "sdpn-k2 score --norm z-norm ",
    "sdpn-k2 score --mean=note": "sdpn-k2 score --mean=notes.txt ",
    "sdpn-k2 score --enroll scp:note": "sdpn-k2 score --enroll scp:notes.txt ",
    "sdpn-k2 no-such-command note": "sdpn-k2 no-such-command notes.txt ",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    for name in ("model.pt", "notes.txt"):
        (folder / name).touch()
    program = folder / "bin" / "sdpn-k2"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from sdpn_k2.cli import main; main()" "$@"\n')
    program.chmod(0o755)
    return folder


def environment(folder, **more):
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "TERM": "dumb", **more}


class Terminal:
    """An interactive shell."""

    def __init__(self, folder, *command):
        self.process, self.stream = pty.fork()
        if not self.process:
            os.chdir(folder)
            os.execvpe(command[0], command, environment(folder, PS1="", COLUMNS="500"))

    def after(self, keys, pattern):
        """Press keys, and return what the pattern finds in the output."""
        os.write(self.stream, keys.encode())
        output, end = "", time.monotonic() + 60
        while time.monotonic() < end:
            if select.select([self.stream], [], [], 1)[0]:
                output += os.read(self.stream, 1 << 16).decode(errors="replace")
            found = re.search(pattern, output)
            if found:
                return found[1]
        raise AssertionError(f"{pattern} not in {output!r}")

    def close(self):
        os.close(self.stream)
        os.waitpid(self.process, 0)


def completed_lines(terminal, setup):
    """Type each line and TAB, turn it into an argument of echo (^A, ^E), and return what echo prints."""
    terminal.after(f"{setup}; echo 'RE''ADY'\n", "(READY)")
    return {line: terminal.after(f"{line}\t\x01echo '<\x05>'\n", r"[\r\n]<([^>\r\n]*)>[\r\n]") for line in LINES}


def test_tab_in_bash(folder):
    terminal = Terminal(folder, "bash", "--norc", "--noprofile", "-i")
    assert completed_lines(terminal, 'eval "$(_SDPN_K2_COMPLETE=bash_source sdpn-k2)"') == LINES
    # If the program fails, files are completed.
    broken = "sdpn-k2() { return 1; }; hash -p /nowhere sdpn-k2; PATH=/usr/bin:/bin"
    terminal.after(f"{broken}; echo 'RE''ADY'\n", "(READY)")
    assert terminal.after("sdpn-k2 embed note\t\x01echo '<\x05>'\n", r"[\r\n]<([^>]*)>") == "sdpn-k2 embed notes.txt "
    terminal.close()


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
def test_tab_in_zsh(folder):
    terminal = Terminal(folder, "zsh", "-f", "-i")
    setup = 'bindkey -e; autoload -Uz compinit && compinit -u -D; eval "$(_SDPN_K2_COMPLETE=zsh_source sdpn-k2)"'
    found = completed_lines(terminal, setup)
    assert {line: text.strip() for line, text in found.items()} == {line: text.strip() for line, text in LINES.items()}
    terminal.close()


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_tab_in_fish(folder):
    for line, expected in LINES.items():
        script = f"_SDPN_K2_COMPLETE=fish_source sdpn-k2 | source; complete -C '{line}'"
        done = subprocess.run(
            ["fish", "-c", script], cwd=folder, env=environment(folder), capture_output=True, text=True
        )
        assert done.stdout.split()[0] == expected.split()[-1]


def complete(folder, shell, line):
    """Return the values that a shell's script gets for a line."""
    words = line.split(" ")
    values = {
        "bash": {"COMP_LINE": line, "COMP_WORDBREAKS": " \t\n\"'><=;|&(:"},
        "zsh": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "fish": {"COMP_WORDS": line, "COMP_CWORD": words[-1]},
    }[shell]
    done = subprocess.run(
        ["sdpn-k2"], env=environment(folder, _SDPN_K2_COMPLETE=f"{shell}_complete", **values), stdout=subprocess.PIPE
    )
    return [
        value for kind, _, value in (line.partition(",") for line in done.stdout.decode().split()) if kind == "plain"
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_values_by_the_protocol(folder, shell):
    assert complete(folder, shell, "sdpn-k2 kaldi ivector-plda") == [
        "ivector-plda-scoring",
        "ivector-plda-scoring-dense",
    ]
    assert complete(folder, shell, "sdpn-k2 config --set crops.num") == ["crops.num_global=", "crops.num_local="]
    joined = "" if shell == "bash" else "--set="
    assert complete(folder, shell, "sdpn-k2 config --set=see") == [f"{joined}seed="]
    assert complete(folder, shell, "sdpn-k2 report ") == complete(folder, shell, "sdpn-k2 embed x.pt 'a b") == []
    assert len(complete(folder, shell, "sdpn-k2 ")) > 25


@pytest.mark.parametrize(
    "words, nearest",
    [
        (["extrct"], "extract"),
        (["prepare", "audio-dr"], "audio-dir"),
        (["lhotse", "to-kald"], "to-kaldi"),
        (["kaldi", "copy-vectr"], "copy-vector"),
        (["qqqq"], None),
    ],
)
def test_a_misspelt_command_gets_a_suggestion(words, nearest):
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2 and f"'{words[-1]}'" in done.output
    assert (f"Did you mean {nearest}?" in done.output) if nearest else ("Did you mean" not in done.output)


def test_the_script_is_printed_for_each_shell(monkeypatch, capsys):
    for shell in ("bash", "zsh", "fish"):
        monkeypatch.setenv("_SDPN_K2_COMPLETE", f"{shell}_source")
        monkeypatch.setattr(sys, "argv", ["sdpn-k2"])
        with pytest.raises(SystemExit):
            main()
        assert "_SDPN_K2_COMPLETE=" in capsys.readouterr().out
