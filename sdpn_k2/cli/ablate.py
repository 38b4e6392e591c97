"""``sdpn-k2 ablate``: the paper's questions as a grid of trainings, which local/run_ablation.sh runs."""

from pathlib import Path

import click

from sdpn_k2.cli.groups import SuggestingGroup
from sdpn_k2.cli.shared_options import FOLDER, command_line, config_options, device_option, together
from sdpn_k2.cli.train import EXIT_INTERRUPTED

# The options that select the trainings.
grid_options = together(
    config_options,
    click.option(
        "--seeds", type=click.IntRange(min=1), default=2, help="Number of trainings per run, with seeds from 0."
    ),
    click.option("--only", multiple=True, metavar="RUN", help="Restrict the grid to this run. Repeatable."),
)


@click.group("ablate", cls=SuggestingGroup)
def ablate() -> None:
    """Train and compare variants of the method.

    The grid covers SDPN's variants and DINO on one corpus. Each variant changes one thing in the base configuration,
    which --config and --set define.
    """


@ablate.command("jobs")
@grid_options
def list_jobs(config_path, overrides, seeds, only) -> None:
    """List the trainings: number, run, seed."""
    from sdpn_k2.experiments.ablation import jobs

    for number, job in enumerate(jobs(config_path, overrides, seeds, only), start=1):
        click.echo(f"{number} {job.run} {job.config.seed}")


@ablate.command("run")
@grid_options
@device_option
@click.option(
    "--job",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="all jobs, one after the other",
    help="Run only job N of the list.",
)
@click.argument("data", type=FOLDER)
@click.argument("out", type=FOLDER)
def run(data: Path, out: Path, job, device, config_path, overrides, seeds, only) -> None:
    """Train and score the variants.

    Each training becomes an experiment folder, OUT/RUN/seedN; finished ones are skipped. DATA is the recipe's data
    folder after stages 0 to 2 of run.sh.
    """
    import sys

    from sdpn_k2.device import start_process
    from sdpn_k2.experiments.ablation import jobs
    from sdpn_k2.experiments.run import run_experiment
    from sdpn_k2.training.trainer import Interrupted

    wanted = jobs(config_path, overrides, seeds, only)
    if job is not None and job > len(wanted):
        raise click.UsageError(f"--job {job}: there are {len(wanted)} jobs")
    process = start_process(device)
    for each in wanted if job is None else [wanted[job - 1]]:
        try:
            done = run_experiment(each.config, data, each.folder(out), process, command_line())
        except Interrupted as error:
            click.echo(str(error), err=True)
            sys.exit(EXIT_INTERRUPTED)
        click.echo(f"{each.folder(out)}: {'done' if done else 'already done'}")


@ablate.command("table")
@grid_options
@click.argument("data", type=FOLDER)
@click.argument("out", type=FOLDER)
def table(data: Path, out: Path, config_path, overrides, seeds, only) -> None:
    """Tabulate the results of all runs.

    Writes OUT/ABLATION.md, OUT/ablation.html and embedding maps of DINO and SDPN (figure2_SET.svg). Give the same
    options as for "run". The speakers of the maps come from DATA/SET/utt2spk.
    """
    from sdpn_k2.experiments.ablation import grid, jobs
    from sdpn_k2.experiments.ablation_table import write_ablation

    missing = write_ablation(
        grid(config_path, overrides), jobs(config_path, overrides, seeds, only), data, out, command_line()
    )
    for line in missing:
        click.echo(f"missing: {line}", err=True)
    click.echo(f"{out / 'ABLATION.md'}, {out / 'ablation.html'}")
