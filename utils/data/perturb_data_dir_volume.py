#!/usr/bin/env python3
"""Change the volume of each recording of a data directory, in wav.scp.

Usage: utils/data/perturb_data_dir_volume.sh [options] data-dir

    utils/data/perturb_data_dir_volume.sh data/train_perturbed

  --scale-low X, --scale-high X  limits of the random factor (default: 0.125 and 2)
  --reco2vol FILE                factors to use instead, a line "recording factor" each
  --write-reco2vol FILE          where to write the factors, to use them again

The entries of wav.scp end in a call of sox, which changes the volume whenever the audio is read. Without sox on PATH,
utils/kaldi-bin/sox does. feats.scp does not hold any more, and is moved to data-dir/.backup. A directory whose volume
has been changed is left as it is.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir import data_dir, perturbation
from sdpn_k2.kaldi.tools import script


def main(options, directory):
    wav = Path(directory) / "wav.scp"
    if not wav.is_file():
        raise InputError(f"{wav}: no such file")
    entries = data_dir.read_map(wav)
    if any(map(perturbation.is_volume_perturbed, list(entries.values())[:100])):
        script.info("It looks like the data was already volume perturbed.  Not doing anything.")
        return
    low, high = script.number(options.scale_low, "--scale-low"), script.number(options.scale_high, "--scale-high")
    if low > high:
        raise InputError("--scale-low must not be above --scale-high")
    volumes = (
        data_dir.read_numbers(options.reco2vol) if options.reco2vol else perturbation.draw_volumes(entries, (low, high))
    )
    perturbed = perturbation.perturb_volume(entries, volumes)
    if options.write_reco2vol:
        data_dir.write_map(options.write_reco2vol, {recording: volumes[recording] for recording in entries})
    data_dir.write_map(wav, perturbed)
    feats = Path(directory) / "feats.scp"
    if feats.is_file():
        script.info(f"{feats} exists; moving it to {directory}/.backup/ as it wouldn't be valid any more.")
        (Path(directory) / ".backup").mkdir(exist_ok=True)
        feats.replace(Path(directory) / ".backup" / "feats.scp")
    script.info(f"added volume perturbation to the data in {directory}")


script.run(
    main,
    __doc__,
    arguments=(1, 1),
    values={"--scale-low": "0.125", "--scale-high": "2", "--reco2vol": "", "--write-reco2vol": ""},
)
