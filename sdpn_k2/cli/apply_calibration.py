"""``sdpn-k2 apply-calibration``: from scores to log-likelihood ratios."""

import click


@click.command("apply-calibration")
@click.argument("calibration", type=click.Path(dir_okay=False))
@click.argument("scores", type=click.Path(dir_okay=False), nargs=-1, required=True)
@click.argument("output", metavar="OUT", type=click.Path(dir_okay=False, allow_dash=True))
def apply_calibration(calibration, scores, output):
    """Turn the SCORES of a system, or of several, into log-likelihood ratios with a CALIBRATION.

    The trials of OUT are those of the first score file, in its order; the systems are given in the order of training.
    """
    from sdpn_k2.scoring.calibration import read_calibration, stack_scores
    from sdpn_k2.scoring.trial_arrays import Scores, read_scores, write_scores

    trained = read_calibration(calibration)
    first = read_scores(scores[0])
    ratios = trained.apply(stack_scores((first, *scores[1:]), first.trials))
    write_scores(output, Scores(first.trials, ratios))
