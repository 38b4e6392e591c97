"""``sdpn-k2 export``: the encoder as ONNX, torch.export or TorchScript."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--input",
    "source",
    type=click.Choice(["waveform", "fbank"]),
    default="waveform",
    show_default=True,
    help="What goes in: samples in ±1, or Kaldi's fbank as in feats.scp.",
)
@click.option("--int8", is_flag=True, help="Quantise dynamically (ONNX), and say what that costs on DATA_DIR/trials.")
@click.argument("checkpoint", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("data_dir", type=click.Path(path_type=Path, file_okay=False))
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
def export(checkpoint: Path, data_dir: Path, output: Path, source: str, int8: bool) -> None:
    """Write CHECKPOINT's encoder to OUTPUT: .onnx, .pt2 (torch.export) or .ts (TorchScript).

    It is compared with PyTorch on utterances of the Kaldi directory DATA_DIR, and written only if they agree to 1e-4.
    """
    from sdpn_k2.inference.export import export as export_encoder

    result = export_encoder(checkpoint, data_dir, output, source, int8)
    click.echo(f"{output}: {result.signature}")
    kind = "before quantisation, " if int8 else ""
    click.echo(f"{kind}relative difference from PyTorch on {result.utterances} utterances: {result.difference:.1e}")
    cost = result.quantisation
    if cost is not None:
        click.echo(
            f"int8: {cost.int8_bytes / 1e6:.1f} MB in place of {cost.float_bytes / 1e6:.1f}; EER "
            f"{cost.int8_eer:.2f} % in place of {cost.float_eer:.2f} % on {cost.trials} trials; "
            f"mean cosine with the unquantised embedding {cost.mean_cosine:.5f}"
        )
