"""``sdpn-k2 calibrate``: train a calibration or a fusion on development scores."""

import click


@click.command("calibrate")
@click.option("--p-target", type=float, default=0.5, help="Prior at which the ratios should be most accurate.")
@click.argument("trials", type=click.Path(dir_okay=False))
@click.argument("scores", type=click.Path(dir_okay=False), nargs=-1, required=True)
@click.argument("calibration", type=click.Path(dir_okay=False))
def calibrate(trials, scores, calibration, p_target):
    """Train a calibration or fusion of scores.

    Reads labelled development TRIALS and the SCORES of one system, or of several to fuse. Writes the weights to
    CALIBRATION (JSON), for "sdpn-k2 apply-calibration".
    """
    from sdpn_k2.scoring.calibration import stack_scores, train_calibration, write_calibration
    from sdpn_k2.scoring.evaluation import read_labelled_trials

    labelled = read_labelled_trials(trials)
    trained = train_calibration(stack_scores(scores, labelled), labelled.labels(), p_target)
    write_calibration(calibration, trained)
    weights = " ".join(f"{weight:.6g}" for weight in trained.weights)
    click.echo(f"weights {weights}, offset {trained.offset:.6g}", err=True)
