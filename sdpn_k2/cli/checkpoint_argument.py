"""The checkpoint of a command: the same in every command that uses a model.

It is the first argument, ``-c``, or the variable SDPN_K2_CHECKPOINT, in this order; a file or an experiment folder.
"""

import os
from typing import List, Sequence

import click

from sdpn_k2.cli.shared_options import FILE_OR_FOLDER, together

VARIABLE = "SDPN_K2_CHECKPOINT"
SUFFIXES = (".pt", ".pth", ".ckpt")
MISSING = f"Missing argument 'CHECKPOINT'. Give it first, with -c, or in the variable {VARIABLE}."

checkpoint_argument = together(
    click.option(
        "--checkpoint",
        "-c",
        "given_checkpoint",
        type=FILE_OR_FOLDER,
        metavar="PATH",
        envvar=VARIABLE,
        show_envvar=True,
        expose_value=False,
        help="Checkpoint, or experiment folder with a final.pt, in place of CHECKPOINT.",
    ),
    click.argument("checkpoint", metavar="[CHECKPOINT]", type=FILE_OR_FOLDER),
)


class CheckpointCommand(click.Command):
    """A command with ``checkpoint_argument``, whose first argument may be given otherwise."""

    def parse_args(self, ctx: click.Context, args: List[str]) -> List[str]:
        """Put the checkpoint first, if it is not there already, and parse the arguments."""
        options = click.Command(self.name, params=[each for each in self.params if isinstance(each, click.Option)])
        values, words, _ = options.make_parser(ctx).parse_args(list(args))
        given = values.get("given_checkpoint")
        if not given and not self._is_first(words):
            given = os.environ.get(VARIABLE)
            if not given and not values.get("help") and not ctx.resilient_parsing and self._is_missing(words):
                raise click.UsageError(MISSING, ctx)
        return super().parse_args(ctx, [given, *args] if given else args)

    def _is_first(self, words: Sequence[str]) -> bool:
        """Return whether the first of the arguments is the checkpoint, although the variable may be set."""
        if len(words) <= self._others_required():
            return False
        others = [each for each in self.params if isinstance(each, click.Argument) and each.name != "checkpoint"]
        return (all(each.nargs == 1 for each in others) and len(words) > len(others)) or _looks_like_one(words[0])

    def _is_missing(self, words: Sequence[str]) -> bool:
        """Return whether no argument can be the checkpoint; a file that does not exist is reported as such later."""
        if not words or _looks_like_one(words[0]):
            return not words
        return len(words) <= self._others_required() or os.path.exists(words[0])

    def _others_required(self) -> int:
        return sum(isinstance(each, click.Argument) and each.required for each in self.params) - 1


def _looks_like_one(name: str) -> bool:
    has_vectors = os.path.isfile(os.path.join(name, "spk_xvector.scp"))  # a gallery, or what extraction wrote
    return (os.path.isdir(name) and not has_vectors) or name.endswith(SUFFIXES)
