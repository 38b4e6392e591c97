"""Tools that add vectors and matrices: vector-sum, matrix-sum and matrix-sum-rows."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Mapping, Optional, Sequence

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.log import log, warn
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter, is_table, read_object, read_table, write_object
from sdpn_k2.kaldi.tools.command_line import BINARY, Option, tool


@tool(options=[Option("average", False, "Compute average instead of sum"), BINARY], arguments=(2, None))
def vector_sum(options: SimpleNamespace, *names: str) -> int:
    """Add vectors (e.g. weights; speaker vectors). To scale them, use vector-scale on the inputs.

    Usage: vector-sum [options] <vector-rspecifier1> [<vector-rspecifier2> …] <vector-wspecifier>
       or: vector-sum [options] <vector-rspecifier> <vector-wxfilename>
       or: vector-sum [options] <vector-rxfilename1> <vector-rxfilename2> … <vector-wxfilename>
     e.g.: vector-sum ark:1.weights ark:2.weights ark:combine.weights
           vector-sum --binary=false ark:vecs.ark sum.vec
           vector-sum --binary=false 1.vec 2.vec 3.vec sum.vec
    """
    return _sum(names, "vector", options.binary, options.average, scales={})


@tool(
    options=[
        Option("average", False, "Compute average instead of sum"),
        BINARY,
        Option("scale1", 1.0, "Scale applied to first matrix (only if the output is a table)"),
        Option("scale2", 1.0, "Scale applied to second matrix (only if the output is a table)"),
    ],
    arguments=(2, None),
)
def matrix_sum(options: SimpleNamespace, *names: str) -> int:
    """Add matrices.

    Usage: matrix-sum [options] <matrix-rspecifier1> [<matrix-rspecifier2> …] <matrix-wspecifier>
       or: matrix-sum [options] <matrix-rspecifier> <matrix-wxfilename>
       or: matrix-sum [options] <matrix-rxfilename1> <matrix-rxfilename2> … <matrix-wxfilename>
     e.g.: matrix-sum ark:1.weights ark:2.weights ark:combine.weights
           matrix-sum --binary=false ark:mats.ark sum.mat
           matrix-sum --binary=false 1.mat 2.mat 3.mat sum.mat
    """
    return _sum(names, "matrix", options.binary, options.average, {0: options.scale1, 1: options.scale2})


@tool()
def matrix_sum_rows(_options: SimpleNamespace, rspecifier: str, wspecifier: str) -> int:
    """Sum the rows of each matrix of a table, and write the table of vectors.

    Usage: matrix-sum-rows [options] <matrix-rspecifier> <vector-wspecifier>
     e.g.: matrix-sum-rows ark:- ark:- | vector-sum ark:- sum.vec
    """
    done = rows = 0
    with read_table(rspecifier, "matrix") as reader, TableWriter(wspecifier, "vector") as writer:
        for key, matrix in reader:
            with np.errstate(over="ignore"):
                total = matrix.sum(axis=0, dtype=np.float64).astype(np.float32)
            _check_finite(total, f"{reader.where}: the sum of the rows of {key}")
            writer.write(key, total)
            done += 1
            rows += len(matrix)
    log(f"Summed rows {done} matrices, {rows} rows in total.")
    return done


def _sum(names: Sequence[str], kind: str, binary: bool, average: bool, scales: Mapping[int, float]) -> int:
    """Compute one of the three forms: tables to a table, a table to a file, files to a file."""
    *sources, target = names
    tables = [is_table(source) for source in sources]
    if is_table(target) and all(tables):
        return _sum_tables(sources, target, kind, average, scales)
    if is_table(target) or (any(tables) and len(sources) > 1):
        raise InputError(f"cannot mix tables and single files: {' '.join(names)}")
    plural = "vectors" if kind == "vector" else "matrices"
    entries = read_table(sources[0], kind) if tables[0] else ((name, read_object(name, kind)) for name in sources)
    total: Optional[np.ndarray] = None
    done, failed = 0, 0
    for key, value in entries:
        problem = _mismatch(value, total) if value.size else "it is empty"
        if problem and not tables[0]:
            raise InputError(f"{key}: {problem}")
        _check_finite(value, f"{sources[0]}: {key}" if tables[0] else key)
        if problem:
            warn(f"skipped {key}: {problem}")
            failed += 1
            continue
        total = value.astype(np.float64) if total is None else total + value
        done += 1
    if total is None:
        raise InputError(f"{sources[0]}: no {plural} to add")
    with np.errstate(over="ignore"):
        result = (total / done if average else total).astype(np.float32)
    _check_finite(result, f"the sum of {' '.join(sources)}")
    write_object(target, result, kind, binary)
    log(f"Summed {done} {plural}, {failed} with errors; wrote {'average' if average else 'sum'} to {target}")
    return done > failed


def _sum_tables(sources: Sequence[str], target: str, kind: str, average: bool, scales: Mapping[int, float]) -> bool:
    """Add the values of each key of the first table; the other tables may lack the key."""
    plural = "vectors" if kind == "vector" else "matrices"
    done, added, missing = 0, 0, 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(np.errstate(all="ignore"))  # _check_finite looks at the results
        factors = [np.float32(scales.get(number, 1.0)) for number in range(len(sources))]
        first = stack.enter_context(read_table(sources[0], kind))
        others = [stack.enter_context(RandomReader(source, kind)) for source in sources[1:]]
        writer = stack.enter_context(TableWriter(target, kind))
        for key, value in first:
            total = value * factors[0]
            added += 1
            for number, (source, reader) in enumerate(zip(sources[1:], others), 1):
                other = reader.get(key)
                if other is None:
                    warn(f"{source}: no entry for {key}")
                    missing += 1
                    continue
                added += 1
                problem = _mismatch(other, total)
                if problem:
                    warn(f"{source}: skipped {key}: {problem}")
                else:
                    total = total + other * factors[number]
            _check_finite(total, f"the sum of {key}")
            writer.write(key, total / np.float32(len(sources)) if average else total)
            done += 1
    log(f"Processed {done} keys: with a total of {added} {plural} across {len(sources)} different systems")
    log(f"Produced output for {done} keys; {missing} total missing {plural}")
    return done != 0 and missing < done - missing


def _mismatch(value: np.ndarray, total: Optional[np.ndarray]) -> str:
    """Return how the shape of ``value`` differs from that of ``total``; "" if it does not."""
    if total is None or value.shape == total.shape:
        return ""
    return f"its size is {' × '.join(map(str, value.shape))}, that of the first is {' × '.join(map(str, total.shape))}"


def _check_finite(value: np.ndarray, where: str) -> None:
    if not np.isfinite(value).all():
        raise InputError(f"{where}: the numbers are NaN or infinite")
