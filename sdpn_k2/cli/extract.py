"""``sdpn-k2 extract``: the utterances of a data directory to x-vectors."""

from pathlib import Path

import click

from sdpn_k2.cli.shared_options import FILE, FOLDER, device_option, max_duration_option, skip_bad_option


@click.command()
@device_option
@max_duration_option
@click.option("--use-vad", type=bool, default=False, help="Embed only the frames that vad.scp marks as speech.")
@skip_bad_option
@click.argument("checkpoint", type=FILE)
@click.argument("data_dir", type=FOLDER)
@click.argument("output")
def extract(
    checkpoint: Path, data_dir: Path, output: str, device: str, max_duration: float, use_vad: bool, skip_bad: bool
) -> None:
    """Embed the utterances of a Kaldi directory.

    Uses the teacher encoder of CHECKPOINT. Models on Kaldi's fbank read DATA_DIR/feats.scp if it exists. Otherwise, and
    for other models, audio is read from wav.scp and segments.

    OUTPUT is a folder, which gets xvector.ark and xvector.scp, or a Kaldi wspecifier such as ark,scp:x.ark,x.scp.

    Utterances that cannot be embedded are left out. If they are more than 5 %, nothing is written, and the exit status
    is 1.
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
    count = extract_all(extractor, data_dir, output, use_vad, skip_bad)
    click.echo(f"{output}: {count} embeddings of {extractor.dim} dimensions")
