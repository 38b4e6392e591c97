"""``sdpn-k2 embed``: audio files to embeddings."""

import click

from sdpn_k2.cli.shared_options import channel_option, checkpoint_option, device_option, max_duration_option


@click.command("embed")
@checkpoint_option
@click.option(
    "--output",
    "-o",
    default="-",
    metavar="OUT",
    show_default="JSON to standard output",
    help="File to write: .npy (one row per AUDIO), .json, .ark, or a Kaldi wspecifier such as ark,scp:x.ark,x.scp.",
)
@channel_option
@max_duration_option
@device_option
@click.argument("audio", nargs=-1, required=True)
def embed(audio, checkpoint, output, channel, max_duration, device):
    """Embed audio files.

    AUDIO is a file in any format that libsndfile reads, at any sample rate. It may also be - (standard input), or a
    command that ends in |, such as "sox a.mp3 -t wav - |". Embeddings are keyed by the names as given.
    """
    from sdpn_k2.device import start_process
    from sdpn_k2.inference.embedder import Embedder, embed_files
    from sdpn_k2.progress import log_to

    log_to()
    embed_files(Embedder.load(checkpoint, start_process(device).device, max_duration), list(audio), output, channel)
