"""``sdpn-k2 convert``: weights of other toolkits as checkpoints of ours."""

from pathlib import Path

import click

from sdpn_k2.errors import InputError


@click.group()
def convert() -> None:
    """Convert released weights to a checkpoint that extracts, starts a training and exports."""


@convert.command("3dspeaker")
@click.option(
    "--scale",
    default=1.0,
    show_default=True,
    help="Of samples in ±1 before the front end: 1 as in 3D-Speaker's extraction, 32768 as in its training.",
)
@click.argument("checkpoint", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
def three_d_speaker(checkpoint: Path, output: Path, scale: float) -> None:
    """Convert SDPN or RDINO weights of 3D-Speaker: a training CHECKPOINT or a published file.

    Beside OUTPUT its configuration is written, with the suffix .yaml, for "train --init OUTPUT --config"; another file
    of that name is left alone, and nothing written.
    """
    import yaml

    from sdpn_k2.config import config_to_dict
    from sdpn_k2.files import atomic_output
    from sdpn_k2.methods.released_weights import convert_3dspeaker
    from sdpn_k2.models.checkpoint import save_checkpoint

    beside = output.with_suffix(".yaml")
    if beside == output:
        raise InputError(f"{output}: .yaml is for the configuration beside it; give the checkpoint another suffix: .pt")
    converted, left_out = convert_3dspeaker(checkpoint, scale)
    tree = config_to_dict(converted.config)
    text = yaml.safe_dump({name: tree[name] for name in ("features", "model", "objective")}, sort_keys=False)
    if beside.exists() and beside.read_bytes() != text.encode():
        raise InputError(
            f"{beside}: is there already, and is not this configuration: move it away, or name OUTPUT otherwise"
        )
    save_checkpoint(output, converted)
    with atomic_output(beside, "w") as stream:
        stream.write(text)
    if left_out:
        click.echo(f"left out: {', '.join(left_out)}", err=True)
    model = converted.config.model
    parts = sorted({name.partition(".")[0] for name in converted.model})
    click.echo(f"{output}: {', '.join(parts)}; {model.channels} channels, {model.embedding_dim}-dimensional embeddings")
