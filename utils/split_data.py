#!/usr/bin/env python3
"""Split a data directory into parts for parallel jobs.

Usage: utils/split_data.sh [--per-utt] data-dir number-of-parts

    utils/split_data.sh data/train 8              # data/train/split8/1 ... 8; each speaker stays in one part
    utils/split_data.sh --per-utt data/train 8    # data/train/split8utt/1 ... 8

Parts that are newer than the data directory are left alone.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.kaldi.datadir import data_dir_ops
from sdpn_k2.kaldi.tools import script


def main(options, directory, parts):
    data_dir_ops.split(directory, script.whole_number(parts, "the number of parts", least=1), options.per_utt)


script.run(main, __doc__, arguments=(2, 2), flags=["--per-utt"])
