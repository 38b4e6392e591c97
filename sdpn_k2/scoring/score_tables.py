"""From embedding tables to a score file, for ``sdpn-k2 score``."""

from dataclasses import dataclass
from typing import Callable, Mapping, Optional, Sequence

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import read_lists
from sdpn_k2.kaldi.formats.tables import is_table, read_object
from sdpn_k2.scoring import cosine, normalization
from sdpn_k2.scoring.backend import Backend
from sdpn_k2.scoring.embeddings import (
    Embeddings,
    enroll_models,
    estimate_whitening,
    subtract_mean,
    transform,
    whiten,
)
from sdpn_k2.scoring.kmeans import spherical_kmeans
from sdpn_k2.scoring.trial_arrays import Scores, Trials, trial_blocks, write_score_blocks
from sdpn_k2.scoring.vector_files import open_vectors, read_embeddings

DEFAULT_TOP_N = 300


@dataclass(frozen=True)
class Preparation:
    """Steps before embeddings are compared, in this order; each a file name or None.

    Attributes:
        mean: vector to subtract.
        whitening: table of embeddings to estimate a whitening on.
        transform: matrix to apply.
    """

    mean: Optional[str] = None
    whitening: Optional[str] = None
    transform: Optional[str] = None

    def load(self) -> Callable[[Embeddings], Embeddings]:
        """Read the files once, and return the function that prepares embeddings."""
        mean = read_object(self.mean, "vector") if self.mean else None
        matrix = read_object(self.transform, "matrix") if self.transform else None
        whitening = None
        if self.whitening:
            sample = read_embeddings(self.whitening)
            whitening = estimate_whitening(sample if mean is None else subtract_mean(sample, mean))

        def prepare(embeddings: Embeddings) -> Embeddings:
            if mean is not None:
                embeddings = subtract_mean(embeddings, mean)
            if whitening is not None:
                embeddings = whiten(embeddings, whitening)
            return embeddings if matrix is None else transform(embeddings, matrix)

        return prepare


@dataclass(frozen=True)
class Normalization:
    """Normalisation of scores against a cohort.

    Attributes:
        method: one of ``normalization.METHODS``.
        cohort: table of the cohort's embeddings.
        n_clusters: number of clusters of the cohort whose centres replace its embeddings; None for the embeddings.
        top_n: size of the adaptive cohort; None for 300 with as-norm, for the whole cohort otherwise.
        seed: random seed of the clustering.
    """

    method: str
    cohort: str
    n_clusters: Optional[int] = None
    top_n: Optional[int] = None
    seed: int = 0

    @property
    def size(self) -> Optional[int]:
        """The size of the adaptive cohort; None for the whole one."""
        return DEFAULT_TOP_N if self.method == "as-norm" and self.top_n is None else self.top_n

    def load(
        self, enrolled: Embeddings, tested: Embeddings, prepare: Callable[[Embeddings], Embeddings]
    ) -> normalization.Normalizer:
        """Read the cohort, which ``prepare`` prepares, for scores between ``enrolled`` and ``tested``."""
        members = prepare(read_embeddings(self.cohort))
        if self.n_clusters is not None:
            centres = spherical_kmeans(members, self.n_clusters, self.seed).centres
            members = Embeddings([f"cluster{i}" for i in range(len(centres))], centres, members.source)
        return normalization.Normalizer(enrolled, tested, members, self.method, self.size)

    def load_with(
        self,
        backend: Backend,
        enrolled: Embeddings,
        tested: Embeddings,
        speakers: Optional[Mapping[str, Sequence[str]]],
    ) -> normalization.Normalizer:
        """Read the cohort for the scores of a back end; ``speakers`` are those of ``Backend.pairs``."""
        return backend.normalizer(
            enrolled,
            tested,
            read_embeddings(self.cohort),
            self.method,
            self.size,
            spk2utt=speakers,
            n_clusters=self.n_clusters,
            seed=self.seed,
        )


