"""``sdpn-k2 extract-windows``: x-vectors for diarization."""

from pathlib import Path

import click

from sdpn_k2.cli.options import device_option, window_options


@click.command("extract-windows")
@device_option
@window_options
@click.option(
    "--layout",
    type=click.Choice(["kaldi", "vbx"]),
    default="kaldi",
    show_default=True,
    help="How windows are named: RECORDING-START-END, or RECORDING_START-END as VBx wants it.",
)
@click.option(
    "--backend",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of mean.vec, transform.mat and plda to go along.  [default: mean and whitening of these]",
)
@click.argument("checkpoint", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("data_dir", type=click.Path(path_type=Path, file_okay=False))
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
def extract_windows(
    checkpoint: Path, data_dir: Path, output: Path, device: str, layout: str, backend, **windowing: float
) -> None:
    """Embed the speech segments of DATA_DIR in overlapping windows, for diarization by Kaldi's scripts or VBx.

    OUTPUT gets xvector.ark and .scp, segments, utt2spk, spk2utt, mean.vec, transform.mat and plda.
    """
    from sdpn_k2.device import start_process
    from sdpn_k2.inference.diarization import extract_windows as extract_all
    from sdpn_k2.inference.extraction import Extractor
    from sdpn_k2.kaldi.datadir.subsegments import Windowing
    from sdpn_k2.progress import log_to

    log_to()
    extractor = Extractor.load(checkpoint, start_process(device).device)
    made = extract_all(extractor, data_dir, output, Windowing(**windowing), layout=layout, backend=backend)
    click.echo(f"{output}: {made.windows} windows of {made.segments} segments in {made.recordings} recordings")
