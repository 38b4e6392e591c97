"""``sdpn-k2 plda-labels``: classes for LDA and PLDA when there are no speaker labels."""

from pathlib import Path

import click

from sdpn_k2.cli.options import FILE

UTTERANCES_PER_CLUSTER = 8
MAX_CLUSTERS = 7500


@click.command("plda-labels")
@click.option(
    "--num-clusters",
    type=click.IntRange(min=2),
    show_default=f"one per {UTTERANCES_PER_CLUSTER} utterances, 2 to {MAX_CLUSTERS}",
    help="Number of clusters.",
)
@click.option("--seed", default=0, help="Random seed for the initial centres.")
@click.argument("embeddings")
@click.argument("utt2spk", type=FILE)
def plda_labels(embeddings: str, utt2spk: Path, num_clusters, seed: int) -> None:
    """Cluster embeddings into classes for PLDA.

    Clusters EMBEDDINGS (a Kaldi rspecifier) by spherical k-means and writes the cluster of each utterance to UTT2SPK.
    """
    from sdpn_k2.kaldi.datadir.data_dir import write_map
    from sdpn_k2.scoring.embeddings import read_embeddings, subtract_mean
    from sdpn_k2.scoring.kmeans import spherical_kmeans

    utterances = read_embeddings(embeddings)
    if num_clusters is None:
        num_clusters = min(MAX_CLUSTERS, max(2, len(utterances) // UTTERANCES_PER_CLUSTER))
    centred = subtract_mean(utterances, utterances.vectors.mean(axis=0))
    labels = spherical_kmeans(centred, num_clusters, seed).labels
    write_map(utt2spk, ((name, f"cluster{label:05d}") for name, label in zip(utterances.ids, labels)))
    click.echo(f"{utt2spk}: {len(utterances)} utterances in {num_clusters} clusters")
