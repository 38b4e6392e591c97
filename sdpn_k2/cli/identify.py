"""``sdpn-k2 identify``: which enrolled voice is this?"""

import click

from sdpn_k2.cli.checkpoint_argument import CheckpointCommand, checkpoint_argument
from sdpn_k2.cli.shared_options import (
    backend_options,
    channel_option,
    decision_options,
    device_option,
    gallery_argument,
    json_option,
    skip_bad_option,
)


@click.command("identify", cls=CheckpointCommand)
@backend_options
@decision_options
@click.option("--best", type=click.IntRange(min=1), default=5, metavar="N", help="Number of voices to list.")
@channel_option
@skip_bad_option
@json_option
@device_option
@checkpoint_argument
@gallery_argument
@click.argument("audio", nargs=-1, required=True)
def identify(
    checkpoint,
    backend,
    scoring,
    threshold,
    calibration,
    p_target,
    best,
    channel,
    skip_bad,
    as_json,
    device,
    gallery,
    audio,
):
    """Identify the speakers of recordings.

    Compares each AUDIO with the voices that "sdpn-k2 enroll" put into GALLERY, and prints the name of the best one, or
    "unknown" if its score is below the threshold. Score and threshold are those of "sdpn-k2 verify".

    Each recording is compared with all voices, so false alarms add up. With a calibration, set --p-target to the share
    of recordings whose speaker is enrolled, divided by the number of voices.
    """
    import json
    from dataclasses import asdict

    from sdpn_k2.device import start_process
    from sdpn_k2.inference.embedder import Embedder
    from sdpn_k2.inference.gallery import Gallery

    voices = Gallery.open(gallery, Embedder.load(checkpoint, start_process(device).device))
    for name, answer in voices.identify_many(
        audio,
        best=best,
        backend=backend,
        scoring=scoring,
        calibration=calibration,
        threshold=threshold,
        p_target=p_target,
        channel=channel,
        skip_bad=skip_bad,
    ):
        if as_json:
            click.echo(json.dumps({"recording": name, **asdict(answer)}))
        else:
            click.echo(f"{name}: {answer}" if len(audio) > 1 else str(answer))
