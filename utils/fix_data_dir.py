#!/usr/bin/env python3
"""Repair a data directory: sort its tables in C locale and drop utterances that are missing from any of them.

Usage: utils/fix_data_dir.sh [options] data-dir

    utils/fix_data_dir.sh data/train

  --utt-extra-files "X ..."  sort these tables too, and drop the lines of dropped utterances
  --spk-extra-files "X ..."  the same for tables of speakers

An utterance is dropped, too, if a line about it, its speaker or its recording is not valid: a duration or number of
frames of 0, a gender other than m and f, a segment that ends before it begins. Blank lines and Windows line ends are
removed, and of several lines with one id the first counts. The old files are kept in data-dir/.backup.
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
