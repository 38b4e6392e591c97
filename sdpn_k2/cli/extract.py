"""``sdpn-k2 extract``."""

from pathlib import Path

import click

from sdpn_k2.cli.options import device_option


@click.command()
@device_option
@click.option(
    "--max-duration",
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Longer utterances are embedded in chunks, and the chunks averaged.",
)
@click.option("--use-vad", type=bool, default=False, show_default=True, help="Only frames that vad.scp calls speech.")
@click.argument("checkpoint", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("data_dir", type=click.Path(path_type=Path, file_okay=False))
@click.argument("output")
def extract(checkpoint: Path, data_dir: Path, output: str, device: str, max_duration: float, use_vad: bool) -> None:
    """Embed the utterances of the Kaldi directory DATA_DIR with CHECKPOINT's teacher encoder.

    Models on Kaldi's fbank read feats.scp where there is one. Others, and where there is none, read wav.scp and
    segments.

    OUTPUT is a folder, which gets xvector.ark and xvector.scp, or a Kaldi wspecifier such as ark,scp:x.ark,x.scp.
    """
    from sdpn_k2.device import start_process
    from sdpn_k2.files import make_folder
    from sdpn_k2.inference.extraction import Extractor
    from sdpn_k2.inference.extraction import extract as extract_all
    from sdpn_k2.progress import log_to

    log_to()
    extractor = Extractor.load(checkpoint, start_process(device).device, max_duration)
    if ":" not in output:
        make_folder(output)
        output = f"ark,scp:{output}/xvector.ark,{output}/xvector.scp"
    count = extract_all(extractor, data_dir, output, use_vad)
    click.echo(f"{output}: {count} embeddings of {extractor.dim} dimensions")
