"""``sdpn-k2 plda-labels``: classes for LDA and PLDA when there are no speaker labels."""

from pathlib import Path

import click

from sdpn_k2.cli.shared_options import FILE


@click.command("plda-labels")
@click.option(
    "--num-clusters",
    type=click.IntRange(min=2),
    show_default="one per 8 utterances, 2 to 7500",
    help="Number of clusters.",
)
@click.option("--seed", default=0, help="Random seed for the initial centres.")
@click.argument("embeddings")
@click.argument("utt2spk", type=FILE)
def plda_labels(embeddings: str, utt2spk: Path, num_clusters, seed: int) -> None:
    """Cluster embeddings into classes for PLDA.

    Clusters EMBEDDINGS by spherical k-means and writes the cluster of each utterance to UTT2SPK. EMBEDDINGS is anything
    that "sdpn-k2 extract" writes, or a Kaldi rspecifier.
    """
    from sdpn_k2.kaldi.datadir.data_dir import write_map
    from sdpn_k2.scoring.kmeans import pseudo_speakers
    from sdpn_k2.scoring.vector_files import read_embeddings

    speakers = pseudo_speakers(read_embeddings(embeddings), num_clusters, seed)
    write_map(utt2spk, speakers)
    click.echo(f"{utt2spk}: {len(speakers)} utterances in {len(set(speakers.values()))} clusters")
