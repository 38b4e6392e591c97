#!/usr/bin/env python3
"""Join scores with the labels of their trials: print lines '<score> <target|nontarget>' for compute-eer.

Usage: local/prepare_for_eer.py trials scores > output

    compute-eer <(local/prepare_for_eer.py data/test/trials exp/scores)
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.kaldi.backend.trials import labelled_scores
from sdpn_k2.kaldi.tools import script


def main(_options, trials, scores):
    for _, words, labels in labelled_scores(trials, scores):
        sys.stdout.buffer.write(b"".join(b"%b %b\n" % pair for pair in zip(words, labels)))


script.run(main, __doc__, arguments=(2, 2))
