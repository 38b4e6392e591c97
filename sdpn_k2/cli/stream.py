"""``sdpn-k2 stream``: embeddings of a live or long recording in sliding windows."""

import os
from pathlib import Path

import click

from sdpn_k2.cli.options import device_option, window_options
from sdpn_k2.errors import InputError


@click.command()
@device_option
@window_options
@click.option(
    "--channel",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of recordings with several, counted from 0.",
)
@click.option("--name", help="What keys begin with.  [default: the file's name, or stream]")
@click.argument("checkpoint", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("audio")
@click.argument("output", default="ark,t,f:-")
def stream(checkpoint: Path, audio: str, output: str, device: str, channel: int, name, **windowing: float) -> None:
    """Embed AUDIO window by window; memory does not grow with its length.

    AUDIO is a file, - (standard input) or "command |"; the last two write 16-bit WAV or, without a header, 16-bit mono
    samples at the model's rate. OUTPUT is a Kaldi wspecifier; by default every embedding goes to the standard output as
    soon as it is there.
    """
    from sdpn_k2.device import start_process
    from sdpn_k2.inference.extraction import Extractor
    from sdpn_k2.inference.streaming import embed_stream
    from sdpn_k2.kaldi.datadir.subsegments import Windowing
    from sdpn_k2.progress import log_to

    cut = Windowing(**windowing).check()
    name = name or (Path(audio).stem if os.path.isfile(audio) else "stream")
    if name.split() != [name]:
        raise InputError(f"'{name}' cannot begin a key, for it has white space: say what keys begin with: --name NAME")
    log_to()
    extractor = Extractor.load(checkpoint, start_process(device).device)
    embed_stream(extractor, audio, output, key=name, windowing=cut, channel=channel)
