"""``sdpn-k2 verify``: do two recordings come from one speaker?"""

import click

from sdpn_k2.cli.options import checkpoint_option, device_option


@click.command("verify")
@checkpoint_option
@click.option("--mean", metavar="FILE", help="Vector subtracted from every embedding, such as the recipe's mean.vec.")
@click.option("--calibration", metavar="FILE", help="From sdpn-k2 calibrate, on such scores: adds the probability.")
@click.option("--p-target", type=float, default=0.5, show_default=True, help="Prior probability of one speaker.")
@click.option("--channel", default=0, show_default=True, help="Of recordings with several, counted from 0.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@device_option
@click.argument("enroll", nargs=-1, required=True)
@click.argument("test")
def verify(checkpoint, mean, calibration, p_target, channel, as_json, device, enroll, test):
    """Compare recordings: is TEST of the speaker of ENROLL?

    The score is the cosine of their embeddings; those of several ENROLL are averaged at unit length. One recording may be -
    (the standard input), any a command that ends in |.
    """
    import json
    from dataclasses import asdict

    from sdpn_k2.device import start_process
    from sdpn_k2.inference.embedder import Embedder
    from sdpn_k2.inference.verification import verify as verify_recordings
    from sdpn_k2.kaldi.formats.tables import read_object
    from sdpn_k2.scoring.calibration import read_calibration

    if (*enroll, test).count("-") > 1:
        raise click.UsageError("the standard input can be read once")
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
