"""The command lines of PLDA: estimate, copy, adapt, and score."""

from __future__ import annotations

from types import SimpleNamespace
from typing import List, Optional, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.lda import SpeakerStats
from sdpn_k2.kaldi.backend.plda import Plda, estimate_plda, read_plda, score_recording, write_plda
from sdpn_k2.kaldi.backend.trials import Side, score_trials
from sdpn_k2.kaldi.backend.vectors import SpeakerTable, all_vectors, vector_batches
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter, read_table
from sdpn_k2.kaldi.tools.command_line import BINARY, Option, tool

_LENGTH_OPTIONS = (
    Option(
        "normalize-length",
        True,
        "If true, scale each vector so that its product with the model's inverse variance "
        "(which depends on how many utterances it was averaged over) equals the dimension",
    ),
    Option("simple-length-normalization", False, "If true, scale to the length sqrt(dimension) instead"),
)


def _check_dimension(plda: Plda, plda_rxfilename: str, vectors: np.ndarray, where: str) -> None:
    """Raise InputError if ``vectors``, (n, dim), do not have the dimension of the model."""
    if vectors.shape[1] != plda.dim:
        raise InputError(
            f"{plda_rxfilename}: a PLDA of {plda.dim} dimensions for vectors of {vectors.shape[1]} ({where})"
        )


@tool(
    options=[BINARY, Option("num-em-iters", 10, "Number of iterations of E-M used for PLDA estimation")],
    arguments=(3, 3),
)
def ivector_compute_plda(
    options: SimpleNamespace, spk2utt_rspecifier: str, ivector_rspecifier: str, plda_wxfilename: str
) -> int:
    """Estimate a PLDA model from the vectors of the utterances of each speaker.

    Usage: ivector-compute-plda [options] <spk2utt-rspecifier> <ivector-rspecifier> <plda-out>
     e.g.: ivector-compute-plda ark:spk2utt ark:ivectors.ark plda
    """
    table = SpeakerTable(spk2utt_rspecifier)
    stats: Optional[SpeakerStats] = None
    for keys, vectors in vector_batches(ivector_rspecifier):
        stats = stats or SpeakerStats(vectors.shape[1], len(table.speakers))
        rows, speakers = table.select(ivector_rspecifier, keys)
        stats.add(vectors[rows], speakers)
    if stats is None or not table.num_used:
        raise InputError(f"{ivector_rspecifier}: no vectors of utterances that {spk2utt_rspecifier} lists")
    num_absent, num_empty = table.warn_of_missing(stats.counts)
    num_speakers = len(table.speakers) - num_empty
    log.log(
        f"Accumulated stats from {num_speakers} speakers ({num_empty} with no utterances), consisting of "
        f"{table.num_used} utterances ({num_absent} absent from input)."
    )
    plda = estimate_plda(stats, options.num_em_iters)
    log.log(f"Norm of mean of iVector distribution is {np.linalg.norm(plda.mean):g}")
    log.log(f"Diagonal of between-class variance in normalized space is {log.format_vector(plda.psi)}")
    write_plda(plda_wxfilename, plda, options.binary)
    return num_speakers


@tool(
    options=[
        BINARY,
        *_LENGTH_OPTIONS,  # Kaldi's tool accepts them too, and does not use them
        Option(
            "smoothing",
            0.0,
            "Factor used in smoothing within-class covariance (add this factor times between-class covar)",
        ),
    ],
)
def ivector_copy_plda(options: SimpleNamespace, plda_rxfilename: str, plda_wxfilename: str) -> None:
    """Copy a PLDA model; --smoothing adds a fraction of its between-class covariance to its within-class covariance.

    Usage: ivector-copy-plda [options] <plda-in> <plda-out>
     e.g.: ivector-copy-plda --smoothing=0.1 plda plda.smooth0.1
    """
    plda = read_plda(plda_rxfilename)
    if options.smoothing != 0.0:
        log.log(
            f"Smoothing within-class covariance by {options.smoothing:g}, Psi is initially: "
            f"{log.format_vector(plda.psi)}"
        )
        plda = plda.smooth(options.smoothing)
        log.log(f"New value of Psi is {log.format_vector(plda.psi)}")
    write_plda(plda_wxfilename, plda, options.binary)


