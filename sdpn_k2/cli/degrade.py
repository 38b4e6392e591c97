"""``sdpn-k2 degrade``: an evaluation set through other channels."""

from pathlib import Path

import click

from sdpn_k2.cli.shared_options import FOLDER


@click.command()
@click.option("--seed", default=0, help="Random seed; with a file's name, it decides on the channel.")
@click.option(
    "--telephone-prob", type=click.FloatRange(0, 1), default=0.25, help="Probability of a telephone line (mu-law)."
)
@click.option(
    "--gate-prob", type=click.FloatRange(0, 1), default=0.25, help="Probability of a noise gate, which leaves zeros."
)
@click.option("--skip-bad", is_flag=True, help="Accept that more than 5 % of the files cannot be used.")
@click.argument("source", type=FOLDER)
@click.argument("target", type=FOLDER)
def degrade(seed: int, telephone_prob: float, gate_prob: float, skip_bad: bool, source: Path, target: Path) -> None:
    """Send recordings through other channels.

    Every audio file under SOURCE gets a room, a microphone, noise and a level of its own, and some get a telephone line
    or a noise gate. TARGET gets them as FLAC under the same names, with the lists of trials and channels.jsonl.
    """
    from sdpn_k2.data.degradation import degrade_folder

    counts = degrade_folder(source, target, seed, telephone_prob=telephone_prob, gate_prob=gate_prob, skip_bad=skip_bad)
    click.echo(f"{target}: degraded {counts.done} files, failed {counts.failed}")
