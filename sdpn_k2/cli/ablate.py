"""``sdpn-k2 ablate``: the paper's questions as a grid of trainings (local/run_ablation.sh runs it all)."""

from pathlib import Path

import click

from sdpn_k2.cli.options import config_options, device_option
from sdpn_k2.cli.train import EXIT_INTERRUPTED


def grid_options(command):
    """What decides which trainings there are."""
    command = click.option("--only", multiple=True, metavar="RUN", help="Only this run; give it as often as you like.")(
        command
    )
    command = click.option(
        "--seeds",
        type=click.IntRange(min=1),
        default=2,
        show_default=True,
        help="Trainings of each run, with seeds from 0 on.",
    )(command)
    return config_options(command)


@click.group("ablate")
def ablate() -> None:
    """Train SDPN's variants and DINO on one corpus and compare them.

    The base configuration is --config with --set; the variants change one thing each.
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
    "--job", type=click.IntRange(min=1), metavar="N", help="Only the job of this number.  [default: all, in turn]"
)
@click.argument("data", type=click.Path(path_type=Path, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
def run(data: Path, out: Path, job, device, config_path, overrides, seeds, only) -> None:
    """Train, embed, score and measure into OUT/RUN/seedN, which are experiment folders; what is done is skipped.

    DATA is the recipe's data folder after stages 0 to 2 of run.sh.
    """
    import shlex
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
            done = run_experiment(each.config, data, each.folder(out), process, "sdpn-k2 " + shlex.join(sys.argv[1:]))
        except Interrupted as error:
            click.echo(str(error), err=True)
            sys.exit(EXIT_INTERRUPTED)
        click.echo(f"{each.folder(out)}: {'done' if done else 'was done already'}")


@ablate.command("table")
@grid_options
@click.argument("data", type=click.Path(path_type=Path, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
def table(data: Path, out: Path, config_path, overrides, seeds, only) -> None:
    """Write OUT/ABLATION.md, OUT/ablation.html and embedding maps of DINO and SDPN (figure2_SET.svg).

    Options as for "run"; DATA holds the speakers for the maps (DATA/SET/utt2spk).
    """
    import shlex
    import sys

    from sdpn_k2.experiments.ablation import grid, jobs
    from sdpn_k2.experiments.ablation_table import write_ablation

    missing = write_ablation(
        grid(config_path, overrides),
        jobs(config_path, overrides, seeds, only),
        data,
        out,
        "sdpn-k2 " + shlex.join(sys.argv[1:]),
    )
    for line in missing:
        click.echo(f"missing: {line}", err=True)
    click.echo(f"{out / 'ABLATION.md'}, {out / 'ablation.html'}")
