"""``sdpn-k2 config``: the resolved configuration."""

from pathlib import Path

import click

from sdpn_k2.cli.shared_options import FILE, config_options


@click.command()
@config_options
@click.option(
    "--fbank-config",
    type=FILE,
    metavar="FILE",
    help="Fail unless this option file of compute-fbank-feats agrees with features.*.",
)
@click.option("--key", metavar="KEY", help="Print the value of this key only, such as train.batch_size.")
def config(config_path, overrides, fbank_config: Path, key: str) -> None:
    """Print the resolved configuration as YAML."""
    from sdpn_k2.config import config_to_yaml, config_value, load_config
    from sdpn_k2.data.fbank_config import check_fbank_config

    resolved = load_config(config_path, overrides)
    if fbank_config is not None:
        check_fbank_config(fbank_config, resolved.features)
    if key is not None:
        click.echo(config_value(resolved, key))
    else:
        click.echo(config_to_yaml(resolved), nl=False)