@tool(
    options=[
        Option(
            "between-covar-scale",
            0.7,
            "How much of the excess variance in a direction goes to the between-class covariance",
        ),
        BINARY,
        Option(
            "mean-diff-scale",
            1.0,
            "Scale with which to add to the total data variance the outer product of the "
            "difference between the original mean and the adaptation-data mean",
        ),
        Option(
            "within-covar-scale",
            0.3,
            "How much of the excess variance in a direction goes to the within-class covariance",
        ),
    ],
    arguments=(3, 3),
)
def ivector_adapt_plda(
    options: SimpleNamespace, plda_rxfilename: str, ivector_rspecifier: str, plda_wxfilename: str
) -> int:
    """Adapt a PLDA model to unlabelled vectors of another domain.

    Usage: ivector-adapt-plda [options] <plda-in> <ivectors-rspecifier> <plda-out>
     e.g.: ivector-adapt-plda plda ark:ivectors.ark plda.adapted
    """
    if min(options.mean_diff_scale, options.within_covar_scale, options.between_covar_scale) < 0:
        raise InputError("--mean-diff-scale, --within-covar-scale and --between-covar-scale must not be negative")
    plda = read_plda(plda_rxfilename)
    count, total, second_moment = 0, np.zeros(plda.dim), np.zeros((plda.dim, plda.dim))
    for keys, batch in vector_batches(ivector_rspecifier):
        _check_dimension(plda, plda_rxfilename, batch, ivector_rspecifier)
        vectors = batch.astype(np.float64)
        count += len(keys)
        total += vectors.sum(axis=0)
        second_moment += vectors.T @ vectors
    if not count:
        raise InputError(f"{ivector_rspecifier}: there are no vectors to adapt to")
    mean = total / count
    adapted = plda.adapt(
        mean,
        second_moment / count - np.outer(mean, mean),
        mean_diff_scale=options.mean_diff_scale,
        within_covar_scale=options.within_covar_scale,
        between_covar_scale=options.between_covar_scale,
    )
    log.log(
        f"Old diagonal of between-class covar was: {log.format_vector(plda.psi)}, new diagonal is "
        f"{log.format_vector(adapted.psi)}"
    )
    write_plda(plda_wxfilename, adapted, options.binary)
    return count


@tool(
    options=[
        *_LENGTH_OPTIONS,
        Option("num-utts", "", "Table of the number of utterances behind each training vector, e.g. ark:num_utts.ark"),
    ],
    arguments=(5, 5),
)
def ivector_plda_scoring(
    options: SimpleNamespace,
    plda_rxfilename: str,
    train_rspecifier: str,
    test_rspecifier: str,
    trials_rxfilename: str,
    scores_wxfilename: str,
) -> int:
    r"""Read trials '<enrolment key> <test key>', and write each with its PLDA log-likelihood ratio.

    Trials with an unknown key are skipped with a warning.

    Usage: ivector-plda-scoring [options] <plda> <train-ivector-rspecifier> <test-ivector-rspecifier>
               <trials-rxfilename> <scores-wxfilename>
     e.g.: ivector-plda-scoring --num-utts=ark:num_utts.ark plda ark:spk_ivectors.ark ark:test_ivectors.ark \
               trials scores
    """
    plda = read_plda(plda_rxfilename)
    log.log("Reading train iVectors")
    train_keys, train = table_keys, table = all_vectors(train_rspecifier)
    _check_dimension(plda, plda_rxfilename, train, train_rspecifier)
    num_utts = np.ones(len(train_keys), np.int64)
    if options.num_utts:
        known, num_utts = _numbers_of_utterances(options.num_utts, train_keys)
        train_keys, train = [train_keys[row] for row in known], train[known]
    log.log(f"Read {len(train_keys)} training iVectors")
    train = _transform(plda, options, train, num_utts, "training")
    log.log("Reading test iVectors")
    # The recipe names the same table, often a pipe, on both sides: read it once.
    test_keys, test = all_vectors(test_rspecifier) if test_rspecifier != train_rspecifier else (table_keys, table)
    _check_dimension(plda, plda_rxfilename, test, test_rspecifier)
    log.log(f"Read {len(test_keys)} test iVectors.")
    test = _transform(plda, options, test, 1, "test")
    train, test = plda.scoring_factors(train, num_utts, test)
    result = score_trials(
        trials_rxfilename,
        scores_wxfilename,
        Side(train_keys, train, "training iVectors"),
        Side(test_keys, test, "test iVectors"),
    )
    log.log(f"Mean score was {result.mean:g}, standard deviation was {result.stddev:g}")
    log.log(f"Processed {result.num_done} trials, {result.num_dropped} had errors.")
    return result.num_done


