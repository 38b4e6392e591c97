#!/usr/bin/env python3
"""Repair a data directory: sort its tables in C locale and drop utterances that are missing from any of them.

Usage: utils/fix_data_dir.sh [options] data-dir

    utils/fix_data_dir.sh data/train

  --utt-extra-files "X ..."  sort these tables too, and drop the lines of dropped utterances
  --spk-extra-files "X ..."  the same for tables of speakers

The script also drops blank lines, Windows line ends, repeated lines and segments that end before they begin, and
rewrites spk2utt. It keeps the old files in data-dir/.backup. An id with two different values is an error, since only
you can know which one is right.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.kaldi.datadir import repair
from sdpn_k2.kaldi.tools import script


def main(options, directory):
    for note in repair.fix(directory, options.utt_extra_files.split(), options.spk_extra_files.split()):
        script.info(note)


script.run(main, __doc__, arguments=(1, 1), values={"--utt-extra-files": "", "--spk-extra-files": ""})
