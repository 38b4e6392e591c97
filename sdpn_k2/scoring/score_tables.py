"""From embedding tables to a score file, for ``sdpn-k2 score``."""

from dataclasses import dataclass
from typing import Optional

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.datadir.data_dir import read_lists
from sdpn_k2.kaldi.formats.tables import read_object
from sdpn_k2.scoring import cosine, normalization
from sdpn_k2.scoring.embeddings import (
    Embeddings,
    enroll_models,
    estimate_whitening,
    read_embeddings,
    subtract_mean,
    transform,
    whiten,
)
from sdpn_k2.scoring.kmeans import spherical_kmeans
from sdpn_k2.scoring.trial_list import Scores, read_trials, write_scores

DEFAULT_TOP_N = 300


@dataclass(frozen=True)
class Preparation:
    """What is done to every embedding before it is compared, in this order; each a file name or None.

    Attributes:
        mean: a vector to subtract.
        whitening: a table of embeddings on which a whitening is estimated.
        transform: a matrix to apply.
    """

    mean: Optional[str] = None
    whitening: Optional[str] = None
    transform: Optional[str] = None

    def load(self):
        """Reads the files once; returns a function from Embeddings to Embeddings."""
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


def score_tables(
    enroll: str,
    test: Optional[str],
    trials: Optional[str],
    output: str,
    preparation: Preparation = Preparation(),
    enroll_spk2utt: Optional[str] = None,
    norm: Optional[str] = None,
    cohort: Optional[str] = None,
    cohort_clusters: Optional[int] = None,
    top_n: Optional[int] = None,
    seed: int = 0,
) -> int:
    """Scores trials between two tables of embeddings and writes the scores.

    Args:
        enroll: rspecifier of the enrolment embeddings.
        test: rspecifier of the test embeddings; None for the enrolment embeddings.
        trials: trial list; None for every enrolment with every test embedding.
        output: score file (``-`` for the standard output), or a ``.npy`` file for the matrix when ``trials`` is None.
        preparation: what is done to all embeddings first.
        enroll_spk2utt: utterances of each enrolled speaker; averaged after the preparation, each at unit length.
        norm: one of ``normalization.METHODS``, or None.
        cohort: rspecifier of the cohort, for ``norm``.
        cohort_clusters: take the centres of so many clusters of the cohort.
        top_n: size of the adaptive cohort; None for 300 with as-norm, the whole cohort otherwise.
        seed: of the clusters.

    Returns:
        the number of trials.

    Raises:
        InputError: whatever is wrong with the files.
    """
    prepare = preparation.load()
    enrolled = prepare(read_embeddings(enroll))
    tested = enrolled if test is None else prepare(read_embeddings(test))
    if enroll_spk2utt is not None:
        enrolled = enroll_models(enrolled, read_lists(enroll_spk2utt))
    as_matrix = output.endswith(".npy")
    if as_matrix and trials is not None:
        raise InputError(f"{output}: a score matrix is of all pairs; leave out the trial list, or write a score file")
    pairs = None if trials is None else read_trials(trials)
    if norm is None:
        values = (
            cosine.score_matrix(enrolled, tested) if pairs is None else cosine.score_trials(enrolled, tested, pairs)
        )
    else:
        members = prepare(read_embeddings(cohort))
        if cohort_clusters is not None:
            centres = spherical_kmeans(members, cohort_clusters, seed).centres
            members = Embeddings([f"cluster{i}" for i in range(len(centres))], centres, members.source)
        if norm == "as-norm" and top_n is None:
            top_n = DEFAULT_TOP_N
        values = normalization.normalized_scores(enrolled, tested, pairs, members, norm, top_n)
    if as_matrix:
        with atomic_output(output) as stream:
            np.save(stream, values)
    else:
        write_scores(output, Scores(cosine.all_pairs(enrolled, tested) if pairs is None else pairs, values.ravel()))
    return values.size
