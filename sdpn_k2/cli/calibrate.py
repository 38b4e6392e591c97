"""``sdpn-k2 calibrate``: train a calibration or a fusion on development scores."""

import click

from sdpn_k2.cli.shared_options import backend_options


@click.command("calibrate")
@click.option("--p-target", type=float, default=0.5, help="Prior at which the ratios should be most accurate.")
@backend_options
@click.argument("trials", type=click.Path(dir_okay=False))
@click.argument("scores", type=click.Path(dir_okay=False), nargs=-1, required=True)
@click.argument("calibration", type=click.Path(dir_okay=False))
def calibrate(trials, scores, calibration, p_target, backend, scoring):
    """Train a calibration or fusion of scores.

    Reads labelled development TRIALS and the SCORES of one system, or of several to fuse. Writes the weights to
    CALIBRATION (JSON), for "sdpn-k2 apply-calibration" and "verify".

    CALIBRATION also records the kind of SCORES, and other kinds are refused later. Scores of the recipe
    (EXP/scores/SET/TRIALS.SCORING) tell their kind. For others, say how they were made by --scoring and --backend.
    """
    from sdpn_k2.scoring.backend import Backend, kind_of_scores
    from sdpn_k2.scoring.calibration import stack_scores, train_calibration, write_calibration
    from sdpn_k2.scoring.evaluation import read_labelled_trials
    from sdpn_k2.scoring.trial_arrays import check_not_swapped

    if scoring in ("cosine_mean", "plda") and not backend:
        raise click.UsageError(f"--scoring {scoring} needs --backend")
    if backend or scoring != "auto":
        if len(scores) > 1:
            raise click.UsageError("--backend and --scoring describe the scores of one system")
        kinds = [(Backend.load(backend, scoring) if backend else Backend()).kind]
    else:
        kinds = [kind_of_scores(path) for path in scores]
    check_not_swapped(trials, *scores)
    labelled = read_labelled_trials(trials)
    trained = train_calibration(stack_scores(scores, labelled), labelled.labels(), p_target, kinds)
    write_calibration(calibration, trained)
    weights = " ".join(f"{weight:.6g}" for weight in trained.weights)
    named = ", ".join(kind or "scores of unknown kind" for kind in kinds)
    click.echo(f"weights {weights}, offset {trained.offset:.6g}; trained on {named}", err=True)
