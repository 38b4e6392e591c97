"""The command line of the equal error rate: compute-eer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from sdpn_k2.kaldi.backend.eer import kaldi_eer
from sdpn_k2.kaldi.backend.trials import parse_labels, parse_scores, read_columns
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.io import open_input
from sdpn_k2.kaldi.tools.command_line import tool


@tool(arguments=(1, 1))
def compute_eer(options: SimpleNamespace, scores_rxfilename: str) -> None:
    """Print the equal error rate, in per cent, of lines '<score> target' and '<score> nontarget'.

    Usage: compute-eer <scores-in>
     e.g.: compute-eer -
    """
    scores, is_target = [np.empty(0, np.float32)], [np.empty(0, bool)]
    with open_input(scores_rxfilename) as stream:
        for first_line, (words, labels) in read_columns(stream, "<score> <target|nontarget>"):
            scores.append(parse_scores(stream.name, first_line, words).astype(np.float32))
            is_target.append(parse_labels(stream.name, first_line, labels))
    all_scores, targets = np.concatenate(scores), np.concatenate(is_target)
    eer, threshold = kaldi_eer(all_scores[targets], all_scores[~targets])
    log.log(f"Equal error rate is {100 * eer:g}%, at threshold {threshold:g}")
    print(f"{100 * eer:.4g}", end="", flush=True)
