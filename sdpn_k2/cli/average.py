"""``sdpn-k2 average``: one checkpoint of several."""

from pathlib import Path

import click


@click.command()
@click.option("--last", type=click.IntRange(min=1), help="Only the newest so many of a folder.  [default: all]")
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
def average(checkpoints, output: Path, last) -> None:
    """Average the weights of CHECKPOINTS (files, or a folder of them) into OUTPUT."""
    from sdpn_k2.errors import InputError
    from sdpn_k2.models.checkpoint import average_checkpoints, list_checkpoints, save_checkpoint

    paths = [path for given in checkpoints for path in (list_checkpoints(given) if given.is_dir() else [given])]
    paths = paths[-last:] if last else paths
    if not paths:
        raise InputError(f"{checkpoints[0]}: no checkpoints (step-*.pt) in it")
    save_checkpoint(output, average_checkpoints(paths))
    click.echo(f"{output}: mean of {len(paths)} checkpoints, {paths[0].name} to {paths[-1].name}")
