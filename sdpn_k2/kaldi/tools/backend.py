"""Kaldi's tools that estimate what stands between embeddings and scores: LDA, PCA and PLDA."""

from __future__ import annotations

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.lda import SpeakerStats, compute_lda
from sdpn_k2.kaldi.backend.pca import pca_transform
from sdpn_k2.kaldi.backend.plda import Plda, estimate_plda, read_plda, write_plda
from sdpn_k2.kaldi.backend.vectors import SpeakerTable, vector_batches
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.tables import read_table, write_object
from sdpn_k2.kaldi.tools.options import Option, tool

_BINARY = Option("binary", True, "Write output in binary mode")
PLDA_OPTIONS = (
    Option(
        "normalize-length",
        True,
        "If true, scale each vector so that its product with the model's inverse variance "
        "(which depends on how many utterances it was averaged over) equals the dimension",
    ),
    Option("simple-length-normalization", False, "If true, scale to the length sqrt(dimension) instead"),
)


def check_dimension(plda: Plda, plda_rxfilename: str, vectors: np.ndarray, where: str) -> None:
    """Refuse ``vectors`` ``(n, dim)`` of another dimension than the model's."""
    if vectors.shape[1] != plda.dim:
        raise InputError(
            f"{plda_rxfilename}: a PLDA of {plda.dim} dimensions for vectors of {vectors.shape[1]} ({where})"
        )


def _numbers(values) -> str:
    """A vector as Kaldi logs it."""
    return "[ " + " ".join(f"{value:g}" for value in values) + " ]"


