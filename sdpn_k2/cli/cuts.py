"""``sdpn-k2 cuts``: lhotse cuts with the features of a Kaldi data directory."""

from pathlib import Path

import click

from sdpn_k2.cli.shared_options import FOLDER, config_options


@click.command()
@config_options
@click.argument("data", type=FOLDER)
@click.argument("name")
def cuts(data: Path, name: str, config_path, overrides) -> None:
    """Make lhotse cuts of a Kaldi directory.

    Writes DATA/manifests/cuts_NAME.jsonl.gz: the utterances of DATA/NAME with their recordings and stored fbank.
    """
    from sdpn_k2.config import load_config
    from sdpn_k2.data.feature_cuts import feature_cuts
    from sdpn_k2.data.manifest_files import write_manifest
    from sdpn_k2.names import check_name

    check_name(name, "NAME")
    output = data / "manifests" / f"cuts_{name}.jsonl.gz"
    count = write_manifest(feature_cuts(data, name, load_config(config_path, overrides).features), output)
    click.echo(f"{output}: {count} cuts with fbank")
