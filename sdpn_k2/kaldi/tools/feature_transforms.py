"""Tools that change features frame by frame: deltas, pasting, splicing, sub-sampling, transforms."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features import frames
from sdpn_k2.kaldi.features.feature_table import read_features
from sdpn_k2.kaldi.formats.log import log, warn
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter, is_table, read_object, read_table, write_object
from sdpn_k2.kaldi.tools.command_line import BINARY, Option, tool


@tool(
    options=[
        Option("delta-order", 2, "Order of delta computation"),
        Option("delta-window", 2, "Parameter controlling window for delta computation (window is 1 + 2*delta-window)"),
        Option("truncate", 0, "If nonzero, first truncate features to this dimension"),
    ]
)
def add_deltas(options: SimpleNamespace, rspecifier: str, wspecifier: str) -> None:
    """Add deltas (typically to raw mfcc or plp features).

    Usage: add-deltas [options] <in-rspecifier> <out-wspecifier>
     e.g.: add-deltas --delta-order=1 scp:feats.scp ark:-
    """
    filters = frames.delta_filters(options.delta_order, options.delta_window)
    with TableWriter(wspecifier, "matrix") as writer:
        for key, features in read_features(rspecifier):
            if not len(features):
                warn(f"Empty feature matrix for key {key}")
                continue
            if not 0 <= options.truncate <= features.shape[1]:
                raise InputError(
                    f"{rspecifier}: {key}: cannot truncate {features.shape[1]} dimensions to "
                    f"--truncate={options.truncate}"
                )
            writer.write(key, frames.add_deltas(features[:, : options.truncate or None], filters))


@tool(
    options=[
        Option("left-context", 4, "Number of frames of left context"),
        Option("right-context", 4, "Number of frames of right context"),
    ]
)
def splice_feats(options: SimpleNamespace, rspecifier: str, wspecifier: str) -> None:
    """Splice features with left and right context (e.g. prior to LDA).

    Usage: splice-feats [options] <in-rspecifier> <out-wspecifier>
     e.g.: splice-feats --left-context=3 --right-context=3 scp:feats.scp ark:-
    """
    with read_table(rspecifier, "matrix") as reader, TableWriter(wspecifier, "matrix") as writer:
        for key, features in reader:
            if not len(features):
                raise InputError(f"{reader.where}: {key}: there are no frames to splice")
            writer.write(key, frames.splice(features, options.left_context, options.right_context))


@tool(
    options=[
        Option(
            "n", 1, "Take every n'th feature, for this value of n (with negative value, repeats each feature n times)"
        ),
        Option("offset", 0, "Start with the feature with this offset, then take every n'th feature"),
    ]
)
def subsample_feats(options: SimpleNamespace, rspecifier: str, wspecifier: str) -> int:
    """Sub-sample features by taking every n'th frame, or repeat each frame.

    Usage: subsample-feats [options] <in-rspecifier> <out-wspecifier>
     e.g.: subsample-feats --n=2 ark:- ark:-
    """
    done = failed = 0
    with read_table(rspecifier, "matrix") as reader, TableWriter(wspecifier, "matrix") as writer:
        for key, features in reader:
            chosen = frames.subsample(features, options.n, options.offset)
            if not len(chosen):
                warn(f"For utterance {key}, output would have no rows, producing no output.")
                failed += 1
                continue
            writer.write(key, chosen)
            done += 1
    log(f"Sub-sampled {done} feats; {failed} with errors.")
    return done


@tool(options=[Option("utt2spk", "", "rspecifier for utterance to speaker map")], arguments=(3, 3))
def transform_feats(options: SimpleNamespace, transform: str, rspecifier: str, wspecifier: str) -> None:
    """Apply a transform (e.g. LDA; HLDA; fMLLR/CMLLR; MLLT/STC), linear or affine, to each frame.

    The transform is linear if it has as many columns as the features, and affine if it has one more. It is per
    utterance by default, per speaker if --utt2spk is provided, and global if it is a file.

    Usage: transform-feats [options] <transform-rspecifier|transform-rxfilename> <feats-rspecifier> <feats-wspecifier>
     e.g.: transform-feats final.mat scp:feats.scp ark:-
    """
    done = failed = 0
    determinants = _Determinants()
    with contextlib.ExitStack() as stack:
        table = stack.enter_context(RandomReader(transform, "matrix")) if is_table(transform) else None
        fixed = read_object(transform, "matrix") if table is None else None
        utt2spk = stack.enter_context(RandomReader(options.utt2spk, "token")) if options.utt2spk else None
        writer = stack.enter_context(TableWriter(wspecifier, "matrix"))
        for key, features in read_features(rspecifier):
            speaker = key if utt2spk is None else utt2spk.get(key)
            if speaker is None:
                warn(f"Utt2spk map has no value for utterance {key}, producing no output for this utterance")
                failed += 1
                continue
            matrix = fixed if table is None else table.get(speaker)
            if matrix is None:
                of_speaker = "" if speaker == key else f" [spk = {speaker}]"
                warn(
                    f"No fMLLR transform available for utterance {key}{of_speaker}, "
                    "producing no output for this utterance"
                )
                failed += 1
                continue
            dim = features.shape[1]
            if matrix.shape[1] not in (dim, dim + 1):
                warn(
                    f"Transform matrix for key {speaker} has bad dimension {matrix.shape[0]}x{matrix.shape[1]} versus "
                    f"feat dim {dim}"
                )
                failed += 1
                continue
            result = features @ matrix[:, :dim].T
            if matrix.shape[1] > dim:
                result += matrix[:, dim]
            if not np.isfinite(result).all():
                raise InputError(f"{transform}: the transformed features of {key} are NaN or infinite")
            writer.write(key, result)
            determinants.add(matrix[:, :dim], len(features))
            done += 1
    determinants.report()
    log(f"Applied transform to {done} utterances; {failed} had errors.")


class _Determinants:
    """The average log determinant of the transforms, weighted by frames: 1/2 log |T T'|."""

    def __init__(self) -> None:
        self._last: Optional[np.ndarray] = None
        self._value, self._total, self._frames = 0.0, 0.0, 0
        self._label = ""

    def add(self, matrix: np.ndarray, num_frames: int) -> None:
        """Count a transform; it is computed again only if it is another one."""
        rows, columns = matrix.shape
        if rows > columns:
            return
        if self._last is None or not np.array_equal(matrix, self._last):
            self._last, exact = matrix, matrix.astype(np.float64)
            self._value = 0.5 * float(np.linalg.slogdet(exact @ exact.T)[1])
            self._label = self._label or ("" if rows == columns else "[pseudo-]")
            if not np.isfinite(self._value):
                warn(f"Matrix has bad logdet {self._value:g}")
        if np.isfinite(self._value):
            self._total += num_frames * self._value
            self._frames += num_frames

    def report(self) -> None:
        """Log the average."""
        if self._frames:
            average = self._total / self._frames
            log(f"Overall average {self._label}logdet is {average:g} over {self._frames} frames.")


