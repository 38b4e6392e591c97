"""``sdpn-k2 select-cuts``: the manifest that training reads."""

from pathlib import Path

import click

from sdpn_k2.cli.options import config_options


@click.command("select-cuts")
@config_options
@click.argument("cuts", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
def select_cuts(cuts: Path, output: Path, config_path, overrides) -> None:
    """Write the cuts of CUTS that are long enough to train on to OUTPUT, without labels, and say what there is."""
    from sdpn_k2.config import load_config
    from sdpn_k2.data.cut_selection import select_cuts as select
    from sdpn_k2.data.manifest_files import load_manifest

    selection = select(load_manifest(cuts), load_config(config_path, overrides), output)
    click.echo(f"{output}: {selection.lines()}")
