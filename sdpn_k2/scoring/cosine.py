"""Cosine scores of trials, in blocks: gathered rows for sparse trial lists, one matrix product for dense ones."""

from typing import Iterator, NamedTuple, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.scoring.embeddings import Embeddings, vector_norms
from sdpn_k2.scoring.trial_arrays import BLOCK_TRIALS, Trials

GATHER_BLOCK = 256  # trials per block: both blocks of 512-d embeddings stay in the second-level cache
PRODUCT_BLOCK = 1 << 24  # cells of the score matrix per block
# A gathered trial costs as much as about fifty cells of a matrix product (512-d, two cores).
DENSE = 1 / 50


class TrialRows(NamedTuple):
    """Rows of the two embeddings of each trial, int64, shape (n,) each."""

    enroll: np.ndarray
    test: np.ndarray


def trial_rows(enroll: Embeddings, test: Embeddings, trials: Trials) -> TrialRows:
    """Find the embeddings of every trial.

    Raises:
        InputError: trials without an embedding (the message names the first and counts all), or two tables of different
            dimensions.
    """
    _check_dims(enroll, test)
    rows = TrialRows(enroll.rows_of(trials.enroll_ids)[trials.enroll], test.rows_of(trials.test_ids)[trials.test])
    missing = np.flatnonzero((rows.enroll < 0) | (rows.test < 0))
    if len(missing):
        first = missing[0]
        name, source = (
            (trials.enroll_ids[trials.enroll[first]], enroll.source)
            if rows.enroll[first] < 0
            else (trials.test_ids[trials.test[first]], test.source)
        )
        end = trials.start + len(trials)
        lines = f" (lines {trials.start + 1} to {end})" if end >= BLOCK_TRIALS else ""
        raise InputError(
            f"{trials.source}: trial {trials.start + first + 1}: {name} has no embedding in {source}; "
            f"{len(missing)} of {len(trials)} trials{lines} have no embedding"
        )
    return rows


def score_trials(enroll: Embeddings, test: Embeddings, trials: Trials) -> np.ndarray:
    """Return the cosine of the two embeddings of every trial.

    Args:
        enroll: embeddings of the enrolment ids.
        test: embeddings of the test ids, of the same dimension; the same object is allowed.
        trials: the pairs.

    Returns:
        shape (len(trials),), float32, within -1..1 up to rounding.

    Raises:
        InputError: see :func:`trial_rows`; an embedding in use has zero norm, NaN or infinity.
    """
    rows = trial_rows(enroll, test, trials)
    used_enroll, used_test = distinct_rows(rows.enroll, len(enroll)), distinct_rows(rows.test, len(test))
    enroll_norms, test_norms = _both_norms(enroll, test, used_enroll, used_test)
    if len(trials) >= DENSE * len(used_enroll) * len(used_test):
        scores = _products(enroll.vectors, test.vectors, rows, used_enroll, used_test)
    else:
        scores = _gathered_products(enroll.vectors, test.vectors, rows)
    scores /= enroll_norms[rows.enroll]
    scores /= test_norms[rows.test]
    return scores


def score_matrix(enroll: Embeddings, test: Embeddings) -> np.ndarray:
    """Return the cosine of each enrolment with each test embedding, float32, shape (len(enroll), len(test)).

    Raises:
        InputError: different dimensions; an embedding has zero norm, NaN or infinity.
    """
    _check_dims(enroll, test)
    enroll_norms, test_norms = _both_norms(enroll, test, np.arange(len(enroll)), np.arange(len(test)))
    scores: np.ndarray = enroll.vectors @ test.vectors.T
    scores /= enroll_norms[:, None]
    scores /= test_norms
    return scores


def all_pairs(enroll: Embeddings, test: Embeddings) -> Trials:
    """Return each enrolment with each test embedding, as trials in the order of :func:`score_matrix`."""
    rows = np.repeat(np.arange(len(enroll), dtype=np.int32), len(test))
    columns = np.tile(np.arange(len(test), dtype=np.int32), len(enroll))
    return Trials(enroll.ids, test.ids, rows, columns, source="all pairs")


def pair_blocks(enroll: Embeddings, test: Embeddings) -> Iterator[Trials]:
    """Yield the trials of :func:`all_pairs` in bounded memory, those of some enrolment embeddings at a time."""
    size = max(1, BLOCK_TRIALS // len(test))
    for start in range(0, len(enroll), size):
        part = Embeddings(enroll.ids[start : start + size], enroll.vectors[start : start + size], enroll.source)
        yield all_pairs(part, test)


def distinct_rows(rows: np.ndarray, n: int) -> np.ndarray:
    """Return the distinct values of ``rows``, of any shape and all below ``n``, in increasing order."""
    present = np.zeros(n, bool)
    present[rows] = True
    return np.flatnonzero(present)


def _check_dims(enroll: Embeddings, test: Embeddings) -> None:
    if enroll.dim != test.dim:
        raise InputError(
            f"enrolment embeddings ({enroll.source}) have {enroll.dim} dimensions, but test embeddings "
            f"({test.source}) have {test.dim}"
        )


def _both_norms(
    enroll: Embeddings, test: Embeddings, used_enroll: np.ndarray, used_test: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    if enroll is test:
        norms = vector_norms(enroll, np.union1d(used_enroll, used_test))
        return norms, norms
    return vector_norms(enroll, used_enroll), vector_norms(test, used_test)


def _gathered_products(enroll: np.ndarray, test: np.ndarray, rows: TrialRows) -> np.ndarray:
    scores = np.empty(len(rows.enroll), np.float32)
    left, right = np.empty((2, GATHER_BLOCK, enroll.shape[1]), np.float32)
    for start in range(0, len(scores), GATHER_BLOCK):
        part = slice(start, min(start + GATHER_BLOCK, len(scores)))
        n = part.stop - start
        # All rows are within bounds; mode="clip" lets take() write straight into the buffer.
        np.take(enroll, rows.enroll[part], axis=0, out=left[:n], mode="clip")
        np.take(test, rows.test[part], axis=0, out=right[:n], mode="clip")
        np.einsum("ij,ij->i", left[:n], right[:n], out=scores[part])
    return scores


def _products(
    enroll: np.ndarray, test: np.ndarray, rows: TrialRows, used_enroll: np.ndarray, used_test: np.ndarray
) -> np.ndarray:
    scores = np.empty(len(rows.enroll), np.float32)
    row, column = np.searchsorted(used_enroll, rows.enroll), np.searchsorted(used_test, rows.test)
    order = np.argsort(row, kind="stable")
    right = test[used_test].T
    block = max(1, PRODUCT_BLOCK // len(used_test))
    bounds = np.searchsorted(row[order], np.arange(0, len(used_enroll) + block, block))
    for i, start in enumerate(range(0, len(used_enroll), block)):
        part = order[bounds[i] : bounds[i + 1]]
        product = enroll[used_enroll[start : start + block]] @ right
        scores[part] = product[row[part] - start, column[part]]
    return scores
