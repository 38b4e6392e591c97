#!/usr/bin/env python3
"""Join scores with the labels of their trials for compute-eer: lines '<score> <target|nontarget>', as in Kaldi.

compute-eer <(local/prepare_for_eer.py data/test/trials exp/scores)
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.trials import labelled_scores


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(f"Usage: {sys.argv[0]} <trials> <scores>")
    for _, scores, labels in labelled_scores(*sys.argv[1:]):
        sys.stdout.buffer.write(b"".join(b"%b %b\n" % pair for pair in zip(scores, labels)))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"prepare_for_eer.py: {error}")
