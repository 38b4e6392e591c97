"""``sdpn-k2 eval``: the error rates of one score file."""

import click

from sdpn_k2.cli.shared_options import json_option


@click.command("eval")
@click.argument("scores", type=click.Path(dir_okay=False, allow_dash=True))
@click.argument("trials", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--p-target",
    "p_targets",
    type=float,
    multiple=True,
    default=(0.01, 0.05),
    help="Prior probability of a target trial for minDCF and actDCF. Repeatable.",
)
@click.option("--c-miss", type=float, default=1.0, help="Cost of a miss.")
@click.option("--c-fa", type=float, default=1.0, help="Cost of a false alarm.")
@click.option(
    "--nist",
    "evaluations",
    multiple=True,
    metavar="SRE",
    help="Add the primary cost of a NIST evaluation: sre08, sre10, sre12, sre16, sre18-cts … Repeatable.",
)
@click.option(
    "--utt2spk",
    type=click.Path(dir_okay=False),
    help="Add 95 % intervals of EER, costs and Cllr, by resampling these speakers.",
)
@json_option
def evaluate(scores, trials, p_targets, c_miss, c_fa, evaluations, utt2spk, as_json):
    """Measure error rates of a score file.

    Prints EER, detection costs and Cllr. SCORES has lines "enroll test score", in any order; TRIALS has lines "enroll
    test target|nontarget". One of the two may be - (standard input).

    Three rules give an EER. Quote the first, "EER %", which RESULTS.md and the report show too. actDCF and Cllr are
    only meaningful for scores that are log-likelihood ratios.
    """
    import json

    from sdpn_k2.errors import InputError
    from sdpn_k2.scoring.evaluation import evaluate_scores

    if scores == trials == "-":
        raise InputError("SCORES and TRIALS cannot both be standard input")
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