@tool(
    options=[
        BINARY,
        Option("length-tolerance", 0, "Tolerate small length differences of feats (warn and trim at end)"),
    ],
    arguments=(3, None),
)
def paste_feats(options: SimpleNamespace, *names: str) -> Optional[int]:
    """Paste feature files (assuming they have the same lengths); think of the unix command paste a b.

    Usage: paste-feats [options] <in-rspecifier1> <in-rspecifier2> [<in-rspecifier3> …] <out-wspecifier>
       or: paste-feats [options] <in-rxfilename1> <in-rxfilename2> [<in-rxfilename3> …] <out-wxfilename>
     e.g.: paste-feats ark:feats1.ark "ark:select-feats 0-3 ark:feats2.ark ark:- |" ark:feats-out.ark
    """
    *sources, target = names
    tables = [is_table(name) for name in names]
    if any(tables) != all(tables):
        raise InputError(f"cannot mix tables and single files: {' '.join(names)}")
    if not tables[0]:
        pasted = _paste([read_object(name, "matrix") for name in sources], "", options.length_tolerance)
        if pasted is None:
            return 0
        write_object(target, pasted, "matrix", options.binary)
        log(f"Wrote appended features to {target}")
        return None
    done = failed = 0
    with TableWriter(target, "matrix") as writer:
        for key, parts in _together(sources):
            result = _paste(parts, key, options.length_tolerance) if parts else None
            failed += result is None
            if result is not None:
                writer.write(key, result)
                done += 1
    log(f"Done {done} utts, errors on {failed}")
    return done


def _together(sources: Sequence[str]) -> Iterator[Tuple[str, List[np.ndarray]]]:
    """Yield the keys of the first table with the matrices of all tables; with none, if a table lacks the key."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(read_table(sources[0], "matrix"))
        others = [stack.enter_context(RandomReader(source, "matrix")) for source in sources[1:]]
        for key, features in first:
            parts = [features]
            for source, table in zip(sources[1:], others):
                if key not in table:
                    warn(f"Missing utt {key} from input {source}")
                    parts = []
                    break
                parts.append(table[key])
            yield key, parts


def _paste(parts: Sequence[np.ndarray], key: str, tolerance: int) -> Optional[np.ndarray]:
    """Return the matrices side by side, or None with a warning if their lengths differ by more than ``tolerance``."""
    shortest, longest = min(map(len, parts)), max(map(len, parts))
    mismatch = f"Length mismatch {longest} vs. {shortest}{f' for utt {key}' if key else ''}"
    if longest - shortest > tolerance or shortest == 0:
        warn(f"{mismatch} exceeds tolerance {tolerance}")
        return None
    if longest > shortest:
        log(f"{mismatch} within tolerance {tolerance}")
    return np.concatenate([part[:shortest] for part in parts], axis=1)
