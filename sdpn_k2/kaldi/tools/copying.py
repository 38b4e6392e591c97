"""Tools that copy, scale, add and measure vectors and matrices."""

import contextlib
import re
from types import SimpleNamespace
from typing import Callable, List, Optional

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.compression import METHODS, compress
from sdpn_k2.kaldi.formats.io import open_output
from sdpn_k2.kaldi.formats.log import log, warn
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter, is_table, read_object, read_table, write_object
from sdpn_k2.kaldi.tools.options import Option, tool

_BINARY = Option("binary", True, "Write in binary mode (only relevant if the output is a file, not a table)")


def _copy(source: str, target: str, kind: str, binary: bool, change: Callable = lambda value: value) -> Optional[int]:
    """Copy a table to a table, or one object to one object; return the number of entries, None for one object."""
    if is_table(source) != is_table(target):
        raise InputError(f"cannot mix a table and a single file: {source} and {target}")
    if not is_table(source):
        write_object(target, _changed(change, read_object(source, kind), source), kind, binary)
        return None
    done = 0
    with read_table(source, kind) as reader, TableWriter(target, kind) as writer:
        for key, value in reader:
            writer.write(key, _changed(change, value, f"{source}: {key}"))
            done += 1
    return done


def _changed(change: Callable, value: np.ndarray, where: str) -> np.ndarray:
    try:
        return change(value)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _scaling(scale: float) -> Callable:
    if scale == 1.0:
        return lambda value: value
    return lambda value: _computed(lambda: value * np.float32(scale), value)


def _computed(function: Callable, value: np.ndarray) -> np.ndarray:
    """``function()``, made of ``value``, as float32 of the same shape.

    Raises:
        InputError: it is NaN or infinite where ``value`` is finite.
    """
    with np.errstate(all="ignore"):
        result = np.asarray(function(), np.float32)
    if not np.isfinite(result).all() and not np.isfinite(result[np.isfinite(value)]).all():
        raise InputError("a result is no number, or too large for a float")
    return result


def _check_finite(value: np.ndarray, where: str) -> None:
    if not np.isfinite(value).all():
        raise InputError(f"{where}: the numbers are NaN or infinite")


@tool(
    "copy-vector",
    """Copy vectors, or tables of vectors (e.g. speaker vectors). The numbers become float.

Usage: copy-vector [options] (<vector-rspecifier> <vector-wspecifier> | <vector-rxfilename> <vector-wxfilename>)
 e.g.: copy-vector --binary=false 1.vec -
       copy-vector scp:xvector.scp ark,t:-""",
    options=[_BINARY, Option("change-dim", -1, "Use this option to truncate or zero-pad the vectors")],
)
def copy_vector(options, source, target):
    def resize(vector):
        if options.change_dim < 0:
            return vector
        resized = np.zeros(options.change_dim, np.float32)
        resized[: len(vector)] = vector[: options.change_dim]
        return resized

    done = _copy(source, target, "vector", options.binary, resize)
    log(f"Copied vector to {target}" if done is None else f"Copied {done} vectors.")
    return done


@tool(
    "copy-matrix",
    """Copy matrices, or tables of matrices (e.g. features or transforms). The numbers become float.

Usage: copy-matrix [options] (<matrix-rspecifier> <matrix-wspecifier> | <matrix-rxfilename> <matrix-wxfilename>)
 e.g.: copy-matrix --binary=false transform.mat -
       copy-matrix ark:2.trans ark,t:-""",
    options=[
        _BINARY,
        Option("scale", 1.0, "This option can be used to scale the matrices being copied"),
        Option("apply-log", False, "Take the logarithm of the matrices; there must be no negative numbers in them"),
        Option("apply-exp", False, "Take the exponential of the matrices"),
        Option("apply-power", 1.0, "Raise the numbers of the matrices to this power"),
        Option("apply-softmax-per-row", False, "Apply a softmax to each row"),
    ],
)
def copy_matrix(options, source, target):
    if sum((options.apply_log, options.apply_exp, options.apply_softmax_per_row)) > 1:
        raise InputError("choose one of --apply-log, --apply-exp and --apply-softmax-per-row")
    scale = _scaling(options.scale)

    def change(matrix):
        matrix = scale(matrix)
        if options.apply_log:
            if (matrix < 0).any():
                raise InputError("--apply-log: there are negative numbers")
            with np.errstate(divide="ignore"):
                matrix = np.log(matrix)
        if options.apply_exp:
            matrix = _computed(lambda: np.exp(matrix), matrix)
        if options.apply_softmax_per_row and matrix.size:
            matrix = np.exp(matrix - matrix.max(axis=1, keepdims=True))
            matrix /= matrix.sum(axis=1, keepdims=True)
        if options.apply_power != 1.0:
            matrix = _computed(lambda: np.power(matrix, np.float32(options.apply_power)), matrix)
        return matrix

    done = _copy(source, target, "matrix", options.binary, change)
    log(f"Copied matrix to {target}" if done is None else f"Copied {done} matrices.")
    return done


