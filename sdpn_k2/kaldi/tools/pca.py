"""The command line of PCA: est-pca."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.pca import pca_transform
from sdpn_k2.kaldi.backend.vectors import vector_batches
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.tables import read_table, write_object
from sdpn_k2.kaldi.tools.command_line import BINARY, Option, tool


@tool(
    options=[
        BINARY,
        Option("dim", -1, "Dimension requested (if <= 0, uses full dimension)"),
        Option("normalize-mean", False, "If true, output an affine transform that subtracts the data mean"),
        Option("normalize-variance", False, "If true, make a transform that normalizes variance to one"),
        Option("read-vectors", False, "If true, read in single vectors instead of feature matrices"),
        Option("write-full-matrix", "", "Write full version of the matrix to this location (including rejected rows)"),
    ],
)
def est_pca(options: SimpleNamespace, rspecifier: str, pca_wxfilename: str) -> int:
    """Estimate a PCA transform from the rows of matrices or, with --read-vectors=true, from vectors.

    Usage: est-pca [options] (<feature-rspecifier>|<vector-rspecifier>) <pca-matrix-out>
     e.g.: est-pca --read-vectors=true --dim=50 scp:xvector.scp pca.mat
    """
    entries = vector_batches(rspecifier) if options.read_vectors else read_table(rspecifier, "matrix")
    count = num_done = num_errors = 0
    total, second_moment = np.zeros(0), np.zeros((0, 0))
    for key, matrix in entries:
        if not matrix.size:
            log.warn(f"Empty feature matrix (key {key})")
            num_errors += 1
            continue
        if not count:
            total, second_moment = np.zeros(matrix.shape[1]), np.zeros((matrix.shape[1], matrix.shape[1]))
        if matrix.shape[1] != len(total):
            log.warn(f"Feature dimension mismatch {len(total)} vs. {matrix.shape[1]} (key {key})")
            num_errors += 1
            continue
        if not np.isfinite(matrix).all():
            raise InputError(f"{rspecifier}: the matrix of {key} has NaN or infinite values")
        matrix = matrix.astype(np.float64)
        total += matrix.sum(axis=0)
        second_moment += matrix.T @ matrix
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
    log.log(f"Eigenvalues in PCA are {log.format_vector(variances)}")
    log.log(f"Sum of PCA eigenvalues is {variances.sum():g}, sum of kept eigenvalues is {variances[:dim].sum():g}")
    if options.write_full_matrix:
        write_object(options.write_full_matrix, transform, "matrix", options.binary)
    write_object(pca_wxfilename, transform[:dim], "matrix", options.binary)
    return count
