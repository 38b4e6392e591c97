"""``sdpn-k2 apply-calibration``: scores to log-likelihood ratios."""

import click


@click.command("apply-calibration")
@click.argument("calibration", type=click.Path(dir_okay=False))
@click.argument("scores", type=click.Path(dir_okay=False), nargs=-1, required=True)
@click.argument("output", metavar="OUT", type=click.Path(dir_okay=False, allow_dash=True))
def apply_calibration(calibration, scores, output):
    """Turn scores into log-likelihood ratios.

    CALIBRATION comes from "sdpn-k2 calibrate". Give the SCORES of fused systems in the order of their training. OUT
    lists the trials of the first score file in its order; - is standard output. SCORES of the recipe
    (EXP/scores/SET/TRIALS.SCORING) must be of the kind that CALIBRATION was trained on.
    """
    from sdpn_k2.scoring.backend import kind_of_scores
    from sdpn_k2.scoring.calibration import read_calibration, stack_scores
    from sdpn_k2.scoring.trial_arrays import Scores, read_scores, write_scores

    trained = read_calibration(calibration)
    trained.check_kinds([kind_of_scores(path) for path in scores], scores)
    first = read_scores(scores[0])
    ratios = trained.apply(stack_scores((first, *scores[1:]), first.trials))
    write_scores(output, Scores(first.trials, ratios))
