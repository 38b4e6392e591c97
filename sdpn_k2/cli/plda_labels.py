"""``sdpn-k2 plda-labels``: classes for LDA and PLDA where there are no speaker labels."""

from pathlib import Path

import click


@click.command("plda-labels")
@click.option("--num-clusters", type=click.IntRange(min=2), help="[default: one for every 8 utterances, 2 to 7500]")
@click.option("--seed", default=0, show_default=True)
@click.argument("embeddings")
@click.argument("utt2spk", type=click.Path(path_type=Path, dir_okay=False))
def plda_labels(embeddings: str, utt2spk: Path, num_clusters, seed: int) -> None:
    """Cluster EMBEDDINGS (a Kaldi rspecifier) by k-means and write the clusters as classes to UTT2SPK."""
    from sdpn_k2.kaldi.datadir.data_dir import write_map
    from sdpn_k2.scoring.embeddings import read_embeddings
    from sdpn_k2.scoring.kmeans import pseudo_speakers

    speakers = pseudo_speakers(read_embeddings(embeddings), num_clusters, seed)
    write_map(utt2spk, speakers)
    click.echo(f"{utt2spk}: {len(speakers)} utterances in {len(set(speakers.values()))} clusters")
