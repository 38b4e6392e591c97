"""``sdpn-k2 embed``: audio files to embeddings."""

import click

from sdpn_k2.cli.checkpoint_argument import CheckpointCommand, checkpoint_argument
from sdpn_k2.cli.shared_options import channel_option, device_option, max_duration_option, skip_bad_option


@click.command("embed", cls=CheckpointCommand)
@click.option(
    "--output",
    "-o",
    default="-",
    metavar="OUT",
    show_default="JSON to standard output",
    help="File to write: .npy (one row per AUDIO), .json, .ark, .scp (and .ark), a folder, or a Kaldi wspecifier such "
    "as ark,scp:x.ark,x.scp.",
)
@channel_option
@max_duration_option
@skip_bad_option
@device_option
@checkpoint_argument
@click.argument("audio", nargs=-1, required=True)
def embed(checkpoint, audio, output, channel, max_duration, skip_bad, device):
    """Embed audio files.

    AUDIO is a file in any format that libsndfile reads, at any sample rate. It may also be - (standard input), or a
    command that ends in |, such as "sox a.mp3 -t wav - |". Embeddings are keyed by the names as given.

    Files that cannot be embedded are left out of OUT, and the exit status is 1. A stopped run goes on where it was.
    """
    from sdpn_k2.device import start_process
    from sdpn_k2.inference.embedder import Embedder
    from sdpn_k2.progress import log_to

    log_to()
    embedder = Embedder.load(checkpoint, start_process(device).device, max_duration)
    embedder.embed_many(audio, output, channel=channel, skip_bad=skip_bad)
