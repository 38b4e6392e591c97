"""Write docs/commands.md from the commands themselves: ``python tests/commands_page.py > docs/commands.md``."""

import re
from inspect import cleandoc

import click

from sdpn_k2.cli import SECTIONS, cli

INTRODUCTION = """\
# Commands

`sdpn-k2 COMMAND --help` prints the same. `tests/test_docs.py` compares this page with it.

Three arguments mean the same everywhere:

- **CHECKPOINT** is a file, or an experiment folder with a `final.pt`. Give it as the first argument, with `-c`, or in
  the variable `SDPN_K2_CHECKPOINT`.
- **OUTPUT** and **TABLE** of embeddings: `x.ark`; `x.scp` (with `x.ark`); `x.npy` (rows, with their names in
  `x.names`); `x.json`; `-` (JSON); a Kaldi specifier such as `ark,scp:x.ark,x.scp`; or a folder, with `xvector.ark` and
  `xvector.scp`. For cuts of lhotse also `x.jsonl` and `x.jsonl.gz`. What one command writes, every other reads.
- **SCORES** has lines `enroll test score`, **TRIALS** has lines `enroll test target|nontarget`. Swapped ones are named.

A file that cannot be used among many is left out and counted. The exit status is then 1: of `embed` always, of
`extract`, `extract-windows`, `vad` and `stream` if it is more than 5 % of them. `--skip-bad` accepts any number. Bad
input gives one line and status 1, wrong usage status 2. A training that was stopped and can go on exits with 75.

Completion, for `bash`, `zsh` or `fish`: `eval "$(_SDPN_K2_COMPLETE=bash_source sdpn-k2)"`, or in fish
`_SDPN_K2_COMPLETE=fish_source sdpn-k2 | source`.
"""


def page() -> str:
    """Return the page."""
    parts = [INTRODUCTION]
    top = click.Context(cli, info_name="sdpn-k2", **cli.context_settings)
    for section, names in SECTIONS.items():
        parts.append(f"## {section}\n")
        for name in names:
            parts += _described(cli.get_command(top, name), name, top)
    return "\n".join(parts)


def _described(command, name, parent):
    context = click.Context(command, parent, name, **command.context_settings)
    if isinstance(command, click.Group):
        yield f"### {context.command_path}\n\n{_help(command)}\n"
        for each in command.list_commands(context):
            yield from _described(command.get_command(context, each), each, context)
        return
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"### {context.command_path}\n\n    {usage}\n"
    yield f"{_help(command)}\n"
    rows = [_row(each, context) for each in command.params if isinstance(each, click.Option)]
    if rows:
        yield "| option | |\n| --- | --- |\n" + "".join(f"{row}\n" for row in rows)


def _help(command):
    text = re.sub(r"\*", r"\\*", cleandoc(command.help))
    return text.replace("<", "&lt;")


def _row(option, context):
    names, text = option.get_help_record(context)
    names, text = names.replace("|", r"\|"), " ".join(text.split()).replace("<", "&lt;")
    return f"| `{names}` | {text} |"


if __name__ == "__main__":
    print(page(), end="")
