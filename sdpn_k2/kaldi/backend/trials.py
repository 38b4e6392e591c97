"""Trial lists and score files of any length, a block of lines at a time.

A trial list has lines ``<enrolment key> <test key>``, a labelled one ``target`` or ``nontarget`` as third word, a score
file the score. Words are bytes here: nothing needs decoding.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.io import InputStream, open_input, open_output

_BLOCK = 1 << 20  # bytes read at a time
_TRIALS_AT_ONCE = 512  # scored at once: their rows of both sides should stay in the cache
_MOST_WARNINGS = 100


class Side(NamedTuple):
    """The keys of one side of the trials, a row for each, and what to call the side in messages."""

    keys: Sequence[str]
    rows: np.ndarray  # (n, k) float64
    name: str


class ScoringResult(NamedTuple):
    """How many trials were scored and dropped, and the mean and standard deviation of the scores."""

    num_done: int
    num_dropped: int
    mean: float
    stddev: float


def score_trials(trials_rxfilename: str, scores_wxfilename: str, enroll: Side, test: Side) -> ScoringResult:
    """Write ``<enrolment key> <test key> <score>`` for each trial, in the order of the list and with seven digits.

    The score is the dot product of the rows of the two keys; PLDA scores have that form too (see Plda.scoring_factors).
    A trial with an unknown key is dropped; each unknown key is named once in a warning.

    Raises:
        InputError: a line without exactly two keys, a key that occurs twice on one side, rows of different lengths, or
            not one trial that can be scored.
    """
    if enroll.rows.shape[1] != test.rows.shape[1]:
        raise InputError(f"{enroll.name} have {enroll.rows.shape[1]} dimensions, {test.name} {test.rows.shape[1]}")
    rows_of = _Rows(enroll), _Rows(test)
    unknown = _UnknownKeys(enroll.name, test.name)
    num_done, num_dropped, total, total_squares = 0, 0, 0.0, 0.0
    with open_output(scores_wxfilename) as output, open_input(trials_rxfilename) as trials:
        for _, (enroll_keys, test_keys) in read_columns(trials, "<enrolment key> <test key>"):
            left, right = rows_of[0].look_up(enroll_keys), rows_of[1].look_up(test_keys)
            known = (left >= 0) & (right >= 0)
            if not known.all():
                for trial in np.flatnonzero(~known).tolist():
                    unknown.warn(enroll_keys[trial] if left[trial] < 0 else None, test_keys[trial])
                kept = np.flatnonzero(known).tolist()
                enroll_keys, test_keys = [enroll_keys[i] for i in kept], [test_keys[i] for i in kept]
                num_dropped += len(known) - len(kept)
                left, right = left[known], right[known]
            scores = dot_products(enroll.rows, left, test.rows, right).astype(np.float32)
            words: list = [None] * (3 * len(scores))
            words[0::3], words[1::3], words[2::3] = enroll_keys, test_keys, scores.tolist()
            output.write((b"%b %b %.7g\n" * len(scores)) % tuple(words))
            num_done += len(scores)
            total += float(scores.sum(dtype=np.float64))
            total_squares += float(np.square(scores, dtype=np.float64).sum())
        if not num_done:
            raise InputError(
                f"{trials.name}: "
                + (
                    f"all {num_dropped} trials have unknown keys: none is scored"
                    if num_dropped
                    else "there are no trials"
                )
            )
    mean = total / num_done
    return ScoringResult(num_done, num_dropped, mean, max(total_squares / num_done - mean**2, 0.0) ** 0.5)


def dot_products(left: np.ndarray, left_rows: np.ndarray, right: np.ndarray, right_rows: np.ndarray) -> np.ndarray:
    """``left[left_rows[i]] . right[right_rows[i]]`` for each ``i``, shape ``(n,)``, without ``n`` copies of rows."""
    products = np.empty(len(left_rows))
    for start in range(0, len(products), _TRIALS_AT_ONCE):
        part = slice(start, start + _TRIALS_AT_ONCE)
        np.einsum("ij,ij->i", left[left_rows[part]], right[right_rows[part]], out=products[part])
    return products


def labelled_scores(trials_filename: str, scores_filename: str) -> Iterator[Tuple[List[bytes], List[bytes]]]:
    """The scores of a score file and their labels from a list of labelled trials: blocks of two columns.

    Raises:
        InputError: a line that is no trial or score, a label other than target and nontarget, a score without a trial.
    """
    label_of: Dict[Tuple[bytes, bytes], bytes] = {}
    layout = "<enrolment key> <test key> <target|nontarget>"
    with open_input(trials_filename) as stream:
        for first_line, (enroll, test, labels) in read_columns(stream, layout):
            for line, label in enumerate(labels, first_line):
                if label not in (b"target", b"nontarget"):
                    raise InputError(
                        f"{stream.name}: line {line}: the label should be target or nontarget, not {_shown(label)!r}"
                    )
            label_of.update(zip(zip(enroll, test), labels))
    with open_input(scores_filename) as stream:
        for first_line, (enroll, test, scores) in read_columns(stream, "<enrolment key> <test key> <score>"):
            labels = list(map(label_of.get, zip(enroll, test)))
            if None in labels:
                missing = labels.index(None)
                raise InputError(
                    f"{stream.name}: line {first_line + missing}: {trials_filename} has no trial "
                    f"{_shown(enroll[missing])} {_shown(test[missing])}"
                )
            yield scores, labels


def parse_scores(name: str, first_line: int, words: List[bytes]) -> np.ndarray:
    """Scores from their text, shape ``(n,)``, float64.

    Raises:
        InputError: one is not a number.
    """
    try:
        return np.fromiter(map(float, words), np.float64, len(words))
    except ValueError:
        for line, word in enumerate(words, first_line):
            try:
                float(word)
            except ValueError:
                raise InputError(f"{name}: line {line}: the score {_shown(word)!r} is not a number") from None
        raise


def read_columns(stream: InputStream, layout: str) -> Iterator[Tuple[int, List[List[bytes]]]]:
    """Yield ``(number of the first line, columns)`` of block after block of lines.

    Args:
        layout: what a line should be, in words without blanks in brackets; gives the number of columns.

    Raises:
        InputError: a line with another number of words.
    """
    width = layout.count("<")
    line = 1
    while True:
        block = stream.read(_BLOCK)
        if not block:
            return
        if not block.endswith(b"\n"):
            block += stream.read_through(b"\n")
        words = block.split()
        columns = [words[column::width] for column in range(width)]
        # Most files are laid out with single blanks; only in others need each line be looked at.
        if b"\n".join(map(b" ".join, zip(*columns))) != block.removesuffix(b"\n"):
            for number, text in enumerate(block.removesuffix(b"\n").split(b"\n"), line):
                if len(text.split()) != width:
                    raise InputError(f"{stream.name}: line {number} should be '{layout}', not {_shown(text)!r}")
        yield line, columns
        line += block.count(b"\n")


class _Rows(dict):
    """Row number of each key, -1 for an unknown one."""

    def __init__(self, side: Side):
        super().__init__((key.encode("utf-8", "surrogateescape"), row) for row, key in enumerate(side.keys))
        if len(self) != len(side.keys):
            seen: set = set()
            twice = next(key for key in side.keys if key in seen or seen.add(key))
            raise InputError(f"the key {twice} occurs twice among the {side.name}")

    def __missing__(self, key: bytes) -> int:
        return -1

    def look_up(self, keys: Sequence[bytes]) -> np.ndarray:
        return np.fromiter(map(self.__getitem__, keys), np.int64, len(keys))


class _UnknownKeys:
    """Warns once of each unknown key, and of a hundred at most: a list of the wrong test set has millions."""

    def __init__(self, enroll_name: str, test_name: str):
        self._names = enroll_name, test_name
        self._seen: set = set()

    def warn(self, enroll_key, test_key) -> None:
        side, key = (1, test_key) if enroll_key is None else (0, enroll_key)
        if (side, key) in self._seen or len(self._seen) > _MOST_WARNINGS:
            return
        self._seen.add((side, key))
        if len(self._seen) > _MOST_WARNINGS:
            log.warn("More keys are not present; they are counted but not named.")
        else:
            log.warn(f"Key {_shown(key)} not present in {self._names[side]}.")


def _shown(word: bytes) -> str:
    return word.decode("utf-8", "replace")[:80]
