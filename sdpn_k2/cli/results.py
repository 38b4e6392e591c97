"""``sdpn-k2 results``: the error rates of an experiment (stage 7 of the recipe)."""

import click


@click.command("results")
@click.argument("data", type=click.Path(exists=True, file_okay=False))
@click.argument("exp", type=click.Path(exists=True, file_okay=False))
def results(data, exp):
    """Measure all score files of an experiment and write its results.json and RESULTS.md.

    DATA holds the trial lists (DATA/SET/trials...), EXP the scores (EXP/scores/SET/trials....BACKEND).
    """
    import shlex
    import sys
    from pathlib import Path

    from sdpn_k2.reporting.results import collect, table, write

    report = collect(Path(data), Path(exp), "sdpn-k2 " + shlex.join(sys.argv[1:]))
    write(Path(exp), report)
    click.echo(table(report), nl=False)
