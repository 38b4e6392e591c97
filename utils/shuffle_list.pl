#!/usr/bin/env python3
"""Print a list in random order: the same order for the same seed, on every machine.

Usage: utils/shuffle_list.pl [--srand N] [list] > output

    utils/shuffle_list.pl --srand 7 data/train/utt2spk | head -n 1000

  --srand N  random seed (default: 0)

Without a list, or for "-", the script reads standard input.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.kaldi.datadir import lists
from sdpn_k2.kaldi.tools import script


def main(options, source="-"):
    seed = script.whole_number(options.srand, "the seed")
    sys.stdout.buffer.writelines(lists.shuffle(script.read_lines(source), seed))


script.run(main, __doc__, arguments=(0, 1), values={"--srand": "0"})
