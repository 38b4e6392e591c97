"""``sdpn-k2 embed``: audio files → embeddings."""

import click

from sdpn_k2.cli.options import checkpoint_option, device_option


@click.command("embed")
@checkpoint_option
@click.option(
    "--output",
    "-o",
    default="-",
    metavar="OUT",
    help="x.npy (a row for each AUDIO), x.json, x.ark, or a Kaldi wspecifier such as ark,scp:x.ark,x.scp or "
    "ark:-.  [default: JSON to the standard output]",
)
@click.option("--channel", default=0, show_default=True, help="Of recordings with several, counted from 0.")
@click.option(
    "--max-duration",
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Longer recordings are embedded in chunks, and the chunks averaged.",
)
@device_option
@click.argument("audio", nargs=-1, required=True)
def embed(audio, checkpoint, output, channel, max_duration, device):
    """Turn audio files into embeddings, under the names given.

    AUDIO is any format that libsndfile reads, at any sample rate; it may also be - (the standard input) or a command that ends in |, such as "sox a.mp3 -t wav - |".
    """
    from sdpn_k2.device import start_process
    from sdpn_k2.inference.embedder import Embedder, embed_files
    from sdpn_k2.progress import log_to

    log_to()
    embed_files(Embedder.load(checkpoint, start_process(device).device, max_duration), list(audio), output, channel)
