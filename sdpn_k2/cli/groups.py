"""Groups of commands that suggest the nearest command for a misspelt one."""

import difflib
from typing import List, Optional, Sequence, Tuple

import click


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return " Did you mean …?" with the known names nearest to ``name``; empty if there are none."""
    nearest = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""


class SuggestingGroup(click.Group):
    """A group that answers a misspelt command with the nearest ones."""

    def resolve_command(
        self, ctx: click.Context, args: List[str]
    ) -> Tuple[Optional[str], Optional[click.Command], List[str]]:
        """Find the command that ``args`` names; wrong usage if there is none."""
        name = args[0]
        if not ctx.resilient_parsing and self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"No such command '{name}'.{suggestion(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)
