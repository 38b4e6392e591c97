"""``sdpn-k2 select-cuts``: the manifest that training reads."""

from pathlib import Path

import click

from sdpn_k2.cli.shared_options import FILE, config_options


@click.command("select-cuts")
@config_options
@click.argument("cuts", type=FILE)
@click.argument("output", type=FILE)
def select_cuts(cuts: Path, output: Path, config_path, overrides) -> None:
    """Select the cuts to train on.

    Writes the cuts of CUTS that are long enough (crops.min_seconds) to OUTPUT, without labels. Prints how many are kept
    and dropped.
    """
    from sdpn_k2.config import load_config
    from sdpn_k2.data.cut_selection import select_cuts as select
    from sdpn_k2.data.manifest_files import load_manifest

    selection = select(load_manifest(cuts), load_config(config_path, overrides), output)
    click.echo(f"{output}: {selection.lines()}")
