"""A back end in memory: the mean, LDA and PLDA of an experiment, and the scores that they give.

The scores are those of the recipe's stage 6, whose pipes of Kaldi's tools define them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.plda import Plda, read_plda
from sdpn_k2.kaldi.backend.trials import dot_products
from sdpn_k2.kaldi.formats.tables import read_object
from sdpn_k2.scoring.cosine import trial_rows
from sdpn_k2.scoring.embeddings import Embeddings, speaker_rows, vector_norms
from sdpn_k2.scoring.kmeans import spherical_kmeans
from sdpn_k2.scoring.normalization import Comparison, Normalizer
from sdpn_k2.scoring.thresholds import Threshold, find_threshold
from sdpn_k2.scoring.trial_arrays import Trials, read_trials

SCORINGS = ("cosine", "cosine_mean", "plda")


class Pairs(NamedTuple):
    """Both sides of the trials; the dot product of two of their float64 rows is the score of the pair."""

    enroll: Embeddings
    test: Embeddings

    def scores(self, trials: Optional[Trials]) -> np.ndarray:
        """Score trials, float64 ``(trials,)``; None for each enrolment with each test id, ``(n, m)``.

        Raises:
            InputError: a trial without an embedding.
        """
        if trials is None:
            scores: np.ndarray = self.enroll.vectors @ self.test.vectors.T
            return scores
        rows = trial_rows(self.enroll, self.test, trials)
        return dot_products(self.enroll.vectors, rows.enroll, self.test.vectors, rows.test)


class Enrolled(NamedTuple):
    """Speakers that are ready to be scored.

    Attributes:
        names: their ids.
        factors: float64 ``(n, k)``, one side of ``Pairs``.
        num_utts: the different numbers of utterances that they have, in increasing order.
    """

    names: List[str]
    factors: np.ndarray
    num_utts: np.ndarray


@dataclass(frozen=True, eq=False)
class Backend:
    """A way to score embeddings, such as ``Backend.load("exp/demo")``.

    Attributes:
        scoring: ``cosine``; ``cosine_mean``, after a mean is subtracted; or ``plda``, after that and LDA.
        mean: ``(dim,)``; None for ``cosine``.
        lda: ``(lda dim, dim)``, or with one more column, which is added; None without PLDA.
        plda: the PLDA model; None for cosines.
        folder: where the files are; None if there are none.
        results: results.json with the thresholds of the experiment.
    """

    scoring: str = "cosine"
    mean: Optional[np.ndarray] = None
    lda: Optional[np.ndarray] = None
    plda: Optional[Plda] = None
    folder: Optional[Path] = None
    results: Optional[Path] = None

    @classmethod
    def load(cls, folder: Union[str, Path], scoring: str = "auto") -> Backend:
        """Load the back end of an experiment, as stage 5 of the recipe leaves it.

        Args:
            folder: the experiment, or its ``backend`` with ``mean.vec`` and, for PLDA, ``transform.mat`` and ``plda``.
            scoring: ``cosine``, ``cosine_mean``, ``plda``, or ``auto`` for PLDA if it is there and ``cosine_mean`` if
                not.

        Raises:
            InputError: an unknown scoring; a missing or broken file; dimensions or values that are impossible.
        """
        if scoring not in ("auto", *SCORINGS):
            raise InputError(f"unknown scoring {scoring!r}: choose auto, {', '.join(SCORINGS)}")
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        experiment = folder.parent if (folder / "mean.vec").is_file() else folder
        folder = folder if (folder / "mean.vec").is_file() else folder / "backend"
        results = experiment / "results.json"
        if scoring == "cosine":
            return cls(results=results)
        if not (folder / "mean.vec").is_file():
            raise InputError(f"{folder / 'mean.vec'}: no such file; stage 5 of run.sh makes the back end")
        if scoring == "auto":
            scoring = "plda" if (folder / "plda").is_file() else "cosine_mean"
        mean = read_object(str(folder / "mean.vec"), "vector")
        if scoring == "cosine_mean":
            return cls(scoring, mean, folder=folder, results=results)
        for name in ("transform.mat", "plda"):
            if not (folder / name).is_file():
                reason = folder / "no_plda"
                why = reason.read_text(encoding="utf-8", errors="replace").strip() if reason.is_file() else ""
                raise InputError(f"{folder / name}: no such file" + (f"; {why}" if why else ""))
        lda = read_object(str(folder / "transform.mat"), "matrix")
        return cls(scoring, mean, lda, read_plda(str(folder / "plda")), folder, results)

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.scoring == "cosine") or (self.plda is None) != (self.scoring != "plda"):
            raise InputError(
                f"a back end for {self.scoring} has a mean (but for cosine), and LDA and PLDA for plda only"
            )
        where = self.folder or "the back end"
        if self.mean is not None and not np.isfinite(self.mean).all():
            raise InputError(f"{where}: the mean has NaN or infinite values")
        if self.plda is None:
            return
        assert self.mean is not None
        if self.lda is None or self.lda.ndim != 2 or self.lda.shape[1] - len(self.mean) not in (0, 1):
            raise InputError(f"{where}: the LDA does not fit a mean of {len(self.mean)} dimensions")
        if len(self.lda) != self.plda.dim:
            raise InputError(f"{where}: the LDA gives {len(self.lda)} dimensions, but the PLDA has {self.plda.dim}")
        if not np.isfinite(self.lda).all():
            raise InputError(f"{where}: the LDA has NaN or infinite values")

    def __repr__(self) -> str:
        sizes = [] if self.mean is None else [f"dim={len(self.mean)}"]
        sizes += [] if self.plda is None else [f"lda_dim={self.plda.dim}"]
        return f"Backend({', '.join([repr(self.scoring), *sizes, *([str(self.folder)] if self.folder else [])])})"

    @property
    def kind(self) -> str:
        """The kind of its scores: the scoring, and a digest of the mean, LDA and PLDA, if any.

        A calibration holds for scores of one kind.
        """
        arrays = [array for array in (self.mean, self.lda) if array is not None]
        if self.plda is not None:
            arrays += [self.plda.mean, self.plda.transform, self.plda.psi]
        if not arrays:
            return self.scoring
        content = b"".join(np.ascontiguousarray(array, "<f4").tobytes() for array in arrays)
        return f"{self.scoring} {hashlib.sha256(content).hexdigest()[:12]}"

    def threshold(self, p_target: Optional[float] = None) -> Optional[Threshold]:
        """Return the threshold that the experiment measured at the EER, or at a prior; see ``find_threshold``.

        Raises:
            InputError: it measured scores of another mean, LDA or PLDA; all that ``find_threshold`` raises.
        """
        return None if self.results is None else find_threshold(self.results, self.scoring, p_target, self.kind)

    def score_matrix(self, enroll: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Score each enrolment with each test embedding.

        Args:
            enroll: ``(n, dim)``.
            test: ``(m, dim)``.

        Returns:
            float64 ``(n, m)``: cosines, or natural-log likelihood ratios of the PLDA.

        Raises:
            InputError: other dimensions than the back end's; an embedding of zero norm, or with NaN or infinity.
        """
        return self.pairs(_named(enroll, "enrolment"), _named(test, "test")).scores(None)

    def score_trials(
        self,
        vectors: Mapping[str, np.ndarray],
        trials: Union[str, Path, Trials],
        test: Optional[Mapping[str, np.ndarray]] = None,
    ) -> np.ndarray:
        """Score the trials of a list, float64 ``(trials,)`` in its order.

        Args:
            vectors: embeddings ``(dim,)`` of the enrolment ids by name, such as ``read_vectors`` returns.
            trials: a file of lines ``enroll test [target|nontarget]``, or what ``read_trials`` returned for it.
            test: embeddings of the test ids, if they are others.

        Raises:
            InputError: as ``score_matrix``; an unreadable list; a trial without an embedding.
        """
        trials = trials if isinstance(trials, Trials) else read_trials(trials)
        enrolled = _embeddings(vectors, "the vectors")
        tested = enrolled if test is None else _embeddings(test, "the test vectors")
        return self.pairs(enrolled, tested).scores(trials)

    def pairs(
        self, enroll: Embeddings, test: Embeddings, spk2utt: Optional[Mapping[str, Sequence[str]]] = None
    ) -> Pairs:
        """Prepare both sides of the trials once, to score any number of blocks of trials.

        Args:
            enroll: embeddings of the enrolment ids.
            test: embeddings of the test ids.
            spk2utt: the utterances of each enrolment id, if these are speakers, as in ``enroll``.

        Raises:
            InputError: as ``score_matrix``; a speaker without utterances, or an utterance without an embedding.
        """
        enrolled = self.enroll(enroll, spk2utt)
        return self._pairs(enrolled, enroll.source, test.ids, self._prepare(test), test.source)

    def enroll(self, utterances: Embeddings, spk2utt: Optional[Mapping[str, Sequence[str]]] = None) -> Enrolled:
        """Prepare the enrolment side once, for any number of tests; the arguments are those of ``pairs``."""
        if spk2utt is None:
            names, used, starts, counts = utterances.ids, utterances, None, np.ones(len(utterances))
        else:
            rows, starts, counts = speaker_rows(utterances, spk2utt)
            names = list(spk2utt)
            used = Embeddings([utterances.ids[row] for row in rows], utterances.vectors[rows], utterances.source)
        if self.plda is None:
            return self._enrolled(names, _means(self._prepare(used), starts, counts), counts)
        vector_norms(used)
        means = Embeddings(names, _means(used.vectors, starts, counts), utterances.source)
        return self._enrolled(names, self._prepare(means), counts)

    def test_factors(self, test: Embeddings, enrolled: Enrolled) -> np.ndarray:
        """Return float64 ``(m, k)``, whose dot products with ``enrolled.factors`` are the scores.

        Raises:
            InputError: as ``score_matrix``.
        """
        return self._test_factors(self._prepare(test), enrolled)

    def normalizer(
        self,
        enroll: Embeddings,
        test: Embeddings,
        cohort: Embeddings,
        method: str = "as-norm",
        top_n: Optional[int] = 300,
        *,
        spk2utt: Optional[Mapping[str, Sequence[str]]] = None,
        n_clusters: Optional[int] = None,
        seed: int = 0,
    ) -> Normalizer:
        """Prepare scores that are normalised against a cohort; each member of it is enrolled from one utterance.

        Args:
            enroll: embeddings of the enrolment ids.
            test: embeddings of the test ids.
            cohort: embeddings of the cohort.
            method: one of ``normalization.METHODS``.
            top_n: size of the adaptive cohort.
            spk2utt: as in ``pairs``.
            n_clusters: number of clusters of the prepared cohort whose centres replace it; None for the cohort itself.
            seed: random seed of the clustering.

        Raises:
            InputError: as ``pairs`` and ``Normalizer``.
        """
        enrolled = self.enroll(enroll, spk2utt)
        tested, members, ids = self._prepare(test), self._prepare(cohort), cohort.ids
        if n_clusters is not None:
            length = np.linalg.norm(members[0])  # of all
            members = length * spherical_kmeans(Embeddings(ids, members, cohort.source), n_clusters, seed).centres
            ids = [f"cluster{i}" for i in range(n_clusters)]

        pairs = self._pairs(enrolled, enroll.source, test.ids, tested, test.source)
        with_cohort = self._pairs(enrolled, enroll.source, ids, members, cohort.source)
        speakers = self._enrolled(ids, members, np.ones(len(members)))
        cohort_with = self._pairs(speakers, cohort.source, test.ids, tested, test.source)
        return Normalizer.of_dot_products(Comparison(*pairs, pairs.scores), with_cohort, cohort_with, method, top_n)

    def compare(self, enroll: np.ndarray, test: np.ndarray) -> float:
        """Score one speaker, enrolled from the embeddings ``(n, dim)``, with one test embedding ``(dim,)``.

        For cosines, the embeddings are averaged at unit length. For PLDA, they are averaged as they are, and the model
        knows how many they are (``ivector-plda-scoring --num-utts``).

        Raises:
            InputError: as ``score_matrix``.
        """
        utterances = _named(enroll, "enrolment")
        pairs = self.pairs(utterances, _named(test[None], "test"), {"the mean of the enrolment": utterances.ids})
        return float(pairs.scores(None)[0, 0])

    def _pairs(
        self, enrolled: Enrolled, source: str, test_ids: List[str], prepared: np.ndarray, test_source: str
    ) -> Pairs:
        right = self._test_factors(prepared, enrolled)
        return Pairs(Embeddings(enrolled.names, enrolled.factors, source), Embeddings(test_ids, right, test_source))

    def _enrolled(self, names: List[str], prepared: np.ndarray, counts: np.ndarray) -> Enrolled:
        """Return speakers of prepared means ``(n, dim)`` over ``counts`` ``(n,)`` utterances."""
        if self.plda is None:
            return Enrolled(names, _to_unit_length(prepared), np.unique(counts))
        vectors, _ = self.plda.transform_vectors(prepared, counts)
        return Enrolled(names, self.plda.enroll_factors(vectors, counts), np.unique(counts))

    def _test_factors(self, prepared: np.ndarray, enrolled: Enrolled) -> np.ndarray:
        if self.plda is not None:
            tested, _ = self.plda.transform_vectors(prepared)
            return self.plda.test_factors(tested, enrolled.num_utts)
        if prepared.shape[1] != enrolled.factors.shape[1]:
            raise InputError(
                f"enrolment embeddings have {enrolled.factors.shape[1]} dimensions, "
                f"but test embeddings have {prepared.shape[1]}"
            )
        return prepared

    def _prepare(self, embeddings: Embeddings) -> np.ndarray:
        """Subtract the mean, apply the LDA and scale to unit length, or sqrt(dim) for PLDA; float64 ``(n, k)``."""
        vector_norms(embeddings)
        if self.mean is not None and embeddings.dim != len(self.mean):
            raise InputError(
                f"{embeddings.source}: the embeddings have {embeddings.dim} dimensions, but the mean of "
                f"{self.folder or 'the back end'} has {len(self.mean)}"
            )
        vectors = embeddings.vectors.astype(np.float64)
        if self.mean is not None:
            vectors -= self.mean
        if self.lda is None:
            return _to_unit_length(vectors)
        offset = self.lda[:, embeddings.dim :].sum(axis=1, dtype=np.float64)  # the last column of an affine LDA
        vectors = vectors @ self.lda[:, : embeddings.dim].astype(np.float64).T + offset
        vectors = _to_unit_length(vectors)
        vectors *= np.sqrt(vectors.shape[1])
        return vectors


