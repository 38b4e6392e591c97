"""``sdpn-k2 score``: cosine and PLDA scores of trials, plain or normalised."""

import click

from sdpn_k2.cli.shared_options import backend_options, mean_option


@click.command("score")
@click.option(
    "--enroll",
    required=True,
    metavar="TABLE",
    help="Enrolment embeddings: .ark, .scp, .npy, .json, .jsonl.gz or a folder, as extract and embed write them, or a "
    "Kaldi rspecifier.",
)
@click.option("--test", metavar="TABLE", show_default="those of --enroll", help="Test embeddings.")
@click.option(
    "--trials",
    type=click.Path(dir_okay=False, allow_dash=True),
    show_default="every enrolment with every test embedding",
    help="Trials to score, as lines 'enroll test [target|nontarget]'; - for standard input.",
)
@click.option(
    "--enroll-spk2utt",
    type=click.Path(dir_okay=False),
    help="Enrol each speaker from several utterances; trials then name speakers.",
)
@backend_options
@mean_option
@click.option("--whiten", metavar="TABLE", help="Whiten with the mean and covariance of these embeddings.")
@click.option("--transform", metavar="FILE", help="Multiply by this matrix, such as an LDA's transform.mat.")
@click.option("--norm", type=click.Choice(["z-norm", "t-norm", "s-norm", "as-norm"]), help="Normalise the scores.")
@click.option("--cohort", metavar="TABLE", help="Embeddings to normalise against, such as the training set's.")
@click.option(
    "--cohort-clusters",
    type=click.IntRange(min=2),
    metavar="K",
    help="Replace the cohort by the centres of K clusters.",
)
@click.option(
    "--top-n",
    type=click.IntRange(min=2),
    show_default="300 for as-norm, else all",
    help="Number of cohort members to use for each embedding.",
)
@click.option("--seed", type=int, default=0, help="Random seed for the cohort's clusters.")
@click.argument("output", metavar="OUT", type=click.Path(dir_okay=False, allow_dash=True))
def score(
    enroll,
    test,
    trials,
    enroll_spk2utt,
    backend,
    scoring,
    mean,
    whiten,
    transform,
    norm,
    cohort,
    cohort_clusters,
    top_n,
    seed,
    output,
):
    """Score trials by cosine similarity or PLDA.

    OUT gets lines "enroll test score"; - is standard output. Without --trials, OUT may be .npy, .json, .ark, .scp or a
    Kaldi wspecifier. It then gets the score matrix: a row for each enrolment, with the columns in the order of --test.
    """
    from sdpn_k2.scoring.backend import Backend
    from sdpn_k2.scoring.score_tables import Normalization, Preparation, score_tables, score_tables_with

    if (norm is None) != (cohort is None):
        raise click.UsageError("--norm and --cohort need each other")
    if norm is None and (cohort_clusters or top_n):
        raise click.UsageError("--cohort-clusters and --top-n need --norm")
    if top_n and norm == "s-norm":
        raise click.UsageError("s-norm uses the whole cohort; leave out --top-n, or choose as-norm, z-norm or t-norm")
    normalization = Normalization(norm, cohort, cohort_clusters, top_n, seed) if norm else None
    if backend:
        if mean or whiten or transform:
            raise click.UsageError("--backend replaces --mean, --whiten and --transform")
        loaded = Backend.load(backend, scoring)
        count = score_tables_with(
            loaded, enroll, test, trials, output, enroll_spk2utt=enroll_spk2utt, norm=normalization
        )
        click.echo(f"scored {count} trials by {loaded!r}", err=True)
        return
    if scoring in ("cosine_mean", "plda"):
        raise click.UsageError(f"--scoring {scoring} needs --backend")
    count = score_tables(
        enroll,
        test,
        trials,
        output,
        preparation=Preparation(mean, whiten, transform),
        enroll_spk2utt=enroll_spk2utt,
        norm=normalization,
    )
    click.echo(f"scored {count} trials", err=True)
