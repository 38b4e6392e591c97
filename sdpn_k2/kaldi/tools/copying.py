"""Tools that copy vectors, matrices and features, and may scale, resize, compress or select them."""

from __future__ import annotations

import contextlib
import re
from types import SimpleNamespace
from typing import Any, Callable, List, Optional, Sequence, Set, Tuple

import numpy as np

from sdpn_k2.errors import InputError, error_context
from sdpn_k2.kaldi.formats.compression import METHODS, compress
from sdpn_k2.kaldi.formats.io import open_input
from sdpn_k2.kaldi.formats.log import log
from sdpn_k2.kaldi.formats.tables import TableWriter, is_table, read_object, read_table, write_object
from sdpn_k2.kaldi.formats.words import split, strip
from sdpn_k2.kaldi.tools.command_line import BINARY, Option, tool

Change = Callable[[Any], Any]


def _unchanged(value: Any) -> Any:
    return value


def _copy(source: str, target: str, kind: str, binary: bool, change: Change = _unchanged) -> Optional[int]:
    """Copy a table to a table, or one object to one object; return the number of entries, None for one object."""
    if is_table(source) != is_table(target):
        raise InputError(f"cannot mix a table and a single file: {source} and {target}")
    if not is_table(source):
        value = read_object(source, kind)
        with error_context(source):
            value = change(value)
        write_object(target, value, kind, binary)
        return None
    done = 0
    with read_table(source, kind) as reader, TableWriter(target, kind) as writer:
        for key, value in reader:
            if change is not _unchanged:
                with error_context(f"{source}: {key}"):
                    value = change(value)
            writer.write(key, value)
            done += 1
    return done


def _scaling(scale: float) -> Change:
    if scale == 1.0:
        return _unchanged
    return lambda value: _computed(lambda: value * np.float32(scale), value)


def _computed(function: Callable[[], np.ndarray], value: np.ndarray) -> np.ndarray:
    """Return ``function()``, which is computed from ``value``, as float32.

    Raises:
        InputError: the result is NaN or infinite where ``value`` is finite.
    """
    with np.errstate(all="ignore"):
        result = np.asarray(function(), np.float32)
    if not np.isfinite(result).all() and not np.isfinite(result[np.isfinite(value)]).all():
        raise InputError("a result is not a number, or too large for a float")
    return result


@tool(
    options=[
        BINARY,
        Option("change-dim", -1, "Use this option to truncate or zero-pad the vectors"),
        Option("scale", 1.0, "This option can be used to scale the vectors being copied"),
    ]
)
def copy_vector(options: SimpleNamespace, source: str, target: str) -> Optional[int]:
    """Copy vectors, or tables of vectors (e.g. speaker vectors). The numbers become float.

    Usage: copy-vector [options] (<vector-rspecifier> <vector-wspecifier> | <vector-rxfilename> <vector-wxfilename>)
     e.g.: copy-vector --binary=false 1.vec -
           copy-vector scp:xvector.scp ark,t:-
    """
    scale = _scaling(options.scale)

    def change(vector: np.ndarray) -> np.ndarray:
        vector = scale(vector)
        resized = np.zeros(options.change_dim, np.float32)
        resized[: len(vector)] = vector[: options.change_dim]
        return resized

    done = _copy(source, target, "vector", options.binary, scale if options.change_dim < 0 else change)
    log(f"Copied vector to {target}" if done is None else f"Copied {done} vectors.")
    return done


