"""``sdpn-k2 extract-windows``: x-vectors for diarization."""

from pathlib import Path

import click

from sdpn_k2.cli.checkpoint_argument import CheckpointCommand, checkpoint_argument
from sdpn_k2.cli.shared_options import FOLDER, device_option, skip_bad_option, window_options


@click.command("extract-windows", cls=CheckpointCommand)
@device_option
@window_options
@click.option(
    "--layout",
    type=click.Choice(["kaldi", "vbx"]),
    default="kaldi",
    help="Names of windows: RECORDING-START-END for Kaldi, RECORDING_START-END for VBx.",
)
@click.option(
    "--backend",
    type=FOLDER,
    show_default="mean and whitening of these windows",
    help="Folder of the mean.vec, transform.mat and plda to copy.",
)
@skip_bad_option
@checkpoint_argument
@click.argument("data_dir", type=FOLDER)
@click.argument("output", type=FOLDER)
def extract_windows(
    checkpoint: Path,
    data_dir: Path,
    output: Path,
    device: str,
    layout: str,
    backend,
    skip_bad: bool,
    **windowing: float,
) -> None:
    """Embed speech in windows for diarization.

    The speech segments of DATA_DIR are cut into overlapping windows, for Kaldi's diarization scripts or VBx. OUTPUT
    gets xvector.ark, xvector.scp, segments, utt2spk, spk2utt, mean.vec and transform.mat; with --backend also plda.

    Segments that cannot be embedded are left out. If they are more than 5 %, nothing is written, and the exit status is
    1.
    """
    from sdpn_k2.device import start_process
    from sdpn_k2.inference.diarization import extract_windows as extract_all
    from sdpn_k2.inference.extraction import Extractor
    from sdpn_k2.kaldi.datadir.subsegments import Windowing
    from sdpn_k2.progress import log_to

    log_to()
    extractor = Extractor.load(checkpoint, start_process(device).device)
    made = extract_all(
        extractor, data_dir, output, Windowing(**windowing), layout=layout, backend=backend, skip_bad=skip_bad
    )
    click.echo(f"{output}: {made.windows} windows of {made.segments} segments in {made.recordings} recordings")
