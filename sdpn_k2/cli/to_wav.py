"""``sdpn-k2 to-wav``: any audio file as a wave file that Kaldi reads, for the lines of a wav.scp."""

import sys

import click

from sdpn_k2.cli.shared_options import channel_option


@click.command()
@click.option("--rate", default=16000, help="Sample rate in Hz; files at other rates are resampled.")
@channel_option
@click.argument("file", type=click.Path())
def to_wav(rate: int, channel: int, file: str) -> None:
    """Convert audio to WAV for wav.scp entries.

    FILE (- is standard input) goes to standard output as a 16-bit mono WAV. In a wav.scp:

        <utterance> sdpn-k2 to-wav --rate 16000 --channel 0 FILE |
    """
    from sdpn_k2.kaldi.features.wave import Wave, convert_audio, decode_audio, encode_wave, path_or_content

    samples, own_rate = decode_audio(path_or_content(file), file, channel)
    if own_rate < rate:
        click.echo(f"sdpn-k2: warning: {file}: upsampling from {own_rate} to {rate} Hz", err=True)
    sys.stdout.buffer.write(encode_wave(Wave(convert_audio(samples, own_rate, rate)[None], rate)))
    sys.stdout.buffer.flush()