@tool(
    options=[
        BINARY,
        Option("scale", 1.0, "This option can be used to scale the matrices being copied"),
        Option("apply-log", False, "Take the logarithm of the matrices; they must not contain negative numbers"),
        Option("apply-exp", False, "Take the exponential of the matrices"),
        Option("apply-power", 1.0, "Raise the numbers of the matrices to this power"),
        Option("apply-softmax-per-row", False, "Apply a softmax to each row"),
    ],
)
def copy_matrix(options: SimpleNamespace, source: str, target: str) -> Optional[int]:
    """Copy matrices, or tables of matrices (e.g. features or transforms). The numbers become float.

    Usage: copy-matrix [options] (<matrix-rspecifier> <matrix-wspecifier> | <matrix-rxfilename> <matrix-wxfilename>)
     e.g.: copy-matrix --binary=false transform.mat -
           copy-matrix ark:2.trans ark,t:-
    """
    if sum((options.apply_log, options.apply_exp, options.apply_softmax_per_row)) > 1:
        raise InputError("choose one of --apply-log, --apply-exp and --apply-softmax-per-row")
    scale = _scaling(options.scale)

    def change(matrix: np.ndarray) -> np.ndarray:
        matrix = scale(matrix)
        if options.apply_log:
            if (matrix < 0).any():
                raise InputError("--apply-log: the matrix has negative numbers")
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
    options=[
        BINARY,
        Option("compress", False, "If true, write output in compressed form"),
        Option("compression-method", 1, "Only relevant if --compress=true: the method (1 through 7)"),
        Option("htk-in", False, "Read input as HTK features"),
        Option("sphinx-in", False, "Read input as Sphinx features (13 dimensions)"),
        Option(
            "write-num-frames",
            "",
            "Wspecifier to write length in frames of each utterance, e.g. 'ark,t:utt2num_frames'; only for tables",
        ),
    ],
)
def copy_feats(options: SimpleNamespace, source: str, target: str) -> Optional[int]:
    """Copy features [and possibly change format].

    Usage: copy-feats [options] (<feature-rspecifier> <feature-wspecifier> | <feature-rxfilename> <feature-wxfilename>)
     e.g.: copy-feats ark:feats.ark ark,scp:foo.ark,foo.scp
           copy-feats --compress=true scp:feats.scp ark,scp:small.ark,small.scp
    """
    method = options.compression_method if options.compress else 0
    if options.compress and method not in METHODS:
        raise InputError(f"--compression-method={method} does not exist (choose 1 to 7)")
    if options.htk_in and options.sphinx_in:
        raise InputError("choose one of --htk-in and --sphinx-in")
    kind = "htk" if options.htk_in else "sphinx" if options.sphinx_in else "matrix"
    if is_table(source) != is_table(target):
        raise InputError(f"cannot mix a table and a single file: {source} and {target}")
    if not is_table(source):
        if options.write_num_frames:
            raise InputError("--write-num-frames needs tables as input and output")
        matrix = read_object(source, kind)
        write_object(target, compress(matrix, method) if method else matrix, "matrix", options.binary)
        log(f"Copied features to {target}")
        return None
    done = 0
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(read_table(source, kind))
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


@tool(options=[BINARY])
def copy_int_vector(options: SimpleNamespace, source: str, target: str) -> Optional[int]:
    """Copy vectors of integers, or tables of vectors of integers (e.g. alignments).

    Usage: copy-int-vector [options] (<vector-rspecifier> <vector-wspecifier> | <vector-rxfilename> <vector-wxfilename>)
     e.g.: copy-int-vector --binary=false foo -
           copy-int-vector ark:1.ali ark,t:-
    """
    done = _copy(source, target, "int_vector" if is_table(source) else "integers", options.binary)
    log(f"Copied vector to {target}" if done is None else f"Copied {done} vectors of int32.")
    return done


@tool(
    options=[
        Option("binary", False, "If true, write output as binary; not relevant for tables"),
        Option("scale", 1.0, "Scaling factor for vectors"),
    ],
)
def vector_scale(options: SimpleNamespace, source: str, target: str) -> Optional[int]:
    """Scale vectors, or tables of vectors (useful for speaker vectors and per-frame weights).

    Usage: vector-scale [options] (<vector-rspecifier> <vector-wspecifier> | <vector-rxfilename> <vector-wxfilename>)
     e.g.: vector-scale --scale=-1.0 1.vec -
           vector-scale --scale=-2.0 ark:vec.ark ark,t:-
    """
    done = _copy(source, target, "vector", options.binary, _scaling(options.scale))
    log(f"Scaled vector to {target}" if done is None else f"Scaled {done} vectors.")
    return done


