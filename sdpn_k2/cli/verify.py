"""``sdpn-k2 verify``: do two recordings come from one speaker?"""

import click

from sdpn_k2.cli.shared_options import channel_option, checkpoint_option, device_option, json_option, mean_option


@click.command("verify")
@checkpoint_option
@mean_option
@click.option(
    "--calibration",
    metavar="FILE",
    help='Add the probability, by a calibration that "sdpn-k2 calibrate" trained on such scores.',
)
@click.option("--p-target", type=float, default=0.5, help="Prior probability that the speaker is the same.")
@channel_option
@json_option
@device_option
@click.argument("enroll", nargs=-1, required=True)
@click.argument("test")
def verify(checkpoint, mean, calibration, p_target, channel, as_json, device, enroll, test):
    """Test whether recordings share a speaker.

    Prints the cosine between the embeddings of TEST and ENROLL. Several ENROLL embeddings are averaged at unit
    length. One recording may be - (standard input), and any may be a command that ends in |.
    """
    import json
    from dataclasses import asdict

    from sdpn_k2.device import start_process
    from sdpn_k2.inference.embedder import Embedder
    from sdpn_k2.inference.verification import verify as verify_recordings
    from sdpn_k2.kaldi.formats.tables import read_object
    from sdpn_k2.scoring.calibration import read_calibration

    if (*enroll, test).count("-") > 1:
        raise click.UsageError("standard input can be read only once")
    trained = read_calibration(calibration) if calibration else None
    subtracted = read_object(mean, "vector") if mean else None
    embedder = Embedder.load(checkpoint, start_process(device).device)
    verdict = verify_recordings(
        embedder, enroll, test, mean=subtracted, calibration=trained, p_target=p_target, channel=channel
    )
    if as_json:
        click.echo(json.dumps(asdict(verdict)))
        return
    click.echo(f"score        {verdict.score:.4f}")
    if verdict.probability is not None:
        click.echo(f"llr          {verdict.llr:.3f}")
        click.echo(f"probability  {verdict.probability:.4f} (prior {p_target:g})")
