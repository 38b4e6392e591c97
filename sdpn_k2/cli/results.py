"""``sdpn-k2 results``: the error rates of an experiment (stage 7 of the recipe)."""

from pathlib import Path

import click

from sdpn_k2.cli.shared_options import command_line

EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("results")
@click.argument("data", type=EXISTING_FOLDER)
@click.argument("exp", type=EXISTING_FOLDER)
def results(data: Path, exp: Path) -> None:
    """Measure all scores of an experiment.

    Compares EXP/scores/SET/TRIALS.SCORING with DATA/SET/TRIALS and writes EXP/results.json and EXP/RESULTS.md.
    """
    from sdpn_k2.reporting.results import collect, table, write

    report = collect(data, exp, command_line())
    write(exp, report)
    click.echo(table(report), nl=False)
