#!/usr/bin/env python3
"""Write a copy of a data directory whose speech is faster or slower.

Usage: utils/perturb_data_dir_speed.sh [--include-spk-prefix false] factor source destination

    utils/perturb_data_dir_speed.sh 0.9 data/train data/train_sp0.9

  --include-spk-prefix false  keep the names of speakers

Ids get the prefix sp0.9-, and utt2uniq keeps the old names of utterances. The entries of wav.scp end in a call of sox,
which changes the speed whenever the audio is read. Without sox on PATH, utils/kaldi-bin/sox does. utt2dur and
reco2dur are made first if the source lacks them. Features are left out; make them again.
"""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir import perturbation, validation
from sdpn_k2.kaldi.tools import script


def main(options, factor, source, destination):
    if options.include_spk_prefix not in ("true", "false"):
        raise InputError(f"--include-spk-prefix must be true or false, got '{options.include_spk_prefix}'")
    if not (Path(source) / "utt2spk").is_file():
        raise InputError(f"{source}/utt2spk: no such file (is this a data directory?)")
    data = Path(__file__).resolve().parent / "data"
    has_audio = (Path(source) / "wav.scp").is_file()
    missing = [name for name in ("utt2dur", "reco2dur") if not (Path(source) / name).is_file()]
    for name in missing if has_audio else []:
        if subprocess.run([data / f"get_{name}.sh", source], stdout=sys.stderr).returncode:
            raise InputError(f"{source}: cannot make {name}")
    perturbation.perturb_speed(source, destination, factor, options.include_spk_prefix == "true")
    script.info(f"generated speed-perturbed version of data in {source}, in {destination}")
    number = validation.validate(destination, feats=False, text=False, wav=has_audio)
    script.info(f"Successfully validated data-directory {destination} ({number} utterances)")


script.run(main, __doc__, arguments=(3, 3), values={"--include-spk-prefix": "true"})
