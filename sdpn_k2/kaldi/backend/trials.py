"""Trial lists and score files of any length, read a block of lines at a time.

A line of a trial list is ``<enroll> <test> <target|nontarget>``; scoring does not need the label. VoxCeleb's form
``<1|0> <enroll> <test>``, and 1 and 0 for target and nontarget, are read as well. A line of a score file is ``<enroll>
<test> <score>``. Words are separated by blanks and tabs, lines may end as on Windows, and a byte-order mark is skipped.
Words stay bytes, because most of them are only compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.io import InputStream, open_input, open_output

PAIR = "<enroll> <test>"
LABELLED = "<enroll> <test> <target|nontarget>"
SCORED = "<enroll> <test> <score>"
LABELS = {b"target": True, b"nontarget": False}
ALL_LABELS = {**LABELS, b"1": True, b"0": False}
TRIALS, SCORES = "a trial list", "a score file"  # the forms of a line, for messages

BLOCK_BYTES = 1 << 20  # read at a time
_TRIALS_AT_ONCE = 512  # scored at a time, so that the rows of both sides stay in the cache
_MAX_WARNINGS = 100


class Trial(NamedTuple):
    """One trial: is the test utterance spoken by the enrolled speaker?"""

    enroll: str
    test: str
    target: bool


class Side(NamedTuple):
    """One side of the trials: its keys, a row for each, and its name for messages."""

    keys: Sequence[str]
    rows: np.ndarray  # (n, k) float32 or float64; their products are float64
    name: str


class ScoringResult(NamedTuple):
    """Counts of scored and dropped trials, and the mean and standard deviation of the scores."""

    num_done: int
    num_dropped: int
    mean: float
    stddev: float


# Reading


def read_columns(stream: InputStream, *layouts: str) -> Iterator[Tuple[int, List[List[bytes]]]]:
    """Yield ``(number of the first line, columns)`` for block after block of lines.

    Args:
        stream: lines of words separated by ASCII white space.
        layouts: one or more forms of a line, each word in angle brackets. The first line decides which form all lines
            must have.

    Raises:
        InputError: a line with another number of words.
    """
    forms = {layout.count("<"): layout for layout in layouts}
    line, width = 1, -1
    if stream.peek(2) in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{stream.name}:1: UTF-16 text; convert it to UTF-8, with iconv for example")
    if stream.peek(3) == b"\xef\xbb\xbf":  # the byte-order mark of Windows editors
        stream.read(3)
    while True:
        block = stream.read(BLOCK_BYTES)
        if not block:
            return
        if not block.endswith(b"\n"):
            block += stream.read_through(b"\n")
        counts = _words_per_line(block)
        if width < 0 and int(counts[0]) in forms:
            width = int(counts[0])
            forms = {width: forms[width]}
        wrong = np.flatnonzero(counts != width)
        if len(wrong):
            text = block.split(b"\n", int(wrong[0]) + 1)[wrong[0]]
            expected = "' or '".join(forms.values())
            raise InputError(f"{stream.name}:{line + wrong[0]}: expected '{expected}', got {quoted(text.strip())}")
        words = block.split()
        yield line, [words[column::width] for column in range(width)]
        line += len(counts)


def trial_columns(
    stream: InputStream, *layouts: str
) -> Iterator[Tuple[int, List[bytes], List[bytes], Optional[np.ndarray]]]:
    """Yield ``(number of the first line, enrolment ids, test ids, labels)`` for block after block of a trial list.

    Labels are bool, True for targets, or None without a third column. The first line decides whether the label comes
    last (Kaldi) or first (VoxCeleb).

    Args:
        stream: the list.
        layouts: ``LABELLED``, ``PAIR`` or both.

    Raises:
        InputError: a line with another number of words, or a word that is not a label.
    """
    label = -1
    for first_line, columns in read_columns(stream, *layouts):
        if len(columns) == 2:
            yield first_line, columns[0], columns[1], None
            continue
        if label < 0:
            label = 0 if columns[2][0] not in ALL_LABELS and columns[0][0] in ALL_LABELS else 2
            if form_of(columns[label][0]) == SCORES:
                raise other_form(stream.name, first_line, columns, SCORES, TRIALS)
        labels = parse_labels(stream.name, first_line, columns[label], ALL_LABELS)
        enroll, test = (columns[column] for column in range(3) if column != label)
        yield first_line, enroll, test, labels


def form_of(word: bytes) -> str:
    """Return what the third word of a line tells: TRIALS, SCORES, or nothing, since 0 and 1 may be labels or scores."""
    if word in LABELS:
        return TRIALS
    try:
        float(word)
    except ValueError:
        return ""
    return "" if word in ALL_LABELS else SCORES


def other_form(name: str, line: int, columns: Sequence[Sequence[bytes]], found: str, expected: str) -> InputError:
    """Return the error for a file of the form ``found`` in the place of another; ``line`` is the first of columns."""
    first = quoted(b" ".join(column[0] for column in columns))
    return InputError(
        f"{name}: this is {found} (line {line} is {first}), but {expected} is expected here; are the two swapped?"
    )


def _words_per_line(block: bytes) -> np.ndarray:
    """Count the words of each line, without a Python loop over the lines."""
    characters = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
    newline = characters == ord("\n")
    blank = (characters == ord(" ")) | ((characters >= ord("\t")) & (characters <= ord("\r")))
    # A word ends where a blank follows something else.
    ends = np.flatnonzero(blank[1:] & ~blank[:-1]) + 1
    return np.diff(np.searchsorted(ends, np.flatnonzero(newline), side="right"), prepend=0)


def parse_labels(
    name: str, first_line: int, words: Sequence[bytes], labels: Mapping[bytes, bool] = LABELS
) -> np.ndarray:
    """Return the labels as bool, shape ``(n,)``, True for targets.

    Raises:
        InputError: a word that is not one of ``labels``.
    """
    try:
        return np.fromiter(map(labels.__getitem__, words), bool, len(words))
    except KeyError as error:
        line = first_line + list(words).index(error.args[0])
        message = f"{name}:{line}: {quoted(error.args[0])} is not a valid label (use target or nontarget)"
        raise InputError(message) from None


def parse_scores(name: str, first_line: int, words: Sequence[bytes]) -> np.ndarray:
    """Return the scores as float64, shape ``(n,)``; NaN and infinity are accepted.

    Raises:
        InputError: a word that is not a number.
    """
    # Python reads 1_0 as 10, which is a typing error elsewhere.
    if not any(b"_" in word for word in words):
        try:
            return np.fromiter(map(float, words), np.float64, len(words))
        except ValueError:
            pass
    for line, word in enumerate(words, first_line):
        try:
            if b"_" not in word:
                float(word)
                continue
        except ValueError:
            pass
        raise InputError(f"{name}:{line}: {quoted(word)} is not a valid score (use a number)")
    raise AssertionError("one of the words is not a number")


def read_trials(path: Union[str, Path]) -> Iterator[Trial]:
    """Stream a labelled trial list of any length.

    Raises:
        InputError: no such file; a line that is not a trial with its label.
    """
    with open_input(str(path)) as stream:
        for _, enroll, test, labels in trial_columns(stream, LABELLED):
            assert labels is not None
            yield from map(Trial, map(_text, enroll), map(_text, test), labels.tolist())


def labelled_scores(trials_filename: str, scores_filename: str) -> Iterator[Tuple[int, List[bytes], List[bytes]]]:
    """Yield ``(number of the first line, scores, labels)`` for block after block of a score file.

    Raises:
        InputError: a line that is not a trial or a score, or a score whose trial is not in the list.
    """
    label_of: Dict[Tuple[bytes, bytes], bytes] = {}
    with open_input(trials_filename) as stream:
        for _, enroll, test, is_target in trial_columns(stream, LABELLED):
            assert is_target is not None
            label_of.update(zip(zip(enroll, test), (b"target" if each else b"nontarget" for each in is_target)))
    with open_input(scores_filename) as stream:
        for first_line, (enroll, test, scores) in read_columns(stream, SCORED):
            try:
                found = list(map(label_of.__getitem__, zip(enroll, test)))
            except KeyError as error:
                pair = error.args[0]
                line = first_line + list(zip(enroll, test)).index(pair)
                message = f"{stream.name}:{line}: trial {quoted(b' '.join(pair))} is not in {trials_filename}"
                raise InputError(message) from None
            yield first_line, scores, found


def quoted(word: bytes) -> str:
    """Return a word for a message: decoded, quoted and truncated to 80 characters."""
    return repr(word.decode("utf-8", "replace")[:80])


def _text(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")


# Scoring


def score_trials(trials_rxfilename: str, scores_wxfilename: str, enroll: Side, test: Side) -> ScoringResult:
    """Write ``<enroll> <test> <score>`` for each trial, in the order of the list and with seven digits.

    The score is the dot product of the rows of the two keys; PLDA scores have that form too (see Plda.scoring_factors).
    Trials with an unknown key are dropped, with one warning for each such key (at most a hundred).

    Raises:
        InputError: a line that is not ``<enroll> <test>``, a duplicate key on one side, rows of different lengths, or
            no trial that can be scored.
    """
    if enroll.rows.shape[1] != test.rows.shape[1]:
        raise InputError(f"{enroll.name} have {enroll.rows.shape[1]} dimensions, {test.name} {test.rows.shape[1]}")
    enroll_rows, test_rows = _RowNumbers(enroll), _RowNumbers(test)
    unknown = _UnknownKeys(enroll.name, test.name)
    num_done, num_dropped, total, total_squares = 0, 0, 0.0, 0.0
    with open_output(scores_wxfilename) as output, open_input(trials_rxfilename) as trials:
        for _, (enroll_keys, test_keys) in read_columns(trials, PAIR):
            left, right = enroll_rows.look_up(enroll_keys), test_rows.look_up(test_keys)
            known = (left >= 0) & (right >= 0)
            if not known.all():
                for trial in np.flatnonzero(~known).tolist():
                    unknown.warn(enroll_keys[trial] if left[trial] < 0 else None, test_keys[trial])
                kept = np.flatnonzero(known).tolist()
                enroll_keys, test_keys = [enroll_keys[i] for i in kept], [test_keys[i] for i in kept]
                num_dropped += len(known) - len(kept)
                left, right = left[known], right[known]
            scores = dot_products(enroll.rows, left, test.rows, right).astype(np.float32)
            words: List[object] = [None] * (3 * len(scores))
            words[0::3], words[1::3], words[2::3] = enroll_keys, test_keys, scores.tolist()
            output.write((b"%b %b %.7g\n" * len(scores)) % tuple(words))
            num_done += len(scores)
            total += float(scores.sum(dtype=np.float64))
            total_squares += float(np.square(scores, dtype=np.float64).sum())
        if not num_done:
            reason = f"all {num_dropped} trials have unknown keys" if num_dropped else "no trials"
            raise InputError(f"{trials.name}: {reason}, so there is nothing to score")
    mean = total / num_done
    return ScoringResult(num_done, num_dropped, mean, max(total_squares / num_done - mean**2, 0.0) ** 0.5)


def dot_products(left: np.ndarray, left_rows: np.ndarray, right: np.ndarray, right_rows: np.ndarray) -> np.ndarray:
    """Return ``left[left_rows[i]] . right[right_rows[i]]`` for each ``i``, float64 ``(n,)``, without copying n rows."""
    products = np.empty(len(left_rows))
    for start in range(0, len(products), _TRIALS_AT_ONCE):
        part = slice(start, start + _TRIALS_AT_ONCE)
        # Few rows are float64 at a time: of the embeddings of VoxCeleb1, that would be 600 MB a side.
        sides = (
            side[rows[part]].astype(np.float64, copy=False) for side, rows in ((left, left_rows), (right, right_rows))
        )
        np.einsum("ij,ij->i", *sides, out=products[part])
    return products


class _RowNumbers(Dict[bytes, int]):
    """Row number of each key, -1 for an unknown one."""

    def __init__(self, side: Side) -> None:
        super().__init__((key.encode("utf-8", "surrogateescape"), row) for row, key in enumerate(side.keys))
        if len(self) != len(side.keys):
            seen: Set[str] = set()
            for key in side.keys:
                if key in seen:
                    raise InputError(f"duplicate key '{key}' among the {side.name}")
                seen.add(key)

    def __missing__(self, key: bytes) -> int:
        return -1

    def look_up(self, keys: Sequence[bytes]) -> np.ndarray:
        return np.fromiter(map(self.__getitem__, keys), np.int64, len(keys))


class _UnknownKeys:
    """Warn once about each unknown key, and about a hundred at most: the wrong trial list has millions of them."""

    def __init__(self, enroll_name: str, test_name: str) -> None:
        self._names = enroll_name, test_name
        self._seen: Set[Tuple[int, bytes]] = set()

    def warn(self, enroll_key: Optional[bytes], test_key: bytes) -> None:
        side, key = (1, test_key) if enroll_key is None else (0, enroll_key)
        if (side, key) in self._seen or len(self._seen) > _MAX_WARNINGS:
            return
        self._seen.add((side, key))
        if len(self._seen) > _MAX_WARNINGS:
            log.warn("More keys are not present; they are counted but not named.")
        else:
            log.warn(f"Key {key.decode('utf-8', 'replace')[:80]} not present in {self._names[side]}.")
