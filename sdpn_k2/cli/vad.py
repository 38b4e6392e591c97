"""``sdpn-k2 vad``: speech segments of recordings."""

import math
from pathlib import Path

import click

from sdpn_k2.cli.shared_options import FILE_OR_FOLDER, device_option, skip_bad_option
from sdpn_k2.errors import InputError


@click.command()
@device_option
@click.option(
    "--decoder",
    type=click.Choice(["auto", "k2", "torch"]),
    default="auto",
    help="Viterbi decoder to use; auto is k2 if it works, else torch.",
)
@click.option("--min-speech", default=0.2, metavar="SECONDS", help="Shortest speech segment.")
@click.option("--min-nonspeech", default=0.3, metavar="SECONDS", help="Shortest pause.")
@click.option("--to-speech-cost", default=30.0, help="Cost of a change to speech, in nats.")
@click.option("--to-nonspeech-cost", default=30.0, help="Cost of a change to non-speech, in nats.")
@click.option(
    "--log-likelihoods",
    metavar="RSPECIFIER",
    show_default="from log energy",
    help="Log-likelihoods of non-speech and speech from your own classifier, matrices (frames, 2).",
)
@skip_bad_option
@click.argument("data")
@click.argument("output", type=FILE_OR_FOLDER)
def vad(
    data: str,
    output: Path,
    decoder: str,
    min_speech: float,
    min_nonspeech: float,
    to_speech_cost: float,
    to_nonspeech_cost: float,
    log_likelihoods: str,
    skip_bad: bool,
    device: str,
) -> None:
    """Find speech in recordings.

    DATA is a Kaldi data directory, an rspecifier of wave files such as scp:wav.scp, or a set of cuts or recordings of
    lhotse: .jsonl, .json or .yaml, each also as .gz, or a folder of shards.

    OUTPUT is a folder. It gets vad.ark and vad.scp (one decision per frame), segments and utt2spk, and
    supervisions.jsonl.gz for lhotse. From cuts it also gets cuts.jsonl.gz: the cuts, with the speech segments in place
    of their supervisions. If OUTPUT is .jsonl or .jsonl.gz, it gets these cuts and nothing else.

    Utterances that cannot be used are left out. If they are more than 5 %, nothing is written, and the exit status is
    1.
    """
    from sdpn_k2.device import start_process
    from sdpn_k2.inference.speech_detection import detect_speech
    from sdpn_k2.progress import log_to
    from sdpn_k2.signal.decoders import find_decoder
    from sdpn_k2.signal.segmentation import SHIFT_SECONDS, Topology

    for name, seconds in (("--min-speech", min_speech), ("--min-nonspeech", min_nonspeech)):
        if not 0 < seconds < math.inf:
            raise InputError(f"{name}={seconds:g}: expected a number of seconds above 0")
    log_to()
    topology = Topology(
        round(min_speech / SHIFT_SECONDS), round(min_nonspeech / SHIFT_SECONDS), to_speech_cost, to_nonspeech_cost
    )
    decode = find_decoder(decoder)
    chosen = start_process(device).device
    summary = detect_speech(
        data, output, topology, decode, device=chosen, log_likelihoods=log_likelihoods, skip_bad=skip_bad
    )
    click.echo(f"{output}: {summary.lines()}")
