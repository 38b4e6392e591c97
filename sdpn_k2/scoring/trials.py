"""Trial lists and score files as arrays.

A trial list has one trial a line, ``enroll test target`` or ``enroll test nontarget`` (Kaldi); 1 and 0 are read as
well, and lists without the third column are trials to be scored only. A score file has ``enroll test score``. Fields
are separated by blanks. Ids are interned: a trial is a pair of integers, half a million trials are two small arrays.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Container, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output

BLOCK_BYTES = 1 << 24
WRITE_LINES = 1 << 16

LABELS = {b"target": True, b"nontarget": False, b"1": True, b"0": False}


@dataclass(frozen=True, eq=False)
class Trials:
    """Pairs of an enrolment and a test id, in the order of the file.

    Attributes:
        enroll_ids: the distinct enrolment ids, in order of appearance.
        test_ids: the distinct test ids, in order of appearance.
        enroll: index of each trial into ``enroll_ids``, int32, shape (n,).
        test: index of each trial into ``test_ids``, int32, shape (n,).
        is_target: label of each trial, bool, shape (n,); None when the list has no labels.
        source: where it was read from, for messages.
    """

    enroll_ids: List[str]
    test_ids: List[str]
    enroll: np.ndarray
    test: np.ndarray
    is_target: Optional[np.ndarray] = None
    source: str = "trials"

    def __len__(self) -> int:
        return len(self.enroll)

    def pair(self, i: int) -> str:
        """Trial i as ``"enroll test"``, for messages."""
        return f"{self.enroll_ids[self.enroll[i]]} {self.test_ids[self.test[i]]}"

    def labels(self) -> np.ndarray:
        """``is_target``; raises InputError when the list has no labels."""
        if self.is_target is None:
            raise InputError(f"{self.source}: the trials have no labels (third column target or nontarget)")
        return self.is_target


@dataclass(frozen=True, eq=False)
class Scores:
    """A score for each trial of a list: ``values`` float64 as read (or any float type), shape (n,)."""

    trials: Trials
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


def read_trials(path: Union[str, Path]) -> Trials:
    """Reads a trial list (``-`` is the standard input).

    Raises:
        InputError: not readable, empty, a line with other than 2 or 3 fields, with an unknown label, or without a label
            where others have one. The message names the line.
    """
    pairs = _PairReader(path)
    labels: List[np.ndarray] = []
    for first_line, columns in pairs.blocks((2, 3), "enroll test target|nontarget"):
        if len(columns) == 3:
            try:
                labels.append(np.fromiter(map(LABELS.__getitem__, columns[2]), bool, len(columns[2])))
            except KeyError as error:
                at = first_line + columns[2].index(error.args[0])
                raise InputError(
                    f"{pairs.source}:{at}: the label is {_show(error.args[0])}, must be target or nontarget"
                ) from None
    return pairs.trials(np.concatenate(labels) if labels else None)


def read_scores(path: Union[str, Path]) -> Scores:
    """Reads a score file (``-`` is the standard input).

    Raises:
        InputError: not readable, empty, a line that is not ``enroll test score``, a score that is NaN or infinite. The
            message names the line.
    """
    pairs = _PairReader(path)
    values: List[np.ndarray] = []
    for first_line, columns in pairs.blocks((3,), "enroll test score"):
        block = _floats(columns[2], pairs.source, first_line)
        values.append(block)
        finite = np.isfinite(block)
        if not finite.all():
            at = int(np.argmin(finite))
            raise InputError(
                f"{pairs.source}:{first_line + at}: the score is {_show(columns[2][at])}, must be a finite number"
            )
    return Scores(pairs.trials(None), np.concatenate(values))


def write_scores(path: Union[str, Path], scores: Scores) -> None:
    """Writes ``enroll test score`` lines, scores with 7 significant digits (a float32 has no more).

    The file appears under its name when it is complete; ``-`` is the standard output.

    Raises:
        InputError: the file cannot be written.
    """
    if str(path) == "-":
        _write_lines(sys.stdout, scores)
        return
    with atomic_output(path, "w") as stream:
        _write_lines(stream, scores)


def match_scores(scores: Scores, trials: Trials) -> np.ndarray:
    """The scores of a trial list, whatever the order of the score file; scores of other trials are passed over.

    Args:
        scores: as read from a score file.
        trials: the trials wanted.

    Returns:
        shape (len(trials),), the type of ``scores.values``.

    Raises:
        InputError: trials without a score (the first is named, all are counted), or one with two different scores.
    """
    have, want = scores.trials, trials
    if have is want:
        return scores.values
    wanted = _keys(want.enroll, want.test, len(want.test_ids))
    enroll = _translation(have.enroll_ids, want.enroll_ids)[have.enroll]
    test = _translation(have.test_ids, want.test_ids)[have.test]
    known = np.flatnonzero((enroll >= 0) & (test >= 0))
    keys = _keys(enroll[known], test[known], len(want.test_ids))
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], known[order]
    repeated = np.flatnonzero(keys[1:] == keys[:-1])
    conflict = repeated[scores.values[rows[repeated]] != scores.values[rows[repeated + 1]]]
    if len(conflict):
        conflict = conflict[np.isin(keys[conflict], wanted)]
    if len(conflict):
        first, second = rows[conflict[0]], rows[conflict[0] + 1]
        raise InputError(
            f"{have.source}: {have.pair(first)} has two scores, {scores.values[first]:g} (trial "
            f"{first + 1}) and {scores.values[second]:g} (trial {second + 1}); "
            f"{len(conflict)} such repetition(s) in all"
        )
    if not len(keys):
        raise InputError(
            f"{have.source}: has a score for none of the {len(want)} trials of {want.source} "
            f"(the first is {want.pair(0)})"
        )
    place = np.searchsorted(keys, wanted)
    place[place == len(keys)] = 0
    missing = np.flatnonzero(keys[place] != wanted)
    if len(missing):
        raise InputError(
            f"{have.source}: no score for {want.pair(missing[0])} of {want.source}; {len(missing)} of "
            f"{len(want)} trials lack a score"
        )
    return scores.values[rows[place]]


def trials_between(trials: Trials, ids: Container[str]) -> Trials:
    """The trials of which both sides are among ``ids``, in their order."""
    enroll, test = (
        np.fromiter((name in ids for name in names), bool, len(names)) for names in (trials.enroll_ids, trials.test_ids)
    )
    kept = enroll[trials.enroll] & test[trials.test]
    used_enroll, enroll = np.unique(trials.enroll[kept], return_inverse=True)
    used_test, test = np.unique(trials.test[kept], return_inverse=True)
    is_target = None if trials.is_target is None else trials.is_target[kept]
    return Trials(
        [trials.enroll_ids[i] for i in used_enroll],
        [trials.test_ids[i] for i in used_test],
        enroll.astype(np.int32),
        test.astype(np.int32),
        is_target,
        trials.source,
    )


def check_labels_agree(trials: Trials) -> None:
    """Raises InputError when a pair stands twice in the list, once as target and once as nontarget."""
    is_target = trials.labels()
    keys = _keys(trials.enroll, trials.test, len(trials.test_ids))
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    conflict = np.flatnonzero(same & (is_target[order[1:]] != is_target[order[:-1]]))
    if len(conflict):
        raise InputError(f"{trials.source}: {trials.pair(order[conflict[0]])} is both target and nontarget")


class _PairReader:
    """Reads lines of fields in blocks and interns their first two fields."""

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = str(path)
        self.source = "standard input" if self.path == "-" else self.path
        self._enroll: Dict[bytes, int] = {}
        self._test: Dict[bytes, int] = {}
        self._pieces: List[Tuple[np.ndarray, np.ndarray]] = []

    def blocks(self, widths: Sequence[int], form: str) -> Iterator[Tuple[int, List[List[bytes]]]]:
        """Reads the file some 16 MB at a time; every line must have as many fields as the first.

        Args:
            widths: the numbers of fields a line may have.
            form: what a line looks like, for messages.

        Yields:
            the number of the first line, and the columns of the lines.
        """
        first_line, width = 1, None
        try:
            stream: IO[bytes] = sys.stdin.buffer if self.path == "-" else open(self.path, "rb")
            with stream:
                while True:
                    block = stream.read(BLOCK_BYTES)
                    if not block:
                        break
                    block += stream.readline()
                    counts = _fields_per_line(block)
                    width = width or counts[0]
                    bad = np.flatnonzero(counts != width) if width in widths else [0]
                    if len(bad):
                        self._refuse(first_line + bad[0], counts[bad[0]], width, widths, form)
                    fields = block.split()
                    columns = [fields[i::width] for i in range(width)]
                    self._pieces.append((_intern(columns[0], self._enroll), _intern(columns[1], self._test)))
                    yield first_line, columns
                    first_line += len(counts)
        except OSError as error:
            raise InputError(f"{self.source}: cannot read: {error.strerror or error}") from error
        if first_line == 1:
            raise InputError(f"{self.source}: is empty")

    def _refuse(self, line: int, count: int, width: int, widths: Sequence[int], form: str) -> None:
        if count in widths:
            raise InputError(f"{self.source}:{line}: has {count} fields where the lines before it have {width}")
        raise InputError(f"{self.source}:{line}: has {count} fields, must be '{form}'")

    def trials(self, is_target: Optional[np.ndarray]) -> Trials:
        enroll, test = (np.concatenate(side) for side in zip(*self._pieces))
        try:
            names = [[name.decode() for name in table] for table in (self._enroll, self._test)]
        except UnicodeDecodeError as error:
            raise InputError(f"{self.source}: {_show(error.object)} is not UTF-8") from None
        return Trials(names[0], names[1], enroll, test, is_target, self.source)


def _intern(names: Sequence[bytes], table: Dict[bytes, int]) -> np.ndarray:
    """Index of each name in ``table``, to which new names are added in order of appearance."""
    index = table.setdefault
    return np.fromiter((index(name, len(table)) for name in names), np.int32, len(names))


def _fields_per_line(block: bytes) -> np.ndarray:
    """Number of blank-separated fields of each line, without a Python loop over lines."""
    characters = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
    newline = characters == ord("\n")
    blank = (characters == ord(" ")) | ((characters >= ord("\t")) & (characters <= ord("\r")))
    # A field ends where a blank follows something else.
    ends = np.flatnonzero(blank[1:] & ~blank[:-1]) + 1
    return np.diff(np.searchsorted(ends, np.flatnonzero(newline), side="right"), prepend=0)


def _floats(fields: Sequence[bytes], source: str, first_line: int) -> np.ndarray:
    try:
        return np.fromiter(map(float, fields), np.float64, len(fields))
    except ValueError:
        for i, field in enumerate(fields):
            try:
                float(field)
            except ValueError:
                raise InputError(
                    f"{source}:{first_line + i}: the score is {_show(field)}, must be a finite number"
                ) from None
        raise


def _write_lines(stream: IO[str], scores: Scores) -> None:
    trials = scores.trials
    enroll_ids, test_ids = np.array(trials.enroll_ids, object), np.array(trials.test_ids, object)
    for start in range(0, len(trials), WRITE_LINES):
        part = slice(start, start + WRITE_LINES)
        rows = zip(enroll_ids[trials.enroll[part]], test_ids[trials.test[part]], scores.values[part].tolist())
        stream.write("".join(map("%s %s %.7g\n".__mod__, rows)))


def _keys(enroll: np.ndarray, test: np.ndarray, n_test: int) -> np.ndarray:
    """One int64 for each pair."""
    return enroll.astype(np.int64) * n_test + test


def _translation(names: Sequence[str], into: Sequence[str]) -> np.ndarray:
    """For each name its index in ``into``, -1 where it is not there."""
    table = {name: i for i, name in enumerate(into)}
    return np.fromiter((table.get(name, -1) for name in names), np.int64, len(names))


def _show(field: bytes) -> str:
    return repr(field.decode(errors="replace"))