@tool(
    "copy-feats",
    """Copy features [and possibly change format].

Usage: copy-feats [options] (<feature-rspecifier> <feature-wspecifier> | <feature-rxfilename> <feature-wxfilename>)
 e.g.: copy-feats ark:feats.ark ark,scp:foo.ark,foo.scp
       copy-feats --compress=true scp:feats.scp ark,scp:small.ark,small.scp""",
    options=[
        _BINARY,
        Option("compress", False, "If true, write output in compressed form"),
        Option("compression-method", 1, "Only relevant if --compress=true: the method (1 through 7)"),
        Option(
            "write-num-frames",
            "",
            "Wspecifier to write length in frames of each utterance, e.g. 'ark,t:utt2num_frames'; only for tables",
        ),
    ],
)
def copy_feats(options, source, target):
    method = options.compression_method if options.compress else 0
    if options.compress and method not in METHODS:
        raise InputError(f"--compression-method={method}: choose 1 to 7")
    if not is_table(source) or not is_table(target):
        if options.write_num_frames:
            raise InputError("--write-num-frames needs tables as input and output")
        _copy(source, target, "matrix", options.binary, lambda matrix: compress(matrix, method) if method else matrix)
        log(f"Copied features to {target}")
        return None
    done = 0
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(read_table(source, "matrix"))
        lengths = (
            stack.enter_context(TableWriter(options.write_num_frames, "int")) if options.write_num_frames else None
        )
        writer = stack.enter_context(TableWriter(target, "matrix", compression_method=method))
        for key, features in reader:
            writer.write(key, features)
            if lengths is not None:
                lengths.write(key, len(features))
            done += 1
    log(f"Copied {done} feature matrices.")
    return done


@tool(
    "copy-int-vector",
    """Copy vectors of integers, or tables of vectors of integers (e.g. alignments).

Usage: copy-int-vector [options] (<vector-rspecifier> <vector-wspecifier> | <vector-rxfilename> <vector-wxfilename>)
 e.g.: copy-int-vector --binary=false foo -
       copy-int-vector ark:1.ali ark,t:-""",
    options=[_BINARY],
)
def copy_int_vector(options, source, target):
    done = _copy(source, target, "int_vector" if is_table(source) else "integers", options.binary)
    log(f"Copied vector to {target}" if done is None else f"Copied {done} vectors of int32.")
    return done


@tool(
    "vector-scale",
    """Scale vectors, or tables of vectors (useful for speaker vectors and per-frame weights).

Usage: vector-scale [options] (<vector-rspecifier> <vector-wspecifier> | <vector-rxfilename> <vector-wxfilename>)
 e.g.: vector-scale --scale=-1.0 1.vec -
       vector-scale --scale=-2.0 ark:vec.ark ark,t:-""",
    options=[
        Option("binary", False, "If true, write output as binary; not relevant for tables"),
        Option("scale", 1.0, "Scaling factor for vectors"),
    ],
)
def vector_scale(options, source, target):
    done = _copy(source, target, "vector", options.binary, _scaling(options.scale))
    log(f"Scaled vector to {target}" if done is None else f"Scaled {done} vectors.")
    return done


@tool(
    "vector-sum",
    """Add vectors (e.g. weights; speaker vectors). To scale them, use vector-scale on the inputs.

Usage: vector-sum [options] <vector-rspecifier1> [<vector-rspecifier2> …] <vector-wspecifier>
   or: vector-sum [options] <vector-rspecifier> <vector-wxfilename>
   or: vector-sum [options] <vector-rxfilename1> <vector-rxfilename2> … <vector-wxfilename>
 e.g.: vector-sum ark:1.weights ark:2.weights ark:combine.weights
       vector-sum --binary=false ark:vecs.ark sum.vec
       vector-sum --binary=false 1.vec 2.vec 3.vec sum.vec""",
    options=[Option("binary", True, "If true, write output as binary (not relevant if the output is a table)")],
    arguments=(2, None),
)
def vector_sum(options, *names):
    return _sum(names, "vector", options.binary, False, {})


@tool(
    "matrix-sum",
    """Add matrices.

Usage: matrix-sum [options] <matrix-rspecifier1> [<matrix-rspecifier2> …] <matrix-wspecifier>
   or: matrix-sum [options] <matrix-rspecifier> <matrix-wxfilename>
   or: matrix-sum [options] <matrix-rxfilename1> <matrix-rxfilename2> … <matrix-wxfilename>
 e.g.: matrix-sum ark:1.weights ark:2.weights ark:combine.weights
       matrix-sum --binary=false ark:mats.ark sum.mat
       matrix-sum --binary=false 1.mat 2.mat 3.mat sum.mat""",
    options=[
        Option("average", False, "Compute average instead of sum"),
        Option("binary", True, "If true, write output as binary (not relevant if the output is a table)"),
        Option("scale1", 1.0, "Scale applied to first matrix (only if the output is a table)"),
        Option("scale2", 1.0, "Scale applied to second matrix (only if the output is a table)"),
    ],
    arguments=(2, None),
)
def matrix_sum(options, *names):
    return _sum(names, "matrix", options.binary, options.average, {0: options.scale1, 1: options.scale2})


