"""The command line, ``sdpn-k2``: parses, calls one function, prints.

A command's module is imported when it is asked for.
"""

import importlib
import sys
from typing import Any, List, Optional

import click

import sdpn_k2
from sdpn_k2.errors import InputError

EXIT_BAD_INPUT = 1

# Name of a subcommand → its module in this package; the command object there has the module's name.
COMMANDS = {
    "prepare": "prepare",
    "to-wav": "to_wav",
    "cuts": "cuts",
    "vad": "vad",
    "select-cuts": "select_cuts",
    "shar": "shar",
    "config": "config",
    "doctor": "doctor",
    "train": "train",
    "average": "average",
    "convert": "convert",
    "lhotse": "lhotse",
    "extract-windows": "extract_windows",
    "stream": "stream",
    "export": "export",
    "extract": "extract",
    "embed": "embed",
    "verify": "verify",
    "plda-labels": "plda_labels",
    "score": "score",
    "eval": "evaluate",
    "calibrate": "calibrate",
    "apply-calibration": "apply_calibration",
    "results": "results",
    "report": "report",
    "ablate": "ablate",
    "kaldi": "kaldi",
}


class LazyGroup(click.Group):
    """A group whose commands are imported one by one, when needed."""

    def list_commands(self, ctx: click.Context) -> List[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> Optional[click.Command]:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[name]}")
        return getattr(module, COMMANDS[name])

    def invoke(self, ctx: click.Context) -> Any:
        """As every group does; but a file or folder that cannot be used is bad input, not wrong usage."""
        try:
            return super().invoke(ctx)
        except click.BadParameter as error:
            of_path = isinstance(getattr(error.param, "type", None), click.Path)
            if of_path and not isinstance(error, click.MissingParameter):
                raise InputError(error.message) from error
            raise


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(sdpn_k2.__version__)
def cli() -> None:
    """Self-supervised speaker embeddings (SDPN) for Kaldi, lhotse and k2 users."""


def main() -> None:
    """Run ``sdpn-k2``. Bad input gives one line on stderr and exit status 1."""
    try:
        cli()
    except InputError as error:
        click.echo(f"sdpn-k2: error: {error}", err=True)
        sys.exit(EXIT_BAD_INPUT)
