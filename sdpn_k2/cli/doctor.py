"""``sdpn-k2 doctor``."""

import sys
from pathlib import Path

import click

from sdpn_k2.cli.options import config_options, device_option


@click.command()
@config_options
@device_option
@click.option(
    "--manifests", type=click.Path(path_type=Path, file_okay=False), help="As of train.  [default: beside CUTS]"
)
@click.option(
    "--exp", type=click.Path(path_type=Path), default=Path("exp"), show_default=True, help="Where results would go."
)
@click.argument("cuts", type=click.Path(path_type=Path), required=False)
def doctor(cuts, manifests, exp: Path, device: str, config_path, overrides) -> None:
    """Look at the machine, and at a run on CUTS before it starts: one batch timed, time, memory and disk estimated.

    Leaves with exit status 1 where it finds a problem.
    """
    from sdpn_k2.config import load_config
    from sdpn_k2.device import start_process
    from sdpn_k2.training.doctor import examine

    problems = 0
    for kind, text in examine(load_config(config_path, overrides), cuts, manifests, start_process(device), exp):
        click.echo(f"{kind:<8} {text}")
        problems += kind == "problem"
    sys.exit(1 if problems else 0)
