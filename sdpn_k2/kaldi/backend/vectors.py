"""Tables of vectors read a few thousand at a time, so that tools work on matrices and hold only what they need."""

from __future__ import annotations

from typing import Dict, Iterable, Iterator, List, Sequence, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.tables import parse_rspecifier, read_table

BATCH_SIZE = 4096


def vector_batches(rspecifier: str) -> Iterator[Tuple[List[str], np.ndarray]]:
    """Yield ``(keys, vectors)`` with ``vectors`` of shape ``(n, dim)``, float32, ``n`` at most BATCH_SIZE.

    Raises:
        InputError: a broken table, an empty vector, a vector of another dimension than the first, or one with NaN or
            infinite values. With the option ``p`` of the rspecifier such vectors are skipped with a warning.
    """
    permissive = "p" in parse_rspecifier(rspecifier).options

    def refuse(message: str) -> None:
        if not permissive:
            raise InputError(message)
        log.warn(f"{message}; skipped, as asked by the option p")

    def finished() -> Tuple[List[str], np.ndarray]:
        batch = np.array(rows, np.float32)
        finite = np.isfinite(batch).all(axis=1)
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
        counts: ``(num_speakers,)`` int64, vectors seen of each speaker.
        sums: ``(num_speakers, dim)`` float64, their sum.
    """

    def __init__(self, dim: int, num_speakers: int):
        self.counts = np.zeros(num_speakers, np.int64)
        self.sums = np.zeros((num_speakers, dim))

    @property
    def dim(self) -> int:
        return self.sums.shape[1]

    @property
    def num_vectors(self) -> int:
        return int(self.counts.sum())

    def add(self, vectors: np.ndarray, speakers: Sequence[int]) -> None:
        """Add ``vectors`` ``(n, dim)``; ``speakers`` ``(n,)`` holds the number of the speaker of each."""
        if not len(vectors):
            return
        order = np.argsort(speakers, kind="stable")
        present, starts, counts = np.unique(np.asarray(speakers)[order], return_index=True, return_counts=True)
        self.sums[present] += np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64)
        self.counts[present] += counts

    def means(self) -> Tuple[np.ndarray, np.ndarray]:
        """``(means, counts)`` of the speakers with at least one vector."""
        present = self.counts > 0
        counts = self.counts[present]
        return self.sums[present] / counts[:, None], counts


class SpeakerTable:
    """A spk2utt table turned round, to gather utterances in the order in which they come.

    Attributes:
        speakers: the speakers in the order of the table.
        num_used: utterances met so far, counted once for each time that a speaker lists them.
    """

    def __init__(self, spk2utt_rspecifier: str):
        self.speakers: List[str] = []
        self.num_used = 0
        self._listed_by: Dict[str, Tuple[int, ...]] = {}  # an utterance may be listed by several speakers
        self._met: set = set()
        for speaker, utterances in read_table(spk2utt_rspecifier, "token_vector"):
            if not utterances:
                raise InputError(f"{spk2utt_rspecifier}: the speaker {speaker} has no utterances")
            for utterance in utterances:
                self._listed_by[utterance] = self._listed_by.get(utterance, ()) + (len(self.speakers),)
            self.speakers.append(speaker)

    def select(self, rspecifier: str, keys: Iterable[str]) -> Tuple[List[int], List[int]]:
        """``(rows, speakers)``: which of ``keys`` to take, and for which speaker; those that nobody lists are left out.

        Raises:
            InputError: an utterance comes a second time.
        """
        rows: List[int] = []
        speakers: List[int] = []
        for row, key in enumerate(keys):
            listed = self._listed_by.get(key)
            if listed is None:
                continue
            if key in self._met:
                raise InputError(f"{rspecifier}: the key {key} occurs twice")
            self._met.add(key)
            rows += [row] * len(listed)
            speakers += listed
        self.num_used += len(rows)
        return rows, speakers

    def warn_of_missing(self, counts: np.ndarray) -> Tuple[int, int]:
        """Warn of utterances that never came and of speakers left without any; return how many of each.

        Args:
            counts: ``(num_speakers,)``, how many vectors each speaker got.
        """
        missing = [utterance for utterance in self._listed_by if utterance not in self._met]
        for utterance in missing:
            log.warn(f"No iVector present in input for utterance {utterance}")
        empty = np.flatnonzero(counts == 0)
        for speaker in empty:
            log.warn(f"Not producing output for speaker {self.speakers[speaker]} since no utterances had iVectors")
        return sum(len(self._listed_by[utterance]) for utterance in missing), len(empty)
