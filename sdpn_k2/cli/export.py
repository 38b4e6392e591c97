"""``sdpn-k2 export``: the encoder as ONNX, torch.export or TorchScript."""

from pathlib import Path

import click

from sdpn_k2.cli.checkpoint_argument import CheckpointCommand, checkpoint_argument
from sdpn_k2.cli.shared_options import FILE, FOLDER


@click.command(cls=CheckpointCommand)
@click.option(
    "--input",
    "source",
    type=click.Choice(["waveform", "fbank"]),
    default="waveform",
    help="Input of the exported encoder: samples in ±1, or Kaldi's fbank as in feats.scp.",
)
@click.option("--int8", is_flag=True, help="Quantise an ONNX model dynamically and report the cost on DATA_DIR/trials.")
@checkpoint_argument
@click.argument("data_dir", type=FOLDER)
@click.argument("output", type=FILE)
def export(checkpoint: Path, data_dir: Path, output: Path, source: str, int8: bool) -> None:
    """Export an encoder to ONNX or TorchScript.

    The suffix of OUTPUT chooses the format: .onnx, .pt2 (torch.export) or .ts (TorchScript). OUTPUT is written only if
    it agrees with PyTorch to 1e-4 on utterances of the Kaldi directory DATA_DIR.
    """
    from sdpn_k2.inference.export import export as export_encoder

    result = export_encoder(checkpoint, data_dir, output, source, int8)
    click.echo(f"{output}: {result.signature}")
    kind = "before quantisation, " if int8 else ""
    click.echo(f"{kind}relative difference from PyTorch on {result.utterances} utterances: {result.difference:.1e}")
    cost = result.quantisation
    if cost is not None:
        click.echo(
            f"int8: {cost.int8_bytes / 1e6:.1f} MB instead of {cost.float_bytes / 1e6:.1f}; EER "
            f"{cost.int8_eer:.2f} % instead of {cost.float_eer:.2f} % on {cost.trials} trials; "
            f"mean cosine with the unquantised embedding {cost.mean_cosine:.5f}"
        )
