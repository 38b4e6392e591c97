"""The command lines for tables of vectors: means, centring, length normalisation, transforms."""

from __future__ import annotations

import contextlib
import math
import os
from types import SimpleNamespace
from typing import Iterable, Iterator, List, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.vectors import SpeakerSums, SpeakerTable, vector_batches
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.io import split_offset
from sdpn_k2.kaldi.formats.tables import TableWriter, parse_rspecifier, read_object, write_object
from sdpn_k2.kaldi.tools.command_line import Option, tool

Batches = Iterable[Tuple[List[str], np.ndarray]]


@tool(
    options=[
        Option("binary", False, "If true, write the mean of all vectors in binary (tables have their own option)")
    ],
    arguments=(2, 4),
)
def ivector_mean(options: SimpleNamespace, *arguments: str) -> int:
    """Average the vectors of each speaker's utterances, or all vectors.

    With 3 or 4 arguments, write the mean of each speaker and, to the fourth, the number of utterances of each. With 2
    arguments, write the mean of all vectors to a file.

    Usage: ivector-mean <spk2utt-rspecifier> <ivector-rspecifier> <ivector-wspecifier> [<num-utt-wspecifier>]
    or:    ivector-mean [options] <ivector-rspecifier> <mean-wxfilename>
     e.g.: ivector-mean ark:data/train/spk2utt scp:exp/xvector.scp ark:exp/spk_xvector.ark ark,t:exp/num_utts.ark
    """
    if len(arguments) == 2:
        return _global_mean(*arguments, binary=options.binary)
    return _speaker_means(*arguments)


def _global_mean(ivector_rspecifier: str, mean_wxfilename: str, binary: bool) -> int:
    total, count = _sum(vector_batches(ivector_rspecifier))
    if not count:
        raise InputError(f"{ivector_rspecifier}: there are no vectors to average")
    write_object(mean_wxfilename, total / count, "double_vector", binary)
    log.log(f"Computed the mean of {count} vectors.")
    return count


def _sum(batches: Batches) -> Tuple[np.ndarray, int]:
    """Return the sum of all vectors, float64 (dim,), and their number."""
    total: Optional[np.ndarray] = None
    count = 0
    for keys, vectors in batches:
        sums = vectors.sum(axis=0, dtype=np.float64)
        total = sums if total is None else total + sums
        count += len(keys)
    return np.zeros(0) if total is None else total, count


def _speaker_means(
    spk2utt_rspecifier: str,
    ivector_rspecifier: str,
    ivector_wspecifier: str,
    num_utts_wspecifier: Optional[str] = None,
) -> int:
    table = SpeakerTable(spk2utt_rspecifier)
    sums = SpeakerSums(0, len(table.speakers))
    for keys, vectors in vector_batches(ivector_rspecifier):
        if not sums.dim:
            sums = SpeakerSums(vectors.shape[1], len(table.speakers))
        rows, speakers = table.select(ivector_rspecifier, keys)
        sums.add(vectors[rows], speakers)
    num_absent, num_empty = table.warn_of_missing(sums.counts)
    means, counts = sums.means()
    names = [table.speakers[speaker] for speaker in np.flatnonzero(sums.counts)]
    with contextlib.ExitStack() as writers:
        mean_writer = writers.enter_context(TableWriter(ivector_wspecifier, "vector"))
        count_writer = None
        if num_utts_wspecifier is not None:
            count_writer = writers.enter_context(TableWriter(num_utts_wspecifier, "int"))
        for speaker, mean, count in zip(names, means.astype(np.float32), counts.tolist()):
            mean_writer.write(speaker, mean)
            if count_writer is not None:
                count_writer.write(speaker, count)
    log.log(
        f"Computed mean of {len(names)} speakers ({num_empty} with no utterances), consisting of "
        f"{table.num_used} utterances ({num_absent} absent from input)."
    )
    if names:
        length, spread = np.linalg.norm(means.mean(axis=0)), math.sqrt(np.square(means).mean())
        log.log(
            f"Norm of mean of speakers is {length:g}, root-mean-square speaker-iVector length divided by sqrt(dim) "
            f"is {spread:g}"
        )
    return len(names)


@tool(
    options=[
        Option("normalize", True, "Set this to false to disable normalization"),
        Option("scaleup", True, "If true, the normalized vector is scaled up by sqrt(dim)"),
    ],
)
def ivector_normalize_length(options: SimpleNamespace, ivector_rspecifier: str, ivector_wspecifier: str) -> int:
    """Scale each vector to the length sqrt(dimension), or, with --scaleup=false, to the length 1.

    Usage: ivector-normalize-length [options] <ivector-rspecifier> <ivector-wspecifier>
     e.g.: ivector-normalize-length ark:ivectors.ark ark:normalized_ivectors.ark
    """
    count, total, total_squares = 0, 0.0, 0.0
    with TableWriter(ivector_wspecifier, "vector") as writer:
        for keys, vectors in vector_batches(ivector_rspecifier):
            exact = vectors.astype(np.float64)
            ratios = np.sqrt(np.einsum("ij,ij->i", exact, exact))
            if options.scaleup:
                ratios /= math.sqrt(vectors.shape[1])
            for row in np.flatnonzero(ratios == 0):
                log.warn(f"Zero iVector (key {keys[row]})")
            if options.normalize:
                vectors = (exact / np.where(ratios == 0, 1.0, ratios)[:, None]).astype(np.float32)
            for key, vector in zip(keys, vectors):
                writer.write(key, vector)
            count += len(keys)
            total += ratios.sum()
            total_squares += (ratios**2).sum()
    log.log(f"Processed {count} iVectors.")
    if count:
        mean = total / count
        log.log(
            f"Average ratio of iVector to expected length was {mean:g}, standard deviation was "
            f"{math.sqrt(max(total_squares / count - mean**2, 0.0)):g}"
        )
    return count


