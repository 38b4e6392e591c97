"""``sdpn-k2 report``: one HTML page on an experiment, or on several compared."""

from pathlib import Path

import click

from sdpn_k2.cli.shared_options import FILE, FILE_OR_FOLDER, FOLDER, command_line


@click.command("report")
@click.option(
    "--data",
    type=FOLDER,
    show_default="the folder named in results.json",
    help="The recipe's data folder, for pictures of scores and embeddings.",
)
@click.option(
    "--output",
    "-o",
    type=FILE,
    show_default="EXP/report.html, or ./report.html for several experiments",
    help="File to write.",
)
@click.argument("experiments", metavar="EXP...", nargs=-1, required=True, type=FILE_OR_FOLDER)
def report(experiments, data, output):
    """Write an HTML report on experiments.

    The page shows results, DET curves, histograms, embedding maps, training curves and the corpus. It lists the
    differences from the published recipe and the commands to repeat the run. It needs no network, and names the parts
    that are missing. Several experiments are compared on one page.
    """
    from sdpn_k2.reporting.report import write_report

    if output is None:
        output = experiments[0] / "report.html" if len(experiments) == 1 else Path("report.html")
    for line in write_report(list(experiments), data, output, command_line()):
        click.echo(f"missing: {line}", err=True)
    click.echo(f"{output}: report on {', '.join(map(str, experiments))}")
