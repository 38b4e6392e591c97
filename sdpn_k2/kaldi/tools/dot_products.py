"""The command line of scores that need no model: ivector-compute-dot-products."""

from __future__ import annotations

from types import SimpleNamespace

from sdpn_k2.kaldi.backend.trials import Side, score_trials
from sdpn_k2.kaldi.backend.vectors import all_vectors
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.tools.command_line import tool


@tool(arguments=(4, 4))
def ivector_compute_dot_products(
    options: SimpleNamespace,
    trials_rxfilename: str,
    first_rspecifier: str,
    second_rspecifier: str,
    scores_wxfilename: str,
) -> int:
    """Read trials '<key1> <key2>', and write each with the dot product of its two vectors.

    Trials with an unknown key are skipped with a warning.

    Usage: ivector-compute-dot-products <trials-in> <ivector1-rspecifier> <ivector2-rspecifier> <scores-out>
     e.g.: ivector-compute-dot-products trials ark:train_ivectors.ark ark:test_ivectors.ark trials.scored
    """
    first = Side(*all_vectors(first_rspecifier), "1st table of ivectors")
    # The recipe names the same table, often a pipe, on both sides: read it once.
    rows = first[:2] if second_rspecifier == first_rspecifier else all_vectors(second_rspecifier)
    result = score_trials(trials_rxfilename, scores_wxfilename, first, Side(*rows, "2nd table of ivectors"))
    log.log(f"Mean dot-product was {result.mean:g}, standard deviation was {result.stddev:g}")
    log.log(f"Processed {result.num_done} trials {result.num_dropped} had errors.")
    return result.num_done