@tool(
    options=[Option("subtract-mean", True, "If false, the form with two arguments just copies its input")],
    arguments=(2, 3),
)
def ivector_subtract_global_mean(options: SimpleNamespace, *arguments: str) -> int:
    """Subtract from each vector the mean of all vectors, or the mean in the first of three arguments.

    Usage: ivector-subtract-global-mean [options] <ivector-rspecifier> <ivector-wspecifier>
    or:    ivector-subtract-global-mean <mean-rxfilename> <ivector-rspecifier> <ivector-wspecifier>
     e.g.: ivector-subtract-global-mean mean.vec scp:ivectors.scp ark:-
    """
    ivector_rspecifier, ivector_wspecifier = arguments[-2:]
    batches: Batches
    if len(arguments) == 3:
        mean = read_object(arguments[0], "vector").astype(np.float64)
        if not np.isfinite(mean).all():
            raise InputError(f"{arguments[0]}: the mean has NaN or infinite values")
        batches = vector_batches(ivector_rspecifier)
    else:
        # A table that can be read twice is not held in memory.
        batches = vector_batches(ivector_rspecifier)
        if _is_file(ivector_rspecifier):
            total, count = _sum(vector_batches(ivector_rspecifier))
        else:
            batches = list(batches)
            total, count = _sum(batches)
        log.log(f"Read {count} iVectors.")
        mean = total / max(count, 1)
        if count:
            log.log(f"Norm of iVector mean was {np.linalg.norm(mean):g}")
        if not options.subtract_mean:
            mean = np.zeros_like(mean)
    count = 0
    with TableWriter(ivector_wspecifier, "vector") as writer:
        for keys, vectors in batches:
            if vectors.shape[1] != len(mean):
                raise InputError(f"{arguments[0]}: a mean of {len(mean)} dimensions for vectors of {vectors.shape[1]}")
            for key, vector in zip(keys, (vectors - mean).astype(np.float32)):
                writer.write(key, vector)
            count += len(keys)
    log.log(f"Wrote {count} mean-subtracted iVectors")
    return count


def _is_file(rspecifier: str) -> bool:
    """Return whether a table is an ordinary file, neither a pipe nor the standard input."""
    specifier = parse_rspecifier(rspecifier)
    return os.path.isfile(split_offset(specifier.archive or specifier.script or "")[0])


def _transformed(transform_rxfilename: str, rspecifier: str) -> Iterator[Tuple[List[str], np.ndarray]]:
    """Yield ``(keys, vectors)``, float64, after a linear transform, or an affine one (with one more column).

    Raises:
        InputError: the transform is not finite or does not fit, or float cannot hold a result.
    """
    transform = read_object(transform_rxfilename, "matrix").astype(np.float64)
    if not np.isfinite(transform).all():
        raise InputError(f"{transform_rxfilename}: the transform has NaN or infinite values")
    for keys, vectors in vector_batches(rspecifier):
        dim = vectors.shape[1]
        if transform.shape[1] not in (dim, dim + 1):
            raise InputError(
                f"{transform_rxfilename}: a transform for vectors of {dim} dimensions ({rspecifier}) "
                f"needs {dim} or {dim + 1} columns, not {transform.shape[1]}"
            )
        output = vectors @ transform[:, :dim].T
        if transform.shape[1] > dim:
            output += transform[:, dim]
        for row in np.flatnonzero((np.abs(output) > np.finfo(np.float32).max).any(axis=1)):
            raise InputError(f"{transform_rxfilename}: the transformed vector of {keys[row]} is too large for a float")
        yield keys, output


@tool(arguments=(3, 3))
def transform_vec(options: SimpleNamespace, transform_rxfilename: str, vec_rspecifier: str, vec_wspecifier: str) -> int:
    """Apply a linear or affine transform to each vector.

    Usage: transform-vec [options] <transform-rxfilename> <feats-rspecifier> <feats-wspecifier>
     e.g.: transform-vec transform.mat ark:ivectors.ark ark:-
    """
    count = 0
    with TableWriter(vec_wspecifier, "vector") as writer:
        for keys, vectors in _transformed(transform_rxfilename, vec_rspecifier):
            for key, vector in zip(keys, vectors.astype(np.float32)):
                writer.write(key, vector)
            count += len(keys)
    log.log(f"Applied transform to {count} vectors.")
    return count


@tool(arguments=(3, 3))
def ivector_transform(
    options: SimpleNamespace, matrix_rxfilename: str, ivector_rspecifier: str, ivector_wspecifier: str
) -> int:
    """Multiply vectors by a transform from the left; it may be affine, with a last column that is added.

    Usage: ivector-transform [options] <matrix-in> <ivector-rspecifier> <ivector-wspecifier>
     e.g.: ivector-transform transform.mat ark:ivectors.ark ark:transformed_ivectors.ark
    """
    count, total_squares = 0, 0.0
    total = np.zeros(1)
    with TableWriter(ivector_wspecifier, "vector") as writer:
        for keys, vectors in _transformed(matrix_rxfilename, ivector_rspecifier):
            for key, vector in zip(keys, vectors.astype(np.float32)):
                writer.write(key, vector)
            count += len(keys)
            total = total + vectors.sum(axis=0)
            total_squares += float((vectors**2).sum())
    log.log(f"Processed {count} iVectors.")
    if count:
        mean = total / count
        variance = max(total_squares / count - float(mean @ mean), 0.0)
        log.log(
            f"Norm of mean was {np.linalg.norm(mean):g} (should be close to zero), length divided by sqrt(dim) was "
            f"{math.sqrt(variance / len(mean)):g} (should probably be close to one)"
        )
    return count
