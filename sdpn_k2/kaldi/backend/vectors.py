"""Tables of vectors, read in batches, so that tools compute on matrices without loading whole tables."""

from __future__ import annotations

from typing import Dict, Iterable, Iterator, List, Sequence, Set, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.tables import parse_rspecifier, read_table

BATCH_SIZE = 4096


def vector_batches(rspecifier: str) -> Iterator[Tuple[List[str], np.ndarray]]:
    """Yield ``(keys, vectors)`` with float32 ``vectors`` of shape ``(n, dim)``, ``n`` at most BATCH_SIZE.

    Raises:
        InputError: the table is broken, or a vector is empty, differs in dimension from the first, or has NaN or
            infinite values. With the rspecifier's option ``p``, such vectors are skipped with a warning.
    """
    permissive = "p" in parse_rspecifier(rspecifier).options

    def refuse(message: str) -> None:
        if not permissive:
            raise InputError(message)
        log.warn(f"{message}; skipping it (option p)")

    def finished() -> Tuple[List[str], np.ndarray]:
        batch = np.array(rows, np.float32)
        finite = np.asarray(np.isfinite(batch).all(axis=1))
        if finite.all():
            return keys, batch
        for row in np.flatnonzero(~finite):
            refuse(f"{rspecifier}: the vector of {keys[row]} has NaN or infinite values")
        return [key for key, good in zip(keys, finite) if good], batch[finite]

    dim = 0
    keys: List[str] = []
    rows: List[np.ndarray] = []
    with read_table(rspecifier, "vector") as reader:
        for key, vector in reader:
            if len(vector) != dim or not dim:
                if dim or not len(vector):
                    refuse(
                        f"{reader.where} (key {key}): a vector of {len(vector)} dimensions"
                        + (f" among vectors of {dim}" if dim else "")
                    )
                    continue
                dim = len(vector)
            keys.append(key)
            rows.append(vector)
            if len(rows) == BATCH_SIZE:
                yield finished()
                keys, rows = [], []
    if rows:
        yield finished()


def all_vectors(rspecifier: str) -> Tuple[List[str], np.ndarray]:
    """Read the whole table as ``(keys, vectors)``; raise InputError if it is empty."""
    keys: List[str] = []
    batches: List[np.ndarray] = []
    for names, vectors in vector_batches(rspecifier):
        keys += names
        batches.append(vectors)
    if not keys:
        raise InputError(f"{rspecifier}: there are no vectors")
    return keys, np.concatenate(batches)


class SpeakerSums:
    """Sums of vectors by speaker.

    Attributes:
        counts: ``(num_speakers,)`` int64, number of vectors of each speaker.
        sums: ``(num_speakers, dim)`` float64, sum of the vectors of each speaker.
    """

    def __init__(self, dim: int, num_speakers: int) -> None:
        self.counts = np.zeros(num_speakers, np.int64)
        self.sums = np.zeros((num_speakers, dim))

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return int(self.sums.shape[1])

    @property
    def num_vectors(self) -> int:
        """Number of vectors added so far."""
        return int(self.counts.sum())

    def add(self, vectors: np.ndarray, speakers: Sequence[int]) -> None:
        """Add ``vectors`` ``(n, dim)``; ``speakers`` ``(n,)`` holds the number of each one's speaker."""
        if not len(vectors):
            return
        order = np.argsort(speakers, kind="stable")
        present, starts, counts = np.unique(np.asarray(speakers)[order], return_index=True, return_counts=True)
        self.sums[present] += np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64)
        self.counts[present] += counts

    def means(self) -> Tuple[np.ndarray, np.ndarray]:
        """Return ``(means, counts)`` of the speakers with at least one vector."""
        present = self.counts > 0
        counts = self.counts[present]
        return self.sums[present] / counts[:, None], counts


class SpeakerTable:
    """An inverted spk2utt table, which finds the speakers of the keys of another table.

    Attributes:
        speakers: the speakers in the order of spk2utt.
        num_used: number of utterances assigned so far. An utterance counts once for each speaker that lists it.
    """

    def __init__(self, spk2utt_rspecifier: str) -> None:
        self.speakers: List[str] = []
        self.num_used = 0
        self._listed_by: Dict[str, Tuple[int, ...]] = {}  # an utterance may be listed by several speakers
        self._seen: Set[str] = set()
        for speaker, utterances in read_table(spk2utt_rspecifier, "token_vector"):
            if not utterances:
                raise InputError(f"{spk2utt_rspecifier}: the speaker {speaker} has no utterances")
            for utterance in utterances:
                self._listed_by[utterance] = self._listed_by.get(utterance, ()) + (len(self.speakers),)
            self.speakers.append(speaker)

    def select(self, rspecifier: str, keys: Iterable[str]) -> Tuple[List[int], List[int]]:
        """Return ``(rows, speakers)``: positions in ``keys`` of listed utterances, and the numbers of their speakers.

        Raises:
            InputError: a key of ``rspecifier`` is a duplicate.
        """
        rows: List[int] = []
        speakers: List[int] = []
        for row, key in enumerate(keys):
            listed = self._listed_by.get(key)
            if listed is None:
                continue
            if key in self._seen:
                raise InputError(f"{rspecifier}: duplicate key {key}")
            self._seen.add(key)
            rows += [row] * len(listed)
            speakers += listed
        self.num_used += len(rows)
        return rows, speakers

    def warn_of_missing(self, counts: np.ndarray) -> Tuple[int, int]:
        """Warn of listed utterances without a vector and of speakers without vectors; return both counts.

        Args:
            counts: number of vectors of each speaker, ``(num_speakers,)``.
        """
        missing = [utterance for utterance in self._listed_by if utterance not in self._seen]
        for utterance in missing:
            log.warn(f"No iVector present in input for utterance {utterance}")
        empty = np.flatnonzero(counts == 0)
        for speaker in empty:
            log.warn(f"Not producing output for speaker {self.speakers[speaker]} since no utterances had iVectors")
        return sum(len(self._listed_by[utterance]) for utterance in missing), len(empty)
