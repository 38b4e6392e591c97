"""``sdpn-k2 stream``: embeddings of a live or long recording in sliding windows."""

import os
from pathlib import Path

import click

from sdpn_k2.cli.checkpoint_argument import CheckpointCommand, checkpoint_argument
from sdpn_k2.cli.shared_options import channel_option, device_option, skip_bad_option, window_options
from sdpn_k2.errors import InputError


@click.command(cls=CheckpointCommand)
@device_option
@window_options
@channel_option
@click.option("--name", show_default='the file\'s name, or "stream"', help="Start of every key.")
@skip_bad_option
@checkpoint_argument
@click.argument("audio")
@click.argument("output", default="ark,t,f:-")
def stream(checkpoint: Path, audio: str, output: str, device: str, channel: int, name, skip_bad, **windowing) -> None:
    """Embed a live or long recording.

    Embeds AUDIO window by window, in constant memory. AUDIO is a file, - (standard input) or "command |". A stream may
    be 16-bit WAV, or 16-bit mono samples without a header at the model's sample rate.

    OUTPUT is .ark, .scp (and .ark), .npy, .json, a folder, or a Kaldi wspecifier. By default, every embedding goes to
    standard output as soon as it is ready.

    Silent windows, and those with samples that are not finite, are left out. If the latter are more than 5 %, the exit
    status is 1.
    """
    from sdpn_k2.device import start_process
    from sdpn_k2.inference.extraction import Extractor
    from sdpn_k2.inference.streaming import embed_stream
    from sdpn_k2.kaldi.datadir.subsegments import Windowing
    from sdpn_k2.kaldi.formats.words import is_key
    from sdpn_k2.progress import log_to

    cut = Windowing(**windowing)
    name = name or (Path(audio).stem if os.path.isfile(audio) else "stream")
    if not is_key(name):
        raise InputError(f"'{name}' has white space, which a key cannot have; choose another start with --name")
    log_to()
    extractor = Extractor.load(checkpoint, start_process(device).device)
    embed_stream(extractor, audio, output, key=name, windowing=cut, channel=channel, skip_bad=skip_bad)