@tool(
    "ivector-compute-lda",
    "Estimate an affine LDA transform, which also takes the mean of the vectors to zero.\n"
    "Usage: ivector-compute-lda [options] <ivector-rspecifier> <utt2spk-rspecifier> <lda-matrix-out>\n"
    " e.g.: ivector-compute-lda --dim=200 ark:ivectors.ark ark:utt2spk lda.mat\n",
    options=[
        _BINARY,
        Option(
            "covariance-floor",
            1.0e-06,
            "Floor the eigenvalues of the covariance that is normalized to its largest eigenvalue times this number",
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
def ivector_compute_lda(options, ivector_rspecifier, utt2spk_rspecifier, lda_wxfilename):
    if options.covariance_floor < 0:
        raise InputError(f"--covariance-floor={options.covariance_floor:g}: it should not be negative")
    speaker_of, numbers = {}, {}
    for utterance, speaker in read_table(utt2spk_rspecifier, "token"):
        if utterance in speaker_of:
            raise InputError(f"{utt2spk_rspecifier}: the key {utterance} occurs twice")
        speaker_of[utterance] = numbers.setdefault(speaker, len(numbers))
    stats, seen, num_errors = None, set(), 0
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
    if not seen:
        raise InputError(f"{ivector_rspecifier}: no vectors of utterances that {utt2spk_rspecifier} lists")
    log.log(f"2-norm of iVector mean is {np.linalg.norm(stats.sums.sum(axis=0) / len(seen)):g}")
    log.log(f"Stats have {np.count_nonzero(stats.counts)} speakers, {len(seen)} utterances. ")
    lda = compute_lda(stats, options.dim, options.total_covariance_factor, options.covariance_floor)
    if lda.num_floored:
        log.warn(f"Floored {lda.num_floored} eigenvalues of covariance to {options.covariance_floor:g} of the largest")
    log.log(
        "Singular values of between-class covariance after projecting with interpolated [total/within] covariance "
        f"with a weight of {options.total_covariance_factor:g} on the total covariance, are: "
        f"{_numbers(lda.eigenvalues)}"
    )
    write_object(lda_wxfilename, lda.transform, "matrix", options.binary)
    log.log(f"Wrote LDA transform to {lda_wxfilename}")
    return len(seen)


@tool(
    "est-pca",
    "Estimate a PCA transform of the rows of matrices, or with --read-vectors=true of vectors.\n"
    "Usage: est-pca [options] (<feature-rspecifier>|<vector-rspecifier>) <pca-matrix-out>\n"
    " e.g.: est-pca --read-vectors=true --dim=50 scp:xvector.scp pca.mat\n",
    options=[
        _BINARY,
        Option("dim", -1, "Dimension requested (if <= 0, uses full dimension)"),
        Option("normalize-mean", False, "If true, output an affine transform that subtracts the data mean"),
        Option("normalize-variance", False, "If true, make a transform that normalizes variance to one"),
        Option("read-vectors", False, "If true, read in single vectors instead of feature matrices"),
        Option("write-full-matrix", "", "Write full version of the matrix to this location (including rejected rows)"),
    ],
)
def est_pca(options, rspecifier, pca_wxfilename):
    entries = vector_batches(rspecifier) if options.read_vectors else read_table(rspecifier, "matrix")
    count, num_done, num_errors, total, second_moment = 0, 0, 0, 0.0, 0.0
    for key, matrix in entries:
        if not matrix.size:
            log.warn(f"Empty feature matrix (key {key})")
            num_errors += 1
            continue
        if count and matrix.shape[1] != len(total):
            log.warn(f"Feature dimension mismatch {len(total)} vs. {matrix.shape[1]} (key {key})")
            num_errors += 1
            continue
        if not np.isfinite(matrix).all():
            raise InputError(f"{rspecifier}: the matrix of {key} has NaN or infinite values")
        matrix = matrix.astype(np.float64)
        total = total + matrix.sum(axis=0)
        second_moment = second_moment + matrix.T @ matrix
        count += len(matrix)
        num_done += 1
    if not count:
        raise InputError(f"{rspecifier}: no data to estimate PCA from")
    if options.read_vectors:
        log.log(f"Accumulated stats from {count} vectors.")
    else:
        log.log(f"Accumulated stats from {num_done} feature files, {num_errors} with errors; {count} frames.")
    mean = total / count
    dim = options.dim if options.dim > 0 else len(mean)
    if dim > len(mean):
        raise InputError(f"--dim={dim} is greater than the dimension of the data, {len(mean)}")
    covariance = second_moment / count - np.outer(mean, mean)
    transform, variances = pca_transform(mean, covariance, options.normalize_variance, options.normalize_mean)
    log.log(f"Eigenvalues in PCA are {_numbers(variances)}")
    log.log(f"Sum of PCA eigenvalues is {variances.sum():g}, sum of kept eigenvalues is {variances[:dim].sum():g}")
    if options.write_full_matrix:
        write_object(options.write_full_matrix, transform, "matrix", options.binary)
    write_object(pca_wxfilename, transform[:dim], "matrix", options.binary)
    return count


@tool(
    "ivector-compute-plda",
    "Estimate a PLDA model from the vectors of the utterances of each speaker.\n"
    "Usage: ivector-compute-plda [options] <spk2utt-rspecifier> <ivector-rspecifier> <plda-out>\n"
    " e.g.: ivector-compute-plda ark:spk2utt ark:ivectors.ark plda\n",
    options=[_BINARY, Option("num-em-iters", 10, "Number of iterations of E-M used for PLDA estimation")],
    arguments=(3, 3),
)
def ivector_compute_plda(options, spk2utt_rspecifier, ivector_rspecifier, plda_wxfilename):
    table = SpeakerTable(spk2utt_rspecifier)
    stats = None
    for keys, vectors in vector_batches(ivector_rspecifier):
        stats = stats or SpeakerStats(vectors.shape[1], len(table.speakers))
        rows, speakers = table.select(ivector_rspecifier, keys)
        stats.add(vectors[rows], speakers)
    if not table.num_used:
        raise InputError(f"{ivector_rspecifier}: no vectors of utterances that {spk2utt_rspecifier} lists")
    num_absent, num_empty = table.warn_of_missing(stats.counts)
    num_speakers = len(table.speakers) - num_empty
    log.log(
        f"Accumulated stats from {num_speakers} speakers ({num_empty} with no utterances), consisting of "
        f"{table.num_used} utterances ({num_absent} absent from input)."
    )
    plda = estimate_plda(stats, options.num_em_iters)
    log.log(f"Norm of mean of iVector distribution is {np.linalg.norm(plda.mean):g}")
    log.log(f"Diagonal of between-class variance in normalized space is {_numbers(plda.psi)}")
    write_plda(plda_wxfilename, plda, options.binary)
    return num_speakers


@tool(
    "ivector-copy-plda",
    "Copy a PLDA model, possibly adding a part of the between-class to the within-class covariance.\n"
    "Usage: ivector-copy-plda [options] <plda-in> <plda-out>\n"
    " e.g.: ivector-copy-plda --smoothing=0.1 plda plda.smooth0.1\n",
    options=[
        _BINARY,
        *PLDA_OPTIONS,  # Kaldi's tool takes them too, and leaves them unused
        Option(
            "smoothing",
            0.0,
            "Factor used in smoothing within-class covariance (add this factor times between-class covar)",
        ),
    ],
)
def ivector_copy_plda(options, plda_rxfilename, plda_wxfilename):
    plda = read_plda(plda_rxfilename)
    if options.smoothing != 0.0:
        log.log(f"Smoothing within-class covariance by {options.smoothing:g}, Psi is initially: {_numbers(plda.psi)}")
        plda = plda.smooth(options.smoothing)
        log.log(f"New value of Psi is {_numbers(plda.psi)}")
    write_plda(plda_wxfilename, plda, options.binary)


@tool(
    "ivector-adapt-plda",
    "Adapt a PLDA model to unlabelled vectors of another domain.\n"
    "Usage: ivector-adapt-plda [options] <plda-in> <ivectors-rspecifier> <plda-out>\n"
    " e.g.: ivector-adapt-plda plda ark:ivectors.ark plda.adapted\n",
    options=[
        Option(
            "between-covar-scale",
            0.7,
            "How much of the excess variance in a direction goes to the between-class covariance",
        ),
        _BINARY,
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
def ivector_adapt_plda(options, plda_rxfilename, ivector_rspecifier, plda_wxfilename):
    if min(options.mean_diff_scale, options.within_covar_scale, options.between_covar_scale) < 0:
        raise InputError("--mean-diff-scale, --within-covar-scale and --between-covar-scale should not be negative")
    plda = read_plda(plda_rxfilename)
    count, total, second_moment = 0, np.zeros(plda.dim), np.zeros((plda.dim, plda.dim))
    for keys, vectors in vector_batches(ivector_rspecifier):
        check_dimension(plda, plda_rxfilename, vectors, ivector_rspecifier)
        vectors = vectors.astype(np.float64)
        count += len(keys)
        total += vectors.sum(axis=0)
        second_moment += vectors.T @ vectors
    if not count:
        raise InputError(f"{ivector_rspecifier}: there are no vectors to adapt to")
    mean = total / count
    covariance = second_moment / count - np.outer(mean, mean)
    adapted = plda.adapt(
        mean, covariance, options.mean_diff_scale, options.within_covar_scale, options.between_covar_scale
    )
    log.log(f"Old diagonal of between-class covar was: {_numbers(plda.psi)}, new diagonal is {_numbers(adapted.psi)}")
    write_plda(plda_wxfilename, adapted, options.binary)
    return count
