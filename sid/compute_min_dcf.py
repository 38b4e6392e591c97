#!/usr/bin/env python3
"""Print the minimum detection cost of a score file by Kaldi's rule, with four digits.

    sid/compute_min_dcf.py --p-target 0.01 --c-miss 1 --c-fa 1 exp/scores data/test/trials

A line of the scores is '<enroll> <test> <score>', a line of the trials '<enroll> <test> <target|nontarget>'. Trials
without a score do not count. The threshold of the minimum goes to standard error.
"""

import argparse
import os
import sys
from typing import NoReturn

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.eer import kaldi_min_dcf
from sdpn_k2.kaldi.backend.trials import labelled_scores, parse_labels, parse_scores


class OneLineParser(argparse.ArgumentParser):
    """Parser that reports wrong usage like the other tools: in one line, with exit status 1."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError, which main() turns into the line."""
        raise InputError(f"{message}; --help shows the usage")


def main() -> None:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--p-target", type=float, default=0.01, help="prior probability of the target speaker in a trial"
    )
    parser.add_argument("--c-miss", type=float, default=1.0, help="cost of a missed detection")
    parser.add_argument("--c-fa", type=float, default=1.0, help="cost of a false alarm")
    parser.add_argument("scores_filename")
    parser.add_argument("trials_filename")
    args = parser.parse_args()
    if not 0 < args.p_target < 1:
        parser.error("--p-target must be greater than 0 and less than 1")
    if not (0 < args.c_miss < np.inf and 0 < args.c_fa < np.inf):
        parser.error("--c-miss and --c-fa must be greater than 0 and finite")
    print(*sys.argv, file=sys.stderr)

    scores, is_target = [np.empty(0)], [np.empty(0, bool)]
    for first_line, words, labels in labelled_scores(args.trials_filename, args.scores_filename):
        scores.append(parse_scores(args.scores_filename, first_line, words))
        is_target.append(parse_labels(args.trials_filename, first_line, labels))
    min_dcf, threshold = kaldi_min_dcf(
        np.concatenate(scores), np.concatenate(is_target), args.p_target, args.c_miss, args.c_fa
    )
    print(f"{min_dcf:.4f}")
    print(
        f"minDCF is {min_dcf:.4f} at threshold {threshold:.4f} (p-target={args.p_target:g}, c-miss={args.c_miss:g}, "
        f"c-fa={args.c_fa:g})",
        file=sys.stderr,
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"compute_min_dcf.py: {error}")