@tool(
    options=[
        Option("n", 10, "Copy the first n feature files"),
        Option("include", "", "Text file, the first field of each line being an utterance-id that will be included"),
        Option("exclude", "", "Text file, the first field of each line being an utterance-id that will be excluded"),
    ],
)
def subset_feats(options: SimpleNamespace, rspecifier: str, wspecifier: str) -> Optional[int]:
    """Copy a subset of features: the first n, or those that a list includes or excludes.

    Use one of --n, --include and --exclude. To select utterances, it is usually best to filter the scp file with
    utils/filter_scp.pl.

    Usage: subset-feats [options] <in-rspecifier> <out-wspecifier>
     e.g.: subset-feats --n=10 ark:- ark:-
           subset-feats --include=include_uttlist ark:- ark:-
    """
    listed = options.include or options.exclude
    if options.include and options.exclude:
        raise InputError("should not have both --exclude and --include option")
    if listed and options.n != 10:
        raise InputError("should not have both a list of utterances and the --n option")
    if options.n < 1:
        raise InputError(f"Invalid option --n={options.n}. Should be at least 1")
    keys = _first_fields(listed) if listed else None
    done = total = 0
    with read_table(rspecifier, "matrix") as reader, TableWriter(wspecifier, "matrix") as writer:
        for key, features in reader:
            total += 1
            if keys is None or (key in keys) == bool(options.include):
                writer.write(key, features)
                done += 1
            if keys is None and total == options.n:
                break
    if keys is None:
        return None  # Kaldi's exit status is 0 even for no features
    log(f" Wrote {done} out of {total} utterances.")
    return done


def _first_fields(rxfilename: str) -> Set[str]:
    fields = set()
    with open_input(rxfilename) as stream:
        for line in stream.lines():
            if not strip(line):
                raise InputError(f"{rxfilename}: empty line in the list of utterances")
            fields.add(split(line, 1)[0])
    return fields


@tool(arguments=(3, 3))
def select_feats(_options: SimpleNamespace, selection: str, rspecifier: str, wspecifier: str) -> None:
    """Select columns of features, as cut -f selects fields.

    <selection> lists columns and ranges of columns, counted from 0. A range such as 24-22 reverses the columns.

    Usage: select-feats <selection> <in-rspecifier> <out-wspecifier>
     e.g.: select-feats 0,24-22,3-12 scp:feats.scp ark,scp:feat-red.ark,feat-red.scp
    """
    ranges = _parse_ranges(selection)
    highest = max(max(limits) for limits in ranges)
    columns: List[int] = []
    done = 0
    with read_table(rspecifier, "matrix") as reader, TableWriter(wspecifier, "matrix") as writer:
        for key, features in reader:
            if len(features):
                if highest >= features.shape[1]:
                    raise InputError(
                        f"{reader.where}: {key} has {features.shape[1]} columns, numbered from 0; "
                        f"cannot select column {highest}"
                    )
                columns = columns or _columns(ranges)  # here, since a range beyond all features may be huge
                features = features[:, columns]
            writer.write(key, features)
            done += 1
    log(f"Selected {sum(abs(last - first) + 1 for first, last in ranges)} columns of {done} feature matrices.")


def _parse_ranges(selection: str) -> List[Tuple[int, int]]:
    """Return the first and last column of each part of a selection such as ``0,24-22,3-12``."""
    ranges = []
    for part in selection.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match:
            raise InputError(f"'{selection}' is not a valid selection of columns (expected a list such as 0,3-12)")
        ranges.append((int(match[1]), int(match[2] or match[1])))
    return ranges


def _columns(ranges: Sequence[Tuple[int, int]]) -> List[int]:
    columns: List[int] = []
    for first, last in ranges:
        columns += range(first, last + 1) if first <= last else range(first, last - 1, -1)
    return columns
