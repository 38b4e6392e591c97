"""Two-covariance PLDA as in Kaldi's ivector/plda.cc: estimation, smoothing, projection, adaptation, scoring.

A vector is ``x = mean + y + e`` with a speaker part ``y ~ N(0, between)`` and a remainder ``e ~ N(0, within)``. The
model stores the transform that maps ``within`` to the identity and ``between`` to a diagonal matrix with the elements
``psi`` (S. Ioffe, "Probabilistic Linear Discriminant Analysis", ECCV 2006). All computations are in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.lda import SpeakerStats
from sdpn_k2.kaldi.backend.pca import principal_components
from sdpn_k2.kaldi.formats import matrix
from sdpn_k2.kaldi.formats.io import open_input, open_output


@dataclass(frozen=True)
class Plda:
    """A PLDA model in the form in which Kaldi stores it.

    Attributes:
        mean: ``(dim,)`` float64.
        transform: ``(dim, dim)`` float64; ``transform @ within @ transform.T`` is the identity and
            ``transform @ between @ transform.T`` is ``diag(psi)``.
        psi: ``(dim,)`` float64, in decreasing order.
    """

    mean: np.ndarray
    transform: np.ndarray
    psi: np.ndarray

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return len(self.mean)

    def covariances(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(within, between)`` in the space of the vectors, ``(dim, dim)`` each."""
        inverse = np.linalg.inv(self.transform)
        return inverse @ inverse.T, inverse * self.psi @ inverse.T

    @classmethod
    def from_covariances(cls, mean: np.ndarray, within: np.ndarray, between: np.ndarray) -> Plda:
        """Build a model from its mean and covariances. Raises InputError as :func:`diagonalize` does."""
        transform, psi = diagonalize(within, between)
        return cls(np.asarray(mean, np.float64), transform, psi)

    def smooth(self, factor: float) -> Plda:
        """Add ``factor`` times the between-speaker to the within-speaker covariance (ivector-copy-plda --smoothing)."""
        if not 0.0 <= factor <= 1.0:
            raise InputError(f"PLDA smoothing factor {factor:g} must be between 0 and 1")
        within = 1.0 + factor * self.psi
        return replace(self, transform=self.transform / np.sqrt(within)[:, None], psi=self.psi / within)

    def project(self, projection: np.ndarray) -> Plda:
        """Return the model of ``projection @ x``; ``projection`` is ``(dim_out, dim)`` with full rank."""
        within, between = self.covariances()
        return Plda.from_covariances(
            projection @ self.mean, projection @ within @ projection.T, projection @ between @ projection.T
        )

    def transform_vectors(
        self,
        vectors: np.ndarray,
        num_utts: np.ndarray | int = 1,
        normalize_length: bool = True,
        simple_length_norm: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Transform vectors to the space in which they are scored.

        Args:
            vectors: ``(n, dim)``, each the mean of ``num_utts`` utterances of one speaker.
            num_utts: ``(n,)`` or one number for all.
            normalize_length: scale each vector to the squared length ``dim``, measured with the inverse of its expected
                covariance, ``psi + 1 / num_utts``.
            simple_length_norm: with ``normalize_length``, scale to the length sqrt(dim) instead.

        Returns:
            ``(transformed, scales)``: ``(n, dim)`` float64, and the scaling factors ``(n,)``, computed even if
            ``normalize_length`` does not apply them.
        """
        transformed = (np.asarray(vectors, np.float64) - self.mean) @ self.transform.T
        if simple_length_norm:
            squares = np.einsum("ij,ij->i", transformed, transformed)
        else:
            utts = np.broadcast_to(np.asarray(num_utts, np.float64), len(transformed))
            squares = np.empty(len(transformed))
            for count in np.unique(utts):
                rows = utts == count
                squares[rows] = transformed[rows] ** 2 @ (1.0 / (self.psi + 1.0 / count))
        scales = np.sqrt(self.dim / np.where(squares > 0, squares, self.dim))  # a vector at the mean is not scaled
        if normalize_length:
            transformed *= scales[:, None]
        return transformed, scales

    def log_likelihood_ratios(self, enroll: np.ndarray, num_utts: np.ndarray | int, test: np.ndarray) -> np.ndarray:
        """Score all pairs: log p(test | same speaker as enroll) - log p(test | another speaker).

        Args:
            enroll: ``(n, dim)`` from `transform_vectors`.
            num_utts: number of utterances of each enrolment vector, ``(n,)`` or one number for all, 1 or more.
            test: ``(m, dim)`` from `transform_vectors` with one utterance each.

        Returns:
            ``(n, m)`` float64.
        """
        enroll_side, test_side = self.scoring_factors(enroll, num_utts, test)
        scores: np.ndarray = enroll_side @ test_side.T
        return scores

    def scoring_factors(
        self, enroll: np.ndarray, num_utts: np.ndarray | int, test: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return matrices ``(n, k)`` and ``(m, k)``; the dot product of two of their rows is the score of the pair.

        Given ``n`` enrolment utterances with mean ``u``, a test vector ``t`` of the same speaker is Gaussian with mean
        ``n psi / (n psi + 1) u`` and variance ``v = 1 + psi / (n psi + 1)``. For another speaker, its mean is zero and
        its variance ``1 + psi``. In the difference of the two log densities, only ``mean / v * t`` depends on both
        sides, and ``t^2 / v`` if ``n`` varies. Hence ``k`` is ``dim + 2`` or ``2 dim + 2``.
        """
        return self.enroll_factors(enroll, num_utts), self.test_factors(test, num_utts)

    def enroll_factors(self, enroll: np.ndarray, num_utts: np.ndarray | int) -> np.ndarray:
        """Return the matrix ``(n, k)`` of the enrolment side; see `scoring_factors`."""
        psi = self.psi
        utts = np.broadcast_to(np.asarray(num_utts, np.float64), len(enroll))[:, None]
        same = len(np.unique(utts)) == 1
        if same:  # then one variance serves all rows
            utts = utts[:1]
        mean = utts * psi / (utts * psi + 1.0) * enroll
        variance = 1.0 + psi / (utts * psi + 1.0)
        enroll_only = 0.5 * (np.log1p(psi) - np.log(variance) - mean**2 / variance).sum(axis=1)
        columns = [mean / variance, *([] if same else [-0.5 / variance]), enroll_only, np.ones(len(enroll))]
        return np.column_stack(columns)

    def test_factors(self, test: np.ndarray, num_utts: np.ndarray | int) -> np.ndarray:
        """Return the matrix ``(m, k)`` of the test side; ``num_utts`` are those of the enrolment side."""
        psi = self.psi
        counts = np.unique(np.asarray(num_utts, np.float64))
        columns = [test]
        test_only = 0.5 * test**2 @ (1.0 / (1.0 + psi))
        if len(counts) == 1:
            test_only -= 0.5 * test**2 @ (1.0 / (1.0 + psi / (counts[0] * psi + 1.0)))
        else:
            columns.append(test**2)
        return np.column_stack([*columns, np.ones(len(test)), test_only])

    def adapt(
        self,
        mean: np.ndarray,
        covariance: np.ndarray,
        mean_diff_scale: float = 1.0,
        within_covar_scale: float = 0.3,
        between_covar_scale: float = 0.7,
    ) -> Plda:
        """Adapt to unlabelled vectors of another domain (ivector-adapt-plda).

        The model's total covariance is mapped to the identity. Where the variance of the new vectors in a principal
        direction exceeds one, the excess is distributed to the within- and between-speaker covariances.

        Args:
            mean: mean of the new vectors, ``(dim,)``; it becomes the mean of the model.
            covariance: centred covariance of the new vectors, ``(dim, dim)``.
            mean_diff_scale: weight of the outer product of (new mean - old mean), which is added to ``covariance``.
            within_covar_scale: share of the excess for the within-speaker covariance.
            between_covar_scale: share of the excess for the between-speaker covariance.
        """
        shift = mean - self.mean
        covariance = covariance + mean_diff_scale * np.outer(shift, shift)
        to_unit_total = self.transform / np.sqrt(1.0 + self.psi)[:, None]
        variances, directions = np.linalg.eigh(to_unit_total @ covariance @ to_unit_total.T)
        excess = directions * np.maximum(variances - 1.0, 0.0) @ directions.T
        within = np.diag(1.0 / (1.0 + self.psi)) + within_covar_scale * excess
        between = np.diag(self.psi / (1.0 + self.psi)) + between_covar_scale * excess
        transform, psi = diagonalize(within, between)
        return Plda(np.asarray(mean, np.float64), transform @ to_unit_total, psi)


def diagonalize(within: np.ndarray, between: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``transform`` that diagonalises both covariances, and ``psi``, in decreasing order and not negative.

    ``transform @ within @ transform.T`` is the identity, ``transform @ between @ transform.T`` is ``diag(psi)``.

    Raises:
        InputError: ``within`` is singular.
    """
    try:
        whiten = np.linalg.inv(np.linalg.cholesky(within))
    except np.linalg.LinAlgError:
        raise InputError("PLDA: the within-speaker covariance is singular; use fewer dimensions or more data") from None
    psi, rotation = np.linalg.eigh(whiten @ between @ whiten.T)
    return rotation[:, ::-1].T @ whiten, np.maximum(psi[::-1], 0.0)


def estimate_plda(stats: SpeakerStats, num_em_iters: int = 10) -> Plda:
    """Estimate a model by the expectation-maximisation of Kaldi's PldaEstimator, with weight one for each speaker.

    Both covariances start as the identity, and the model's mean is the mean of the speakers' means. Each iteration
    splits the mean ``m`` of a speaker's ``n`` vectors into a speaker part and a remainder. The speaker part has the
    posterior mean ``w`` and the posterior covariance ``(between^-1 + n within^-1)^-1``. In the space where the current
    covariances are ``I`` and ``diag(psi)``, this covariance is ``psi / (1 + n psi)``, and ``w`` is
    ``n psi / (1 + n psi) m``. All speakers are computed at once, without an inversion for each ``n``.

    Raises:
        InputError: there are no vectors, no more vectors than dimensions, or no speaker with two vectors.
    """
    means, counts = stats.means()
    if not len(counts):
        raise InputError("PLDA: there are no vectors")
    if stats.num_vectors == len(counts):
        raise InputError("PLDA needs a speaker with two utterances or more, but each has one")
    if stats.num_vectors <= stats.dim:
        raise InputError(f"PLDA needs more vectors than dimensions: {stats.num_vectors} of {stats.dim} dimensions")
    scatter = stats.second_moment - (means * counts[:, None]).T @ means
    mean = means.mean(axis=0)
    means = means - mean
    counts = counts[:, None].astype(np.float64)

    transform, psi = np.eye(stats.dim), np.ones(stats.dim)
    for _ in range(num_em_iters):
        speaker_means = means @ transform.T
        posterior_variance = psi / (1.0 + counts * psi)
        speaker_parts = counts * posterior_variance * speaker_means
        remainders = speaker_means - speaker_parts
        between = np.diag(posterior_variance.sum(axis=0)) + speaker_parts.T @ speaker_parts
        within = transform @ scatter @ transform.T
        within += np.diag((counts * posterior_variance).sum(axis=0)) + (counts * remainders).T @ remainders
        step, psi = diagonalize(within / stats.num_vectors, between / len(counts))
        transform = step @ transform
    return Plda(mean, transform, psi)


def score_recording(
    plda: Plda,
    vectors: np.ndarray,
    target_energy: float,
    normalize_length: bool = True,
    simple_length_norm: bool = False,
) -> np.ndarray:
    """Score all pairs of segments of a recording, after a PCA of the recording (ivector-plda-scoring-dense).

    The PCA keeps the fewest principal components that hold more than ``target_energy`` of the variance and, as in
    Kaldi, one more. If there are no more segments than components, that one is arbitrary, as in Kaldi.

    Args:
        plda: model of the vectors.
        vectors: one row per segment, ``(n, dim)``.
        target_energy: share of the variance to keep.
        normalize_length: see :meth:`Plda.transform_vectors`.
        simple_length_norm: see :meth:`Plda.transform_vectors`.

    Returns:
        ``(n, n)`` float64.
    """
    variances, directions = principal_components(np.cov(vectors.T, bias=True).reshape(plda.dim, plda.dim))
    energy = variances.sum()
    kept = int((np.cumsum(variances) <= target_energy * energy).sum()) + 2 if energy > 0 else 1
    projection = directions[:kept]
    projected = plda.project(projection)
    transformed, _ = projected.transform_vectors(vectors @ projection.T, 1, normalize_length, simple_length_norm)
    return projected.log_likelihood_ratios(transformed, 1, transformed)


def read_plda(rxfilename: str) -> Plda:
    """Read a PLDA file of Kaldi, binary or text, from an extended filename.

    Raises:
        InputError: the file cannot be read or is not a PLDA file, or its dimensions or values are impossible.
    """
    with open_input(rxfilename) as stream:
        binary = matrix.read_binary_mark(stream)
        matrix.expect_token(stream, binary, "<Plda>")
        mean = matrix.read_vector(stream, binary, np.float64)
        transform = matrix.read_matrix(stream, binary, np.float64)
        psi = matrix.read_vector(stream, binary, np.float64)
        matrix.expect_token(stream, binary, "</Plda>")
    if not len(mean) or transform.shape != (len(mean), len(mean)) or psi.shape != mean.shape:
        shapes = f"{mean.shape}, {transform.shape} and {psi.shape}"
        raise InputError(f"{rxfilename}: not a valid PLDA: mean, transform and psi have the shapes {shapes}")
    if not (np.isfinite(mean).all() and np.isfinite(transform).all() and np.isfinite(psi).all() and (psi >= 0).all()):
        raise InputError(f"{rxfilename}: not a valid PLDA: it has NaN, infinite or negative values")
    if np.linalg.slogdet(transform)[0] == 0:
        raise InputError(f"{rxfilename}: not a valid PLDA: the transform is singular")
    return Plda(mean, transform, psi)


def write_plda(wxfilename: str, plda: Plda, binary: bool = True) -> None:
    """Write a PLDA file as Kaldi does: binary in double precision, or text."""
    with open_output(wxfilename) as stream:
        stream.write(matrix.BINARY_MARK if binary else b"")
        stream.write(matrix.encode_token("<Plda>"))
        stream.write(matrix.encode_vector(plda.mean, binary, np.float64))
        stream.write(matrix.encode_matrix(plda.transform, binary, np.float64))
        stream.write(matrix.encode_vector(plda.psi, binary, np.float64))
        stream.write(matrix.encode_token("</Plda>"))
