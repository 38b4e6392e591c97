#!/usr/bin/env python3
"""Print the minimum detection cost of a score file by Kaldi's rule, with four digits.

Usage: sid/compute_min_dcf.py [options] scores trials

    sid/compute_min_dcf.py --p-target 0.01 exp/scores data/test/trials

  --p-target P  prior probability of the target speaker in a trial (default: 0.01)
  --c-miss X    cost of a missed detection (default: 1)
  --c-fa X      cost of a false alarm (default: 1)

A line of the scores is '<enroll> <test> <score>', a line of the trials '<enroll> <test> <target|nontarget>'. Trials
without a score do not count. The threshold of the minimum goes to standard error.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.eer import kaldi_min_dcf
from sdpn_k2.kaldi.backend.trials import labelled_scores, parse_labels, parse_scores
from sdpn_k2.kaldi.tools import script


def main(options, scores_file, trials_file):
    p_target = script.number(options.p_target, "--p-target")
    c_miss = script.number(options.c_miss, "--c-miss")
    c_fa = script.number(options.c_fa, "--c-fa")
    if not 0 < p_target < 1:
        raise InputError("--p-target must be greater than 0 and less than 1")
    if c_miss == 0 or c_fa == 0:
        raise InputError("--c-miss and --c-fa must be greater than 0")
    print(*sys.argv, file=sys.stderr)

    scores, is_target = [np.empty(0)], [np.empty(0, bool)]
    for first_line, words, labels in labelled_scores(trials_file, scores_file):
        scores.append(parse_scores(scores_file, first_line, words))
        is_target.append(parse_labels(trials_file, first_line, labels))
    min_dcf, threshold = kaldi_min_dcf(np.concatenate(scores), np.concatenate(is_target), p_target, c_miss, c_fa)
    print(f"{min_dcf:.4f}")
    print(
        f"minDCF is {min_dcf:.4f} at threshold {threshold:.4f} (p-target={p_target:g}, c-miss={c_miss:g}, "
        f"c-fa={c_fa:g})",
        file=sys.stderr,
    )


script.run(main, __doc__, arguments=(2, 2), values={"--p-target": "0.01", "--c-miss": "1", "--c-fa": "1"})
