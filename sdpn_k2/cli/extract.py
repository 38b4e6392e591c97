"""``sdpn-k2 extract``: the utterances of a data directory, or cuts, to x-vectors."""

from pathlib import Path

import click

from sdpn_k2.cli.checkpoint_argument import CheckpointCommand, checkpoint_argument
from sdpn_k2.cli.shared_options import FILE_OR_FOLDER, device_option, max_duration_option, skip_bad_option


@click.command(cls=CheckpointCommand)
@device_option
@max_duration_option
@click.option("--use-vad", is_flag=True, help="Embed only the frames that vad.scp marks as speech.")
@skip_bad_option
@checkpoint_argument
@click.argument("data", type=FILE_OR_FOLDER)
@click.argument("output")
def extract(
    checkpoint: Path, data: Path, output: str, device: str, max_duration: float, use_vad: bool, skip_bad: bool
) -> None:
    """Embed a Kaldi directory or lhotse cuts.

    Uses the teacher encoder of CHECKPOINT. DATA is a Kaldi data directory, or a set of cuts or recordings of lhotse:
    .jsonl, .json or .yaml, each also as .gz, or a folder of shards. Models on Kaldi's fbank read DATA/feats.scp if it
    exists. Otherwise, and for other models, audio is read. Padded, appended and mixed cuts are mixed first.

    OUTPUT is .ark, .scp (and .ark), .npy, .json, a Kaldi wspecifier such as ark,scp:x.ark,x.scp, or a folder, which
    gets xvector.ark and xvector.scp. From cuts, .jsonl and .jsonl.gz get the same cuts with cut.xvector.

    Utterances that cannot be embedded are left out. If they are more than 5 %, nothing is written, and the exit status
    is 1.
    """
    from sdpn_k2.device import start_process
    from sdpn_k2.inference.extraction import Extractor
    from sdpn_k2.inference.extraction import extract as extract_all
    from sdpn_k2.progress import log_to
    from sdpn_k2.scoring.vector_files import is_stdout

    log_to()
    extractor = Extractor.load(checkpoint, start_process(device).device, max_duration)
    count = extract_all(extractor, data, output, use_vad, skip_bad)
    click.echo(f"{output}: {count} embeddings of {extractor.dim} dimensions", err=is_stdout(output))
