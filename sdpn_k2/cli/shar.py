"""``sdpn-k2 shar``: shards for corpora that are to be read sequentially."""

from pathlib import Path

import click


@click.command()
@click.option("--shard-size", default=1000, show_default=True, type=click.IntRange(min=1), help="Utterances a shard.")
@click.option("--seed", default=0, show_default=True, help="Of the random order.")
@click.argument("cuts", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("output", type=click.Path(path_type=Path))
def shar(cuts: Path, output: Path, shard_size: int, seed: int) -> None:
    """Write the audio and stored features of CUTS as lhotse Shar shards into the new folder OUTPUT, for train."""
    from sdpn_k2.data.manifest_files import load_manifest
    from sdpn_k2.data.shar import write_shar

    count = write_shar(load_manifest(cuts), output, shard_size, seed)
    click.echo(f"{output}: {count} utterances in shards of {shard_size}")
