"""``sdpn-k2 verify``: do two recordings come from one speaker?"""

import click

from sdpn_k2.cli.checkpoint_argument import CheckpointCommand, checkpoint_argument
from sdpn_k2.cli.shared_options import (
    backend_options,
    channel_option,
    decision_options,
    device_option,
    json_option,
    mean_option,
)


@click.command("verify", cls=CheckpointCommand)
@backend_options
@mean_option
@decision_options
@channel_option
@json_option
@device_option
@checkpoint_argument
@click.argument("enroll", nargs=-1, required=True)
@click.argument("test")
def verify(
    checkpoint, backend, scoring, mean, threshold, calibration, p_target, channel, as_json, device, enroll, test
):
    """Test whether recordings share a speaker.

    Compares TEST with a speaker enrolled from one or several ENROLL. One recording may be - (standard input), and any
    may be a command that ends in |.

    If the checkpoint is an experiment (or its final.pt), its own back end scores. The threshold is that of the
    calibration at the prior; without a calibration, that of the experiment's results.json at the EER.
    """
    import json
    from dataclasses import asdict

    from sdpn_k2.device import start_process
    from sdpn_k2.inference.embedder import Embedder
    from sdpn_k2.kaldi.formats.tables import read_object
    from sdpn_k2.scoring.backend import Backend

    if (*enroll, test).count("-") > 1:
        raise click.UsageError("standard input can be read only once")
    if mean and (backend or scoring != "auto"):
        raise click.UsageError("--mean is for cosine scores without --backend and --scoring")
    embedder = Embedder.load(checkpoint, start_process(device).device)
    verdict = embedder.verify(
        list(enroll),
        test,
        backend=Backend("cosine_mean", read_object(mean, "vector")) if mean else backend,
        scoring=scoring,
        calibration=calibration,
        threshold=threshold,
        p_target=p_target,
        channel=channel,
    )
    click.echo(json.dumps(asdict(verdict)) if as_json else str(verdict))
