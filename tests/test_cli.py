"""The command line as a whole: its help, what it imports, and how bad input differs from wrong usage."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from sdpn_k2 import cli
from sdpn_k2.cli import COMMANDS, MAX_SHORT_HELP, SECTIONS

# Modules that take long to import: no command needs them before it runs.
HEAVY = {"jinja2", "k2", "kaldiio", "lhotse", "matplotlib", "numpy", "scipy", "sklearn", "soundfile", "torch", "yaml"}


def contexts(command=cli.cli, parent=None):
    """A context for every command and group, from the top down."""
    context = click.Context(command, parent, "sdpn-k2" if parent is None else command.name, **command.context_settings)
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from contexts(command.get_command(context, name), context)


ALL = list(contexts())


@pytest.mark.parametrize("context", ALL[1:], ids=lambda context: context.command_path)
def test_short_help_is_one_whole_sentence(context):
    text = context.command.get_short_help_str(MAX_SHORT_HELP)
    assert text and len(text) <= MAX_SHORT_HELP
    assert not text.endswith("...")
    assert text == context.command.help.split("\n\n")[0]


def test_help_lists_every_command_in_its_section():
    lines = ALL[0].get_help().splitlines()
    where = [lines.index(f"{section}:") for section in SECTIONS]
    assert where == sorted(where)
    for section, start in zip(SECTIONS, where):
        for line, name in zip(lines[start + 1 :], SECTIONS[section]):
            assert line.split()[0] == name
            assert line.endswith("  " + cli.cli.get_command(ALL[0], name).get_short_help_str(MAX_SHORT_HELP))
    assert len(COMMANDS) == len(set(COMMANDS)) == 32
    assert max(map(len, lines)) <= 80


def options():
    for context in ALL:
        for parameter in context.command.params:
            if isinstance(parameter, click.Option):
                yield pytest.param(context, parameter, id=f"{context.command_path} {parameter.opts[-1]}")


@pytest.mark.parametrize("context, option", list(options()))
def test_option_help_states_effect_then_default(context, option):
    effect = option.help
    assert effect and effect[0].isupper() and effect.endswith(".")
    assert not effect.startswith(("Of ", "What ", "How "))
    assert "[default" not in effect  # click appends it
    shown = option.get_help_record(context)[1]
    assert shown.startswith(effect)
    default = option.get_default(context)
    if isinstance(default, (int, float, str, Path, tuple)) and default != () and not option.is_flag:
        assert "[default: " in shown


def modules_after(*arguments):
    """The top-level names of all modules that ``sdpn-k2 ARGUMENTS`` imports."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))\n"
        f"sys.argv = ['sdpn-k2', *{arguments!r}]\n"
        "from sdpn_k2.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: sdpn-k2" in done.stdout
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["score", "-h"], ["kaldi"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments):
    modules = modules_after(*arguments)
    assert "sdpn_k2.cli" in modules
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    assert not {name for name in modules if name.startswith("sdpn_k2.")} - {
        "sdpn_k2.cli",
        "sdpn_k2.errors",
        *(f"sdpn_k2.cli.{cli.object_name(name)}" for name in COMMANDS),
        "sdpn_k2.cli.checkpoint_argument",
        "sdpn_k2.cli.groups",
        "sdpn_k2.cli.shared_options",
        "sdpn_k2.kaldi",
        "sdpn_k2.kaldi.tools",
    }


@pytest.mark.parametrize(
    "arguments, status, said",
    [
        (["results", "/no/such", "exp"], 1, "sdpn-k2: error: Directory '/no/such' does not exist."),
        (["export", "model.pt", __file__, "out"], 1, f"sdpn-k2: error: Directory '{__file__}' is a file."),
        (["train", "--config", "/", "cuts", "exp"], 1, "sdpn-k2: error: File '/' is a directory."),
        (["results", "/"], 2, "Error: Missing argument 'EXP'."),
        (["vad", "--nj", "many", "data"], 2, "--nj"),
        (["no-such-command"], 2, "no-such-command"),
    ],
)
def test_unusable_files_are_bad_input_not_wrong_usage(monkeypatch, capsys, arguments, status, said):
    monkeypatch.setattr(sys, "argv", ["sdpn-k2", *arguments])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    errors = capsys.readouterr().err
    assert leaving.value.code == status and said in errors
    assert status == 2 or errors == f"{said}\n"