def _sum(names, kind: str, binary: bool, average: bool, scales) -> int:
    """The three forms of vector-sum and matrix-sum: tables to a table, a table to a file, files to a file."""
    *sources, target = names
    tables = [is_table(source) for source in sources]
    if is_table(target) and all(tables):
        return _sum_tables(sources, target, kind, average, scales)
    if is_table(target) or (any(tables) and len(sources) > 1):
        raise InputError(f"cannot mix tables and single files: {' '.join(names)}")
    plural = "vectors" if kind == "vector" else "matrices"
    entries = read_table(sources[0], kind) if tables[0] else ((name, read_object(name, kind)) for name in sources)
    total, done, failed = None, 0, 0
    for key, value in entries:
        problem = _mismatch(value, total) if value.size else "it is empty"
        if problem and not tables[0]:
            raise InputError(f"{key}: {problem}")
        _check_finite(value, f"{sources[0]}: {key}" if tables[0] else key)
        if problem:
            warn(f"{key} is left out: {problem}")
            failed += 1
            continue
        total = value.astype(np.float64) if total is None else total + value
        done += 1
    if total is None:
        raise InputError(f"{sources[0]}: no {plural} to add")
    with np.errstate(over="ignore"):
        total = (total / done if average else total).astype(np.float32)
    _check_finite(total, f"the sum of {' '.join(sources)}")
    write_object(target, total, kind, binary)
    log(f"Summed {done} {plural}, {failed} with errors; wrote {'average' if average else 'sum'} to {target}")
    return done > failed


def _sum_tables(sources, target: str, kind: str, average: bool, scales) -> bool:
    """Add the values of the same key; a key must be in the first table, others may lack it."""
    plural = "vectors" if kind == "vector" else "matrices"
    done, added, missing = 0, 0, 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(np.errstate(all="ignore"))  # what comes of it is looked at below
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
                    warn(f"{source} has no {key}")
                    missing += 1
                    continue
                added += 1
                problem = _mismatch(other, total)
                if problem:
                    warn(f"{source}: {key} is left out: {problem}")
                else:
                    total = total + other * factors[number]
            _check_finite(total, f"the sum of {key}")
            writer.write(key, total / np.float32(len(sources)) if average else total)
            done += 1
    log(f"Processed {done} keys: with a total of {added} {plural} across {len(sources)} different systems")
    log(f"Produced output for {done} keys; {missing} total missing {plural}")
    return done != 0 and missing < done - missing


def _mismatch(value: np.ndarray, total: Optional[np.ndarray]) -> str:
    if total is None or value.shape == total.shape:
        return ""
    return (
        f"its dimension is {' × '.join(map(str, value.shape))}, that of the first {' × '.join(map(str, total.shape))}"
    )


@tool(
    "matrix-dim",
    """Print dimension info on an input matrix (rows then columns, separated by tab), to standard output.
Output for single filename: rows[tab]cols. Output per line for a table: key[tab]rows[tab]cols.

Usage: matrix-dim [options] <matrix-rxfilename>|<matrix-rspecifier>
 e.g.: matrix-dim final.mat | cut -f 2""",
    arguments=(1, 1),
)
def matrix_dim(options, source):
    with open_output("-") as stream:
        if not is_table(source):
            stream.write(b"%d\t%d\n" % read_object(source, "general_matrix").shape)
            return None
        done = 0
        for key, matrix in read_table(source, "general_matrix"):
            stream.write(key.encode("utf-8", "surrogateescape") + b"\t%d\t%d\n" % matrix.shape)
            done += 1
        return done


@tool(
    "select-feats",
    """Select certain columns of features; think of it as the unix command cut -f.
<selection> lists columns and ranges of columns, counted from 0. A range such as 24-22 reverses the columns.
Usage: select-feats <selection> <in-rspecifier> <out-wspecifier>
 e.g.: select-feats 0,24-22,3-12 scp:feats.scp ark,scp:feat-red.ark,feat-red.scp""",
    arguments=(3, 3),
)
def select_feats(_options: SimpleNamespace, selection: str, rspecifier: str, wspecifier: str) -> None:
    columns = _parse_columns(selection)
    done = 0
    with read_table(rspecifier, "matrix") as reader, TableWriter(wspecifier, "matrix") as writer:
        for key, features in reader:
            if len(features) and max(columns) >= features.shape[1]:
                raise InputError(
                    f"{reader.where}: {key} has {features.shape[1]} columns, numbered from 0; "
                    f"cannot select column {max(columns)}"
                )
            writer.write(key, features[:, columns] if len(features) else features)
            done += 1
    log(f"Selected {len(columns)} columns of {done} feature matrices.")


def _parse_columns(selection: str) -> List[int]:
    """Return the columns of a selection such as ``0,24-22,3-12``, in its order."""
    columns: List[int] = []
    for part in selection.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match:
            raise InputError(f"'{selection}' is not a valid selection of columns (expected a list such as 0,3-12)")
        first, last = int(match[1]), int(match[2] or match[1])
        columns += range(first, last + 1) if first <= last else range(first, last - 1, -1)
    return columns
