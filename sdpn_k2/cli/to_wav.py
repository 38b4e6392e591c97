"""``sdpn-k2 to-wav``: any audio file as the wave file that Kaldi reads, for the lines of a wav.scp."""

import sys

import click


@click.command()
@click.option("--rate", default=16000, show_default=True, help="Sample rate in Hz; other files are resampled.")
@click.option("--channel", default=0, show_default=True, help="Channel, counted from 0.")
@click.argument("file", type=click.Path())
def to_wav(rate: int, channel: int, file: str) -> None:
    """Write FILE (- is standard input) to standard output as a 16-bit mono WAV.

    In a wav.scp:  <utterance> sdpn-k2 to-wav --rate 16000 --channel 0 FILE |
    """
    from sdpn_k2.kaldi.features.wave import Wave, encode_wave, read_audio

    sys.stdout.buffer.write(encode_wave(Wave(read_audio(file, rate, channel)[None], rate)))
    sys.stdout.buffer.flush()