def score_tables(
    enroll: str,
    test: Optional[str],
    trials: Optional[str],
    output: str,
    *,
    preparation: Preparation = Preparation(),
    enroll_spk2utt: Optional[str] = None,
    norm: Optional[Normalization] = None,
) -> int:
    """Score trials between two tables of embeddings and write the scores.

    The trials are read, scored and written in blocks, so memory does not grow with their number.

    Args:
        enroll: the enrolment embeddings, see ``vector_files.read_vectors``.
        test: the test embeddings; None for the enrolment embeddings.
        trials: trial list; None for each enrolment with each test embedding.
        output: score file (``-`` for the standard output). When ``trials`` is None, ``.npy``, ``.json``, ``.ark``,
            ``.scp`` and Kaldi wspecifiers get the matrix instead, a row for each enrolment id.
        preparation: preparation of all embeddings.
        enroll_spk2utt: utterances of each enrolled speaker, whose prepared embeddings are averaged at unit length.
        norm: normalisation of the scores, if any.

    Returns:
        the number of scores.

    Raises:
        InputError: unusable files, or a matrix for a trial list.
    """
    _check_output(output, trials)
    prepare = preparation.load()
    enrolled = prepare(read_embeddings(enroll))
    tested = enrolled if test is None else prepare(read_embeddings(test))
    if enroll_spk2utt is not None:
        enrolled = enroll_models(enrolled, read_lists(enroll_spk2utt))
    normalizer = None if norm is None else norm.load(enrolled, tested, prepare)

    def cosines(chosen: Optional[Trials]) -> np.ndarray:
        if chosen is None:
            return cosine.score_matrix(enrolled, tested)
        return cosine.score_trials(enrolled, tested, chosen)

    return _write(output, trials, enrolled, tested, normalizer.scores if normalizer else cosines)


def score_tables_with(
    backend: Backend,
    enroll: str,
    test: Optional[str],
    trials: Optional[str],
    output: str,
    *,
    enroll_spk2utt: Optional[str] = None,
    norm: Optional[Normalization] = None,
) -> int:
    """Score trials between two tables of embeddings by a back end; see :func:`score_tables` for the rest.

    Args:
        backend: the back end.
        enroll: the enrolment embeddings, see ``vector_files.read_vectors``.
        test: the test embeddings; None for the enrolment embeddings.
        trials: trial list; None for each enrolment with each test embedding.
        output: score file, or a table for the matrix.
        enroll_spk2utt: utterances of each enrolled speaker.
        norm: normalisation of the scores, if any.
    """
    _check_output(output, trials)
    enrolled = read_embeddings(enroll)
    tested = enrolled if test is None else read_embeddings(test)
    speakers = None if enroll_spk2utt is None else read_lists(enroll_spk2utt)
    if norm is None:
        pairs = backend.pairs(enrolled, tested, speakers)
        return _write(output, trials, *pairs, pairs.scores)
    normalizer = norm.load_with(backend, enrolled, tested, speakers)
    return _write(output, trials, normalizer.comparison.enroll, normalizer.comparison.test, normalizer.scores)


def _check_output(output: str, trials: Optional[str]) -> None:
    if _is_matrix(output) and trials is not None:
        raise InputError(
            f"{output}: a table of scores holds all pairs; omit the trial list, or give a score file another name"
        )


def _is_matrix(output: str) -> bool:
    return is_table(output) or output.endswith((".npy", ".json", ".ark", ".scp"))


def _write(
    output: str,
    trials: Optional[str],
    enrolled: Embeddings,
    tested: Embeddings,
    score: Callable[[Optional[Trials]], np.ndarray],
) -> int:
    """Write the scores of a trial list, or of all pairs, and return their number. ``score(None)`` is the matrix."""
    if _is_matrix(output):
        with open_vectors(output) as write:
            matrix = score(None)
            write(dict(zip(enrolled.ids, matrix.astype(np.float32, copy=False))))
        return matrix.size
    blocks = cosine.pair_blocks(enrolled, tested) if trials is None else trial_blocks(trials)
    return write_score_blocks(output, (Scores(block, score(block)) for block in blocks))
