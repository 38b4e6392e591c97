"""Embeddings as one matrix, and their preparation for comparison: speaker models, centring, whitening."""

from dataclasses import dataclass, replace
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from sdpn_k2.errors import InputError

EIGENVALUE_FLOOR = 1e-6  # of the largest, so that whitening does not blow up directions without variance


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Named embeddings.

    Attributes:
        ids: distinct utterance or model ids.
        vectors: shape (n, dim), float32.
        source: name of their table, for messages.
    """

    ids: List[str]
    vectors: np.ndarray
    source: str = "embeddings"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        """Dimension of the embeddings."""
        return int(self.vectors.shape[1])

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return the row of each id, -1 where there is none; int64, shape (len(ids),)."""
        table = {name: row for row, name in enumerate(self.ids)}
        return np.fromiter((table.get(name, -1) for name in ids), np.int64, len(ids))


class Whitening(NamedTuple):
    """An affine map that gives the embeddings it was estimated on zero mean and unit covariance.

    Attributes:
        mean: shape (dim,), float32.
        matrix: shape (dim, dim), float32; x becomes (x - mean) @ matrix.
    """

    mean: np.ndarray
    matrix: np.ndarray


def enroll_models(utterances: Embeddings, spk2utt: Dict[str, List[str]]) -> Embeddings:
    """Return one embedding per speaker: the mean of the speaker's embeddings, each scaled to unit length first.

    Args:
        utterances: embeddings of single utterances.
        spk2utt: the utterances of each speaker.

    Raises:
        InputError: utterances without an embedding (the message names the first and counts all), a speaker without
            utterances, or an embedding of zero norm.
    """
    rows, starts, counts = speaker_rows(utterances, spk2utt)
    norms = vector_norms(utterances, np.unique(rows))
    # The utterances of all speakers in a row, summed speaker by speaker.
    sums = np.add.reduceat(utterances.vectors[rows] / norms[rows, None], starts, axis=0)
    return Embeddings(list(spk2utt), (sums / counts[:, None]).astype(np.float32), utterances.source)


class SpeakerRows(NamedTuple):
    """The utterances of all speakers in a row.

    Attributes:
        rows: rows of their embeddings, int64.
        starts: where each speaker's begin in ``rows``, int64 (speakers,).
        counts: how many each speaker has, int64 (speakers,).
    """

    rows: np.ndarray
    starts: np.ndarray
    counts: np.ndarray


def speaker_rows(utterances: Embeddings, spk2utt: Mapping[str, Sequence[str]]) -> SpeakerRows:
    """Find the embeddings of each speaker.

    Raises:
        InputError: utterances without an embedding (the message names the first and counts all), or a speaker without
            utterances.
    """
    names = [name for members in spk2utt.values() for name in members]
    rows = utterances.rows_of(names)
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        raise InputError(
            f"{utterances.source}: no embedding for {names[missing[0]]}; {len(missing)} of {len(names)} enrolment "
            "utterances have none"
        )
    counts = np.fromiter(map(len, spk2utt.values()), np.int64, len(spk2utt))
    if not counts.all():
        empty = list(spk2utt)[int(np.argmin(counts))]
        raise InputError(f"speaker {empty} has no enrolment utterances")
    return SpeakerRows(rows, np.cumsum(counts) - counts, counts)


def subtract_mean(embeddings: Embeddings, mean: np.ndarray) -> Embeddings:
    """Subtract ``mean``, shape (dim,), such as the mean of the training embeddings."""
    _check_dim(embeddings, len(mean), "the mean")
    return replace(embeddings, vectors=embeddings.vectors - mean.astype(np.float32))


def transform(embeddings: Embeddings, matrix: np.ndarray) -> Embeddings:
    """Apply a matrix as Kaldi's transform-vec does: shape (new dim, dim), or (new dim, dim + 1) with an offset."""
    n_columns = matrix.shape[1]
    if n_columns == embeddings.dim + 1:
        vectors = embeddings.vectors @ matrix[:, :-1].T + matrix[:, -1]
    else:
        _check_dim(embeddings, n_columns, "the transform")
        vectors = embeddings.vectors @ matrix.T
    return replace(embeddings, vectors=vectors.astype(np.float32, copy=False))


def estimate_whitening(embeddings: Embeddings) -> Whitening:
    """Estimate the mean and the symmetric (ZCA) whitening matrix of a set of embeddings.

    Raises:
        InputError: fewer than two embeddings, equal embeddings only, or embeddings with NaN or infinity (the message
            names the first and counts all).
    """
    if len(embeddings) < 2:
        raise InputError(f"{embeddings.source}: whitening needs at least 2 embeddings, not {len(embeddings)}")
    bad = np.flatnonzero(~np.isfinite(np.einsum("ij,ij->i", embeddings.vectors, embeddings.vectors)))
    if len(bad):
        raise InputError(
            f"{embeddings.source}: the embedding of {embeddings.ids[bad[0]]} has NaN or infinite values; "
            f"{len(bad)} of {len(embeddings)} embeddings are unusable"
        )
    mean = embeddings.vectors.mean(axis=0, dtype=np.float64)
    centred = embeddings.vectors - mean.astype(np.float32)
    values, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64) / len(embeddings))
    if not values[-1] > 0.0:
        raise InputError(f"{embeddings.source}: all embeddings are equal, so no whitening can be estimated")
    values = np.maximum(values, EIGENVALUE_FLOOR * values[-1])
    return Whitening(mean.astype(np.float32), ((vectors / np.sqrt(values)) @ vectors.T).astype(np.float32))


def whiten(embeddings: Embeddings, whitening: Whitening) -> Embeddings:
    """Apply a whitening that was estimated on these or other embeddings."""
    return transform(subtract_mean(embeddings, whitening.mean), whitening.matrix.T)


def vector_norms(embeddings: Embeddings, used: Optional[np.ndarray] = None) -> np.ndarray:
    """Return the Euclidean norm of every embedding, float32, shape (n,).

    Args:
        embeddings: the embeddings.
        used: rows to check; all by default.

    Raises:
        InputError: a checked embedding has zero norm, NaN or infinity (the message names the first and counts all).
    """
    norms: np.ndarray = np.sqrt(np.einsum("ij,ij->i", embeddings.vectors, embeddings.vectors))
    checked = norms if used is None else norms[used]
    bad = np.flatnonzero(~(checked > 0.0) | ~np.isfinite(checked))
    if len(bad):
        row = bad[0] if used is None else used[bad[0]]
        what = "zero norm" if norms[row] == 0.0 else "NaN or infinite values"
        raise InputError(
            f"{embeddings.source}: the embedding of {embeddings.ids[row]} has {what}; {len(bad)} of {len(checked)} "
            "embeddings are unusable"
        )
    return norms


def _check_dim(embeddings: Embeddings, dim: int, what: str) -> None:
    if dim != embeddings.dim:
        raise InputError(f"{embeddings.source}: the embeddings have {embeddings.dim} dimensions, but {what} has {dim}")
