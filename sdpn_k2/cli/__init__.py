"""The command line, ``sdpn-k2``: each command parses its arguments, calls one function and prints.

A command's module is imported when it is asked for, and imports the package's heavy modules when it runs.
"""

import importlib
import os
import sys
from typing import Any, Dict, List, Optional, Tuple

import click

import sdpn_k2
from sdpn_k2.cli.groups import SuggestingGroup
from sdpn_k2.errors import InputError, describe_os_error

EXIT_BAD_INPUT = 1
COMPLETION_VARIABLE = "_SDPN_K2_COMPLETE"  # click's, for a program of this name

# Commands, in the order of the pipeline.
SECTIONS: Dict[str, Tuple[str, ...]] = {
    "Data": ("recipe", "prepare", "lhotse", "to-wav", "vad", "cuts", "select-cuts", "shar", "degrade"),
    "Train": ("doctor", "train", "average", "ablate"),
    "Embed": ("extract", "embed", "stream", "extract-windows"),
    "Recognise": ("verify", "enroll", "identify", "voices"),
    "Score": ("plda-labels", "score", "eval", "calibrate", "apply-calibration", "results", "report"),
    "Tools": ("config", "convert", "export", "kaldi"),
}
COMMANDS = [name for names in SECTIONS.values() for name in names]
# A command's short help is the first sentence of its docstring.
MAX_SHORT_HELP = 45


def object_name(command: str) -> str:
    """Return the name of a command's module in this package, and of the command object in it."""
    return "evaluate" if command == "eval" else command.replace("-", "_")


class LazyGroup(SuggestingGroup):
    """A group that imports a command when it is asked for, and lists commands by section."""

    def list_commands(self, ctx: click.Context) -> List[str]:
        """Return the names of all commands."""
        return COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        """Import a command; None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        name = object_name(cmd_name)
        return getattr(importlib.import_module(f"{__name__}.{name}"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their short help, one block per section."""
        width = max(map(len, COMMANDS))
        for section, names in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (name.ljust(width), self._required(ctx, name).get_short_help_str(MAX_SHORT_HELP))
                        for name in names
                    ]
                )

    def _required(self, ctx: click.Context, name: str) -> click.Command:
        command = self.get_command(ctx, name)
        assert command is not None
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a file or folder that cannot be used is bad input, not wrong usage."""
        try:
            return super().invoke(ctx)
        except click.BadParameter as error:
            is_path = isinstance(getattr(error.param, "type", None), click.Path)
            if is_path and not isinstance(error, click.MissingParameter):
                raise InputError(error.message) from error
            raise


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(sdpn_k2.__version__)
def cli() -> None:
    """Self-supervised speaker embeddings (SDPN) for Kaldi, lhotse and k2 users.

    "sdpn-k2 COMMAND --help" explains a command.
    """


def main() -> None:
    """Run ``sdpn-k2``; bad input gives one line on stderr and exit status 1."""
    # Before torch is imported: its threads must not take time from other processes while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if COMPLETION_VARIABLE in os.environ:
        importlib.import_module("sdpn_k2.cli.completion")
    try:
        cli(prog_name="sdpn-k2", complete_var=COMPLETION_VARIABLE)
    except InputError as error:
        reason = str(error)
    except OSError as error:  # a folder that cannot be written, a disk that is full
        reason = describe_os_error(error)
    except MemoryError:
        reason = "not enough memory"
    else:
        return
    click.echo(f"sdpn-k2: error: {reason}", err=True)
    sys.exit(EXIT_BAD_INPUT)
