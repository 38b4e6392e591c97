"""``sdpn-k2 lhotse``: exchange between lhotse's manifests and Kaldi's tables."""

from pathlib import Path

import click

from sdpn_k2.cli.groups import SuggestingGroup
from sdpn_k2.cli.shared_options import FILE, FOLDER


@click.group(cls=SuggestingGroup)
def lhotse() -> None:
    """Exchange data between lhotse and Kaldi."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")


@lhotse.command("to-kaldi")
@click.option("--prefix-speaker", is_flag=True, help="Start every utterance id with its speaker: SPEAKER-ID.")
@click.argument("recordings", type=FILE)
@click.argument("supervisions", type=FILE)
@click.argument("data_dir", type=FOLDER)
def to_kaldi(recordings: Path, supervisions: Path, data_dir: Path, prefix_speaker: bool) -> None:
    """Write two manifests as a Kaldi directory.

    RECORDINGS and SUPERVISIONS become the Kaldi data directory DATA_DIR.
    """
    from lhotse import RecordingSet, SupervisionSet

    from sdpn_k2.data.kaldi_exchange import write_kaldi_dir
    from sdpn_k2.data.manifest_files import load_manifest

    written = write_kaldi_dir(
        load_manifest(recordings, RecordingSet), load_manifest(supervisions, SupervisionSet), data_dir, prefix_speaker
    )
    click.echo(
        f"{data_dir}: {written.utterances} utterances of {written.speakers} speakers in {written.recordings} recordings"
    )


@lhotse.command("from-kaldi")
@click.argument("data_dir", type=FOLDER)
@click.argument("manifests", type=FOLDER)
def from_kaldi(data_dir: Path, manifests: Path) -> None:
    """Write a Kaldi directory as manifests.

    A directory called NAME becomes MANIFESTS/recordings_NAME.jsonl.gz and supervisions_NAME.jsonl.gz.
    """
    from sdpn_k2.data.kaldi_exchange import read_kaldi_dir
    from sdpn_k2.data.manifest_files import write_manifest
    from sdpn_k2.files import make_folder

    recordings, supervisions = read_kaldi_dir(data_dir)
    make_folder(manifests)
    name = data_dir.resolve().name
    write_manifest(recordings, manifests / f"recordings_{name}.jsonl.gz")
    write_manifest(supervisions, manifests / f"supervisions_{name}.jsonl.gz")
    click.echo(f"{manifests}: {len(supervisions)} utterances in {len(recordings)} recordings")


@lhotse.command("export-feats")
@click.argument("cuts", type=FILE)
@click.argument("data_dir", type=FOLDER)
def export_feats(cuts: Path, data_dir: Path) -> None:
    """Write features of cuts as Kaldi's feats.scp.

    The stored features of CUTS go into DATA_DIR.
    """
    from sdpn_k2.data.manifest_files import load_manifest
    from sdpn_k2.data.stored_arrays import export_features

    click.echo(f"{data_dir}/feats.scp: {export_features(load_manifest(cuts), data_dir)} utterances")


@lhotse.command("attach-xvectors")
@click.argument("cuts", type=FILE)
@click.argument("xvectors")
@click.argument("output", type=FILE)
def attach(cuts: Path, xvectors: str, output: Path) -> None:
    """Attach x-vectors to cuts.

    CUTS are written to OUTPUT (.jsonl or .jsonl.gz) with the vectors of XVECTORS as cut.xvector. The arrays go into a
    folder beside it: NAME.xvectors for NAME.jsonl.gz. XVECTORS is anything that "sdpn-k2 extract" writes, or a Kaldi
    rspecifier. Windows do not get the x-vector of their utterance; embed them with "sdpn-k2 extract".
    """
    from sdpn_k2.data.manifest_files import load_manifest
    from sdpn_k2.data.stored_arrays import attach_xvectors
    from sdpn_k2.kaldi.formats.tables import RandomReader, is_table
    from sdpn_k2.progress import log_to
    from sdpn_k2.scoring.vector_files import read_vectors

    log_to()
    vectors = RandomReader(xvectors, "vector") if is_table(xvectors) else read_vectors(xvectors)
    counts = attach_xvectors(load_manifest(cuts), vectors, output, source=xvectors)
    click.echo(f"{output}: {counts.found} cuts with an x-vector, {counts.missing} without")


@lhotse.command("export-xvectors")
@click.argument("cuts", type=FILE)
@click.argument("output")
def export(cuts: Path, output: str) -> None:
    """Write x-vectors of cuts as a Kaldi table.

    cut.xvector of CUTS goes to OUTPUT: .ark, .scp (and .ark), .npy, .json, a folder, or a Kaldi wspecifier such as
    ark,scp:xvector.ark,xvector.scp.
    """
    from sdpn_k2.data.manifest_files import load_manifest
    from sdpn_k2.data.stored_arrays import collect_xvectors
    from sdpn_k2.scoring.vector_files import is_stdout, write_vectors

    vectors, missing = collect_xvectors(load_manifest(cuts))
    write_vectors(output, vectors)
    click.echo(f"{output}: {len(vectors)} x-vectors; {missing} cuts without one", err=is_stdout(output))
