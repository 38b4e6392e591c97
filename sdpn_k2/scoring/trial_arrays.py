"""Trial lists and score files as arrays.

A trial list has one trial per line, ``enroll test target`` or ``enroll test nontarget``, as in Kaldi, or one of the
other forms that ``kaldi/backend/trials.py`` reads. A list without labels holds trials that can only be scored. A score
file has lines ``enroll test score``. Ids are interned, so that a trial is a pair of integers: half a million trials are
two small arrays.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Container, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError, error_context
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.backend.trials import (
    LABELLED,
    PAIR,
    SCORED,
    SCORES,
    TRIALS,
    form_of,
    other_form,
    parse_scores,
    quoted,
    read_columns,
    trial_columns,
)
from sdpn_k2.kaldi.formats.io import open_input

BLOCK_TRIALS = 1 << 20  # at least so many trials at a time, where a list is not read as a whole
WRITE_LINES = 1 << 16


@dataclass(frozen=True, eq=False)
class Trials:
    """Pairs of an enrolment and a test id, in the order of the file.

    Attributes:
        enroll_ids: the distinct enrolment ids, in order of appearance.
        test_ids: the distinct test ids, in order of appearance.
        enroll: index of each trial into ``enroll_ids``, int32, shape (n,).
        test: index of each trial into ``test_ids``, int32, shape (n,).
        is_target: label of each trial, bool, shape (n,); None when the list has no labels.
        source: name of the file, for messages.
        start: number of trials before these in the file, for messages.
    """

    enroll_ids: List[str]
    test_ids: List[str]
    enroll: np.ndarray
    test: np.ndarray
    is_target: Optional[np.ndarray] = None
    source: str = "trials"
    start: int = 0

    def __len__(self) -> int:
        return len(self.enroll)

    def pair(self, i: int) -> str:
        """Return trial i as ``"enroll test"``, for messages."""
        return f"{self.enroll_ids[self.enroll[i]]} {self.test_ids[self.test[i]]}"

    def labels(self) -> np.ndarray:
        """Return ``is_target``; raise InputError when the list has no labels."""
        if self.is_target is None:
            raise InputError(f"{self.source}: the trials have no labels (third column: target or nontarget)")
        return self.is_target


@dataclass(frozen=True, eq=False)
class Scores:
    """A score for each trial of a list: ``values`` is float64 as read (or any float type), shape (n,)."""

    trials: Trials
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


def read_trials(path: Union[str, Path]) -> Trials:
    """Read a trial list (``-`` is the standard input).

    Raises:
        InputError: the file is unreadable or empty, or a line has other than 2 or 3 words, an unknown label, or another
            number of words than the first. The message names the line.
    """
    (trials,) = _trial_blocks(path, None)
    return trials


def trial_blocks(path: Union[str, Path]) -> Iterator[Trials]:
    """Read a trial list of any length in bounded memory, as blocks of ``BLOCK_TRIALS`` trials or a few more.

    Raises:
        InputError: (while iterating) as ``read_trials``.
    """
    return _trial_blocks(path, BLOCK_TRIALS)


def _trial_blocks(path: Union[str, Path], size: Optional[int]) -> Iterator[Trials]:
    """Yield the trials in blocks of at least ``size``, or all at once."""
    ids, start = _Interned(), 0
    labels: List[np.ndarray] = []
    with open_input(str(path)) as stream:
        for _, enroll, test, is_target in trial_columns(stream, PAIR, LABELLED):
            if size is not None and len(ids) >= size:
                yield ids.trials(np.concatenate(labels) if labels else None, _source(path), start)
                start += len(ids)
                ids, labels = _Interned(), []
            ids.add(enroll, test)
            if is_target is not None:
                labels.append(is_target)
    if not len(ids):
        raise InputError(f"{_source(path)}: the file is empty")
    yield ids.trials(np.concatenate(labels) if labels else None, _source(path), start)


def read_scores(path: Union[str, Path]) -> Scores:
    """Read a score file (``-`` is the standard input).

    Raises:
        InputError: the file is unreadable or empty, a line is not ``enroll test score``, or a score is NaN or infinite.
            The message names the line.
    """
    ids = _Interned()
    values: List[np.ndarray] = []
    with open_input(str(path)) as stream:
        for first_line, (enroll, test, words) in read_columns(stream, SCORED):
            if form_of(words[0]) == TRIALS:
                raise other_form(stream.name, first_line, (enroll, test, words), TRIALS, SCORES)
            ids.add(enroll, test)
            block = parse_scores(stream.name, first_line, words)
            finite = np.isfinite(block)
            if not finite.all():
                at = int(np.argmin(finite))
                where = f"{stream.name}:{first_line + at}"
                raise InputError(f"{where}: {quoted(words[at])} is not a valid score (not finite)")
            values.append(block)
    if not values:
        raise InputError(f"{_source(path)}: the file is empty")
    return Scores(ids.trials(None, _source(path), 0), np.concatenate(values))


def write_scores(path: Union[str, Path], scores: Scores) -> None:
    """Write ``enroll test score`` lines, with 7 significant digits (a float32 has no more).

    The file appears under its name when it is complete; ``-`` is the standard output.

    Raises:
        InputError: the file cannot be written.
    """
    write_score_blocks(path, [scores])


def write_score_blocks(path: Union[str, Path], blocks: Iterable[Scores]) -> int:
    """Write blocks of scores to one file as ``write_scores`` does, and return the number of scores."""
    if str(path) == "-":
        return sum(_write_lines(sys.stdout, scores) for scores in blocks)
    with atomic_output(path, "w") as stream:
        return sum(_write_lines(stream, scores) for scores in blocks)


def check_not_swapped(trials: Union[str, Path], *scores: Union[str, Path]) -> None:
    """Raise InputError if the trial list and the score files stand in each other's place, by their first lines.

    Pipes and the standard input are not looked into: ``read_trials`` and ``read_scores`` refuse the wrong form.
    """
    if _form_of_file(trials) != SCORES:
        return
    for path in scores:
        if _form_of_file(path) == TRIALS:
            raise InputError(f"{path} is {TRIALS}, and {trials} is {SCORES}; swap them")


def _form_of_file(path: Union[str, Path]) -> str:
    """Return TRIALS or SCORES by the first line of a regular file; empty if it does not tell."""
    try:
        with open(path, "rb") as stream:
            words = stream.readline(1 << 16).split() if os.path.isfile(path) else []
    except OSError:
        return ""
    return form_of(words[2]) if len(words) == 3 else ""


def match_scores(scores: Scores, trials: Trials) -> np.ndarray:
    """Return the scores of a trial list, whatever the order of the score file; ignore scores of other trials.

    Args:
        scores: as read from a score file.
        trials: the trials whose scores are wanted.

    Returns:
        shape (len(trials),), the type of ``scores.values``.

    Raises:
        InputError: trials without a score (the message names the first and counts all), or a trial with two different
            scores.
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
            f"{have.source}: {have.pair(first)} has two scores, {scores.values[first]:g} (line {first + 1}) and "
            f"{scores.values[second]:g} (line {second + 1}); conflicts in all: {len(conflict)}"
        )
    if not len(keys):
        raise InputError(
            f"{have.source}: none of the {len(want)} trials of {want.source} has a score (the first is {want.pair(0)})"
        )
    place = np.searchsorted(keys, wanted)
    place[place == len(keys)] = 0
    missing = np.flatnonzero(keys[place] != wanted)
    if len(missing):
        raise InputError(
            f"{have.source}: no score for {want.pair(missing[0])} of {want.source}; {len(missing)} of {len(want)} "
            "trials have no score"
        )
    return scores.values[rows[place]]


