"""``sdpn-k2 report``: one HTML page of an experiment, or of several compared."""

import click


@click.command("report")
@click.option(
    "--data",
    metavar="DATA",
    type=click.Path(file_okay=False),
    help="The recipe's data folder (trial lists, utt2spk, utt2dur): for pictures of scores and embeddings.  "
    "[default: the one that results.json names]",
)
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="[default: EXP/report.html, of several experiments report.html here]",
)
@click.argument("experiments", metavar="EXP...", nargs=-1, required=True, type=click.Path())
def report(experiments, data, output):
    """Show all of an experiment on one HTML page, or compare several.

    The page holds results, DET curves, histograms, embedding maps, training curves, the differences from the published
    recipe, the corpus and how to do it again. It needs no network. Parts that are missing are named on it.
    """
    import shlex
    import sys
    from pathlib import Path

    from sdpn_k2.reporting.report import write_report

    if output is None:
        output = Path(experiments[0], "report.html") if len(experiments) == 1 else "report.html"
    missing = write_report(
        [Path(path) for path in experiments],
        Path(data) if data else None,
        Path(output),
        "sdpn-k2 " + shlex.join(sys.argv[1:]),
    )
    for line in missing:
        click.echo(f"missing: {line}", err=True)
    click.echo(f"{output}: the report of {', '.join(experiments)}")
