"""``sdpn-k2 score``: cosine scores of trials, plain or normalised."""

import click


@click.command("score")
@click.option(
    "--enroll", required=True, metavar="TABLE", help="Enrolment embeddings: a Kaldi rspecifier, or a .scp or .ark file."
)
@click.option("--test", metavar="TABLE", help="Test embeddings.  [default: those of --enroll]")
@click.option(
    "--trials",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Lines 'enroll test [target|nontarget]'; - for the standard input.  [default: every enrolment with "
    "every test embedding]",
)
@click.option(
    "--enroll-spk2utt",
    type=click.Path(dir_okay=False),
    help="Enrol speakers from several utterances each; trials then name speakers.",
)
@click.option("--mean", metavar="FILE", help="Vector subtracted from every embedding, such as the recipe's mean.vec.")
@click.option("--whiten", metavar="TABLE", help="Whiten with mean and covariance of these embeddings.")
@click.option("--transform", metavar="FILE", help="Matrix applied after that, such as an LDA's transform.mat.")
@click.option("--norm", type=click.Choice(["z-norm", "t-norm", "s-norm", "as-norm"]), help="Normalise scores.")
@click.option("--cohort", metavar="TABLE", help="Embeddings to normalise against, such as the training set's.")
@click.option(
    "--cohort-clusters",
    type=click.IntRange(min=2),
    metavar="K",
    help="Use the centres of K clusters of the cohort in its place.",
)
@click.option(
    "--top-n",
    type=click.IntRange(min=2),
    help="Cohort members used for each embedding.  [default: 300 for as-norm, all for the others]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the clusters.")
@click.argument("output", metavar="OUT", type=click.Path(dir_okay=False, allow_dash=True))
def score(
    enroll, test, trials, enroll_spk2utt, mean, whiten, transform, norm, cohort, cohort_clusters, top_n, seed, output
):
    """Score trials by the cosine of their embeddings.

    OUT gets lines "enroll test score" (- is the standard output); with a name in .npy and without --trials it gets the
    score matrix, float32, rows and columns in the order of the tables.
    """
    from sdpn_k2.scoring.score_tables import Normalization, Preparation, score_tables

    if (norm is None) != (cohort is None):
        raise click.UsageError("--norm and --cohort need each other")
    if norm is None and (cohort_clusters or top_n):
        raise click.UsageError("--cohort-clusters and --top-n are for --norm")
    if top_n and norm == "s-norm":
        raise click.UsageError("--top-n is for as-norm, z-norm and t-norm; s-norm uses the whole cohort")
    count = score_tables(
        enroll,
        test,
        trials,
        output,
        preparation=Preparation(mean, whiten, transform),
        enroll_spk2utt=enroll_spk2utt,
        norm=Normalization(norm, cohort, cohort_clusters, top_n, seed) if norm else None,
    )
    click.echo(f"scored {count} trials", err=True)
