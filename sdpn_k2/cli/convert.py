"""``sdpn-k2 convert``: weights of other toolkits to checkpoints of this one."""

from pathlib import Path

import click

from sdpn_k2.cli.groups import SuggestingGroup
from sdpn_k2.cli.shared_options import FILE
from sdpn_k2.errors import InputError


@click.group(cls=SuggestingGroup)
def convert() -> None:
    """Convert released weights to a checkpoint.

    Use the checkpoint to extract embeddings, to start a training, or to export.
    """


@convert.command("3dspeaker")
@click.option(
    "--scale",
    default=1.0,
    help="Factor for samples in ±1: 1 as in 3D-Speaker's extraction, 32768 as in its training.",
)
@click.argument("checkpoint", type=FILE)
@click.argument("output", type=FILE)
def three_d_speaker(checkpoint: Path, output: Path, scale: float) -> None:
    """Convert SDPN or RDINO from 3D-Speaker.

    CHECKPOINT is a training checkpoint or a published file. The configuration is written beside OUTPUT with the suffix
    .yaml, for "sdpn-k2 train --init OUTPUT --config"; a different file of that name is never overwritten.
    """
    import yaml

    from sdpn_k2.config import config_to_dict
    from sdpn_k2.files import atomic_output
    from sdpn_k2.methods.released_weights import convert_3dspeaker
    from sdpn_k2.models.checkpoint import save_checkpoint

    beside = output.with_suffix(".yaml")
    if beside == output:
        raise InputError(f"{output}: this suffix is for the configuration; name the checkpoint {output.stem}.pt")
    converted, left_out = convert_3dspeaker(checkpoint, scale)
    tree = config_to_dict(converted.config)
    text = yaml.safe_dump({name: tree[name] for name in ("features", "model", "objective")}, sort_keys=False)
    if beside.exists() and beside.read_bytes() != text.encode():
        raise InputError(f"{beside}: already exists with other contents; move it away, or choose another OUTPUT")
    save_checkpoint(output, converted)
    with atomic_output(beside, "w") as stream:
        stream.write(text)
    if left_out:
        click.echo(f"left out: {', '.join(left_out)}", err=True)
    model = converted.config.model
    parts = sorted({name.partition(".")[0] for name in converted.model})
    click.echo(f"{output}: {', '.join(parts)}; {model.channels} channels, {model.embedding_dim}-dimensional embeddings")