def _numbers_of_utterances(rspecifier: str, keys: List[str]) -> Tuple[List[int], np.ndarray]:
    """Return the rows of the ``keys`` that are in the table of numbers of utterances, and these numbers, (n,)."""
    known: List[int] = []
    numbers: List[int] = []
    with RandomReader(rspecifier, "int") as reader:
        for row, key in enumerate(keys):
            if key not in reader:
                log.warn(f"Number of utterances not given for speaker {key}")
                continue
            known.append(row)
            numbers.append(reader[key])
            if numbers[-1] < 1:
                raise InputError(f"{rspecifier}: {key} has {numbers[-1]} utterances")
    if not known:
        raise InputError(f"{rspecifier}: none of the {len(keys)} training vectors is in this table")
    return known, np.array(numbers)


def _transform(
    plda: Plda, options: SimpleNamespace, vectors: np.ndarray, num_utts: Union[np.ndarray, int], name: str
) -> np.ndarray:
    transformed, scales = plda.transform_vectors(
        vectors, num_utts, options.normalize_length, options.simple_length_normalization
    )
    log.log(f"Average renormalization scale on {name} iVectors was {scales.mean():g}")
    return transformed


@tool(
    options=[
        *_LENGTH_OPTIONS,
        Option(
            "target-energy",
            0.5,
            "Reduce the dimension by a recording-dependent PCA such that this fraction of the total energy remains",
        ),
    ],
    arguments=(4, 4),
)
def ivector_plda_scoring_dense(
    options: SimpleNamespace,
    plda_rxfilename: str,
    reco2utt_rspecifier: str,
    ivector_rspecifier: str,
    scores_wspecifier: str,
) -> int:
    """Score all pairs of segments of each recording by PLDA, for diarization, after a PCA of the recording.

    Rows and columns of the score matrices follow the order of the segments in <reco2utt>.

    Usage: ivector-plda-scoring-dense [options] <plda> <reco2utt> <ivectors-rspecifier> <scores-wspecifier>
     e.g.: ivector-plda-scoring-dense plda ark:reco2utt scp:ivectors.scp ark:scores.ark
    """
    if not 0.0 <= options.target_energy <= 1.0:
        raise InputError(f"--target-energy={options.target_energy:g} must lie between 0 and 1")
    plda = read_plda(plda_rxfilename)
    num_done, num_errors = 0, 0
    with TableWriter(scores_wspecifier, "matrix") as writer, RandomReader(ivector_rspecifier, "vector") as reader:
        for recording, utterances in read_table(reco2utt_rspecifier, "token_vector"):
            if not utterances:
                log.warn(f"Not producing output for recording {recording} since no segments had iVectors")
                num_errors += 1
                continue
            vectors = np.empty((len(utterances), plda.dim))
            for row, utterance in enumerate(utterances):
                vector = reader.require(utterance)
                _check_dimension(plda, plda_rxfilename, vector[None], f"{ivector_rspecifier}, key {utterance}")
                if not np.isfinite(vector).all():
                    raise InputError(f"{ivector_rspecifier}: the vector of {utterance} has NaN or infinite values")
                vectors[row] = vector
            scores = score_recording(
                plda, vectors, options.target_energy, options.normalize_length, options.simple_length_normalization
            )
            writer.write(recording, scores)
            num_done += 1
    log.log(f"Processed {num_done} recordings, {num_errors} had errors.")
    return num_done
