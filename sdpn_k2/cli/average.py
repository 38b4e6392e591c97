"""``sdpn-k2 average``: one checkpoint from several."""

from pathlib import Path
from typing import List

import click

from sdpn_k2.cli.shared_options import FILE, FILE_OR_FOLDER


@click.command()
@click.option(
    "--last", type=click.IntRange(min=1), metavar="N", show_default="all", help="Average only the newest N checkpoints."
)
@click.argument("checkpoints", nargs=-1, required=True, type=FILE_OR_FOLDER)
@click.argument("output", type=FILE)
def average(checkpoints, output: Path, last) -> None:
    """Average the weights of checkpoints.

    CHECKPOINTS are files, experiment folders (whose checkpoints/ is meant) or folders of checkpoints. The mean is
    written to OUTPUT.
    """
    from sdpn_k2.errors import InputError
    from sdpn_k2.models.checkpoint import average_checkpoints, list_checkpoints, save_checkpoint

    paths: List[Path] = []
    for given in checkpoints:
        inside = given / "checkpoints" if (given / "checkpoints").is_dir() else given
        paths += list_checkpoints(inside) if given.is_dir() else [given]
    paths = paths[-last:] if last else paths
    if not paths:
        raise InputError(f"{checkpoints[0]}: no checkpoints (step-*.pt) in this folder")
    save_checkpoint(output, average_checkpoints(paths))
    click.echo(f"{output}: mean of {len(paths)} checkpoints, {paths[0].name} to {paths[-1].name}")
