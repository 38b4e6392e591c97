"""``sdpn-k2 enroll``: add recordings of a voice to a gallery."""

import click

from sdpn_k2.cli.checkpoint_argument import CheckpointCommand, checkpoint_argument
from sdpn_k2.cli.shared_options import (
    channel_option,
    device_option,
    gallery_argument,
    skip_bad_option,
)


@click.command("enroll", cls=CheckpointCommand)
@channel_option
@skip_bad_option
@device_option
@checkpoint_argument
@gallery_argument
@click.argument("name")
@click.argument("audio", nargs=-1, required=True)
def enroll(checkpoint, channel, skip_bad, device, gallery, name, audio):
    """Enroll a voice in a gallery.

    Adds the recordings AUDIO of the voice NAME, new or known, to the folder GALLERY, which is made if there is none.
    AUDIO is a file, - (standard input), or a command that ends in |. Several processes may enroll at once.

    Recordings that cannot be embedded are left out, and the exit status is 1. A recording that the voice has already is
    not added again, so a command that failed can be repeated.
    """
    from sdpn_k2.device import start_process
    from sdpn_k2.inference.embedder import Embedder
    from sdpn_k2.inference.gallery import Gallery

    voices = Gallery.open(gallery, Embedder.load(checkpoint, start_process(device).device), missing_ok=True)
    count = voices.enroll(name, *audio, channel=channel, skip_bad=skip_bad)
    click.echo(f"recordings of {name}: {count}; voices in {gallery}: {len(voices)}", err=True)
