"""``sdpn-k2 shar``: shards for corpora that should be read sequentially."""

from pathlib import Path

import click

from sdpn_k2.cli.shared_options import FILE, FILE_OR_FOLDER


@click.command()
@click.option("--shard-size", default=1000, type=click.IntRange(min=1), help="Number of utterances per shard.")
@click.option("--seed", default=0, help="Random seed for shuffling.")
@click.argument("cuts", type=FILE)
@click.argument("output", type=FILE_OR_FOLDER)
def shar(cuts: Path, output: Path, shard_size: int, seed: int) -> None:
    """Write cuts as lhotse Shar shards.

    The audio and stored features of CUTS go into the new folder OUTPUT in random order, for "sdpn-k2 train".
    """
    from sdpn_k2.data.shar import write_shar

    count = write_shar(cuts, output, shard_size, seed)
    click.echo(f"{output}: {count} utterances in shards of {shard_size}")
