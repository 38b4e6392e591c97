"""The command line of LDA: ivector-compute-lda."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Dict, Optional, Set

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.lda import SpeakerStats, compute_lda
from sdpn_k2.kaldi.backend.vectors import vector_batches
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.tables import read_table, write_object
from sdpn_k2.kaldi.tools.command_line import BINARY, Option, tool


@tool(
    options=[
        BINARY,
        Option(
            "covariance-floor",
            1.0e-06,
            "Floor the eigenvalues of the normalized covariance at this fraction of the largest one",
        ),
        Option("dim", 100, "Dimension we keep with the LDA transform"),
        Option(
            "total-covariance-factor",
            0.0,
            "0.0: make the within-class covariance unit; 1.0: the total covariance; between: their interpolation",
        ),
    ],
    arguments=(3, 3),
)
def ivector_compute_lda(
    options: SimpleNamespace, ivector_rspecifier: str, utt2spk_rspecifier: str, lda_wxfilename: str
) -> int:
    """Estimate an affine LDA transform, which also moves the mean of the vectors to zero.

    Usage: ivector-compute-lda [options] <ivector-rspecifier> <utt2spk-rspecifier> <lda-matrix-out>
     e.g.: ivector-compute-lda --dim=200 ark:ivectors.ark ark:utt2spk lda.mat
    """
    if options.covariance_floor < 0:
        raise InputError(f"--covariance-floor={options.covariance_floor:g} must not be negative")
    speaker_of: Dict[str, int] = {}
    numbers: Dict[str, int] = {}
    for utterance, speaker in read_table(utt2spk_rspecifier, "token"):
        if utterance in speaker_of:
            raise InputError(f"{utt2spk_rspecifier}: duplicate key {utterance}")
        speaker_of[utterance] = numbers.setdefault(speaker, len(numbers))
    stats: Optional[SpeakerStats] = None
    seen: Set[str] = set()
    num_errors = 0
    for keys, vectors in vector_batches(ivector_rspecifier):
        rows = []
        for row, key in enumerate(keys):
            if key in seen:
                log.warn(f"Duplicate iVector found for utterance {key}, ignoring it.")
            elif key not in speaker_of:
                log.warn(f"utt2spk has no entry for utterance {key}, skipping it.")
            else:
                seen.add(key)
                rows.append(row)
        num_errors += len(keys) - len(rows)
        stats = stats or SpeakerStats(vectors.shape[1], len(numbers))
        stats.add(vectors[rows], [speaker_of[keys[row]] for row in rows])
    log.log(f"Read {len(seen)} utterances, {num_errors} with errors.")
    if stats is None or not seen:
        raise InputError(f"{ivector_rspecifier}: no vectors of utterances that {utt2spk_rspecifier} lists")
    log.log(f"2-norm of iVector mean is {np.linalg.norm(stats.sums.sum(axis=0) / len(seen)):g}")
    log.log(f"Stats have {np.count_nonzero(stats.counts)} speakers, {len(seen)} utterances. ")
    lda = compute_lda(stats, options.dim, options.total_covariance_factor, options.covariance_floor)
    if lda.num_floored:
        log.warn(f"Floored {lda.num_floored} eigenvalues of covariance to {options.covariance_floor:g} of the largest")
    log.log(
        "Singular values of between-class covariance after projecting with interpolated [total/within] covariance "
        f"with a weight of {options.total_covariance_factor:g} on the total covariance, are: "
        f"{log.format_vector(lda.eigenvalues)}"
    )
    write_object(lda_wxfilename, lda.transform, "matrix", options.binary)
    log.log(f"Wrote LDA transform to {lda_wxfilename}")
    return len(seen)
