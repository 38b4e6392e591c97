"""``sdpn-k2 doctor``: problems, time, memory and disk of a training before it starts."""

import sys
from pathlib import Path

import click

from sdpn_k2.cli.shared_options import FILE_OR_FOLDER, config_options, device_option, manifests_option


@click.command()
@config_options
@device_option
@manifests_option
@click.option("--exp", type=FILE_OR_FOLDER, default=Path("exp"), help="Folder that the training would write to.")
@click.argument("cuts", type=FILE_OR_FOLDER, required=False)
def doctor(cuts, manifests, exp: Path, device: str, config_path, overrides) -> None:
    """Check the machine and a planned training.

    With CUTS, times some training steps and estimates the time, memory and disk of the whole run. The exit status is 1
    if there is a problem.
    """
    from sdpn_k2.config import load_config
    from sdpn_k2.device import start_process
    from sdpn_k2.training.doctor import examine

    problems = 0
    for kind, text in examine(load_config(config_path, overrides), cuts, manifests, start_process(device), exp):
        click.echo(f"{kind:<8} {text}")
        problems += kind == "problem"
    sys.exit(1 if problems else 0)