def kind_of_scores(path: Union[str, Path]) -> Optional[str]:
    """Return the kind (``Backend.kind``) of the scores in ``EXP/scores/<set>/<trials>.<scoring>``; None elsewhere.

    Raises:
        InputError: the back end of that experiment is broken.
    """
    scoring, folders = Path(path).suffix[1:], Path(path).resolve().parents
    if scoring not in SCORINGS or len(folders) < 3 or folders[1].name != "scores":
        return None
    experiment = folders[2]
    if scoring != "cosine" and not (experiment / "backend" / "mean.vec").is_file():
        return None
    return Backend.load(experiment, scoring).kind


def _means(vectors: np.ndarray, starts: Optional[np.ndarray], counts: np.ndarray) -> np.ndarray:
    """Return the mean of each speaker's rows, which begin at ``starts``; if each has one, the rows themselves."""
    if starts is None or len(starts) == len(vectors):
        return vectors
    means: np.ndarray = np.add.reduceat(vectors, starts, axis=0, dtype=np.float64) / counts[:, None]
    return means


def _to_unit_length(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        raise InputError("an embedding equals the mean that is subtracted, or the mean of the enrolment is zero")
    unit: np.ndarray = vectors / norms
    return unit


def _named(vectors: np.ndarray, what: str) -> Embeddings:
    vectors = np.asarray(vectors)
    if vectors.ndim != 2:
        raise InputError(f"{what} embeddings should have shape (n, dim), not {vectors.shape}")
    return Embeddings([str(row) for row in range(len(vectors))], vectors, f"{what} embeddings")


def _embeddings(vectors: Mapping[str, np.ndarray], source: str) -> Embeddings:
    shapes = {np.shape(vector) for vector in vectors.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise InputError(f"{source}: expected vectors of one dimension, at least one")
    table: Dict[str, np.ndarray] = dict(vectors)
    return Embeddings(list(table), np.stack(list(table.values())), source)
