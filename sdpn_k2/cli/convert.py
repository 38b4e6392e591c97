"""``sdpn-k2 convert``: weights of other toolkits as checkpoints of ours."""

from pathlib import Path

import click


@click.group()
def convert() -> None:
    """Convert released weights to a checkpoint that extracts, starts a training and exports."""


@convert.command("3dspeaker")
@click.option("--scale", default=1.0, show_default=True,
              help="Of samples in ±1 before the front end: 1 as in 3D-Speaker's extraction, 32768 as in its training.")
@click.argument("checkpoint", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
def three_d_speaker(checkpoint: Path, output: Path, scale: float) -> None:
    """Convert SDPN or RDINO weights of 3D-Speaker: a training CHECKPOINT or a published file.

    Beside OUTPUT its configuration is written, with the suffix .yaml, for "train --init OUTPUT --config".
    """
    import yaml

    from sdpn_k2.config import config_to_dict
    from sdpn_k2.engine.checkpoint import save_checkpoint
    from sdpn_k2.engine.released_weights import convert_3dspeaker
    from sdpn_k2.files import atomic_output

    converted, left_out = convert_3dspeaker(checkpoint, scale)
    save_checkpoint(output, converted)
    tree = config_to_dict(converted.config)
    with atomic_output(output.with_suffix(".yaml"), "w") as stream:
        yaml.safe_dump({name: tree[name] for name in ("features", "model", "objective")}, stream, sort_keys=False)
    if left_out:
        click.echo(f"left out: {', '.join(left_out)}", err=True)
    model = converted.config.model
    parts = sorted({name.partition(".")[0] for name in converted.model})
    click.echo(f"{output}: {', '.join(parts)}; {model.channels} channels, {model.embedding_dim}-dimensional embeddings")
