#!/usr/bin/env python3
"""Repair a data directory: sort its tables in C locale and drop utterances that are not in all of them.

Usage: utils/fix_data_dir.sh [options] data-dir

    utils/fix_data_dir.sh data/train      # fix_data_dir.sh: kept 1240 utterances out of 1251; ...

Blank lines, Windows line ends, repeated lines and segments that end before they begin go too, and spk2utt is made anew.
The old files are kept in data-dir/.backup. One id with two different values is an error: only you can know which holds.
  --utt-extra-files "X ..."  also sort these tables, and drop the lines of utterances that are gone
  --spk-extra-files "X ..."  the same for tables of speakers
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.kaldi.datadir import data_dir_ops  # noqa: E402
from sdpn_k2.kaldi.tools import script  # noqa: E402


def main(options, directory):
    for note in data_dir_ops.fix(directory, options.utt_extra_files.split(), options.spk_extra_files.split()):
        script.tell(note)


script.run(main, __doc__, arguments=(1, 1), values={"--utt-extra-files": "", "--spk-extra-files": ""})