def trials_between(trials: Trials, ids: Container[str]) -> Trials:
    """Return the trials of which both sides are among ``ids``, in their order."""
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
    """Raise InputError when the list holds a pair both as target and as nontarget."""
    is_target = trials.labels()
    keys = _keys(trials.enroll, trials.test, len(trials.test_ids))
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    conflict = np.flatnonzero(same & (is_target[order[1:]] != is_target[order[:-1]]))
    if len(conflict):
        raise InputError(f"{trials.source}: {trials.pair(order[conflict[0]])} is both target and nontarget")


def _source(path: Union[str, Path]) -> str:
    return "standard input" if str(path) == "-" else str(path)


class _Interned:
    """The first two columns of a file, each id replaced by a number."""

    def __init__(self) -> None:
        self._enroll: Dict[bytes, int] = {}
        self._test: Dict[bytes, int] = {}
        self._pieces: List[Tuple[np.ndarray, np.ndarray]] = []
        self._count = 0

    def add(self, enroll: List[bytes], test: List[bytes]) -> None:
        self._pieces.append((_intern(enroll, self._enroll), _intern(test, self._test)))
        self._count += len(enroll)

    def __len__(self) -> int:
        return self._count

    def trials(self, is_target: Optional[np.ndarray], source: str, start: int) -> Trials:
        enroll, test = (np.concatenate(side) for side in zip(*self._pieces))
        with error_context(source):
            enroll_ids, test_ids = _decoded(self._enroll), _decoded(self._test)
        return Trials(enroll_ids, test_ids, enroll, test, is_target, source, start)


def _intern(names: Sequence[bytes], table: Dict[bytes, int]) -> np.ndarray:
    """Return the index of each name in ``table``; add new names to it in order of appearance."""
    index = table.setdefault
    return np.fromiter((index(name, len(table)) for name in names), np.int32, len(names))


def _decoded(names: Dict[bytes, int]) -> List[str]:
    try:
        return [name.decode() for name in names]
    except UnicodeDecodeError as error:
        raise InputError(f"the id {quoted(error.object)} is not UTF-8") from None


def _write_lines(stream: IO[str], scores: Scores) -> int:
    """Write the scores; return their number."""
    trials = scores.trials
    enroll_ids, test_ids = np.array(trials.enroll_ids, object), np.array(trials.test_ids, object)
    for start in range(0, len(trials), WRITE_LINES):
        part = slice(start, start + WRITE_LINES)
        rows = zip(enroll_ids[trials.enroll[part]], test_ids[trials.test[part]], scores.values[part].tolist())
        stream.write("".join(map("%s %s %.7g\n".__mod__, rows)))
    return len(scores)


def _keys(enroll: np.ndarray, test: np.ndarray, n_test: int) -> np.ndarray:
    """Return one int64 for each pair."""
    keys: np.ndarray = enroll.astype(np.int64) * n_test + test
    return keys


def _translation(names: Sequence[str], into: Sequence[str]) -> np.ndarray:
    """Return the index in ``into`` of each name, -1 where it is not there."""
    table = {name: i for i, name in enumerate(into)}
    return np.fromiter((table.get(name, -1) for name in names), np.int64, len(names))
