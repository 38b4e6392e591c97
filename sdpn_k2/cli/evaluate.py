"""``sdpn-k2 eval``: the error rates of one score file."""

import click


@click.command("eval")
@click.argument("scores", type=click.Path(dir_okay=False, allow_dash=True))
@click.argument("trials", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--p-target",
    "p_targets",
    type=float,
    multiple=True,
    default=(0.01, 0.05),
    show_default=True,
    help="Prior probability of a target trial for minDCF and actDCF; give it as often as you like.",
)
@click.option("--c-miss", type=float, default=1.0, show_default=True, help="Cost of a miss.")
@click.option("--c-fa", type=float, default=1.0, show_default=True, help="Cost of a false alarm.")
@click.option(
    "--nist",
    "evaluations",
    multiple=True,
    metavar="SRE",
    help="Also the primary cost of a NIST evaluation: sre08, sre10, sre12, sre16, sre18-cts ...",
)
@click.option(
    "--utt2spk",
    type=click.Path(dir_okay=False),
    help="Speakers of the utterances: adds 95 % intervals of EER, costs and Cllr, by resampling speakers.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def evaluate(scores, trials, p_targets, c_miss, c_fa, evaluations, utt2spk, as_json):
    """Print EER, detection costs and Cllr of a score file.

    SCORES has lines "enroll test score", in any order; TRIALS has lines "enroll test target|nontarget". One of the two
    may be "-", the standard input. actDCF and Cllr mean something only for scores that are log-likelihood ratios.
    """
    import json

    from sdpn_k2.errors import InputError
    from sdpn_k2.scoring.evaluation import evaluate_scores

    if scores == trials == "-":
        raise InputError("SCORES and TRIALS cannot both be the standard input")
    figures = evaluate_scores(
        scores,
        trials,
        p_targets=p_targets,
        c_miss=c_miss,
        c_fa=c_fa,
        evaluations=evaluations,
        utt2spk=utt2spk,
    )
    click.echo(json.dumps(figures.as_dict(), indent=2, allow_nan=False) if as_json else figures.table(), nl=as_json)
