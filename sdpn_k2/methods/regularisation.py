"""Losses that keep embeddings from collapsing into few dimensions, and statistics that show a collapse."""

from typing import Dict

import torch
import torch.nn.functional as F
from torch import Tensor

DISTANCE_EPS = 1e-8
CORRELATION_EPS = 1e-8


def koleo(e_student: Tensor) -> Tensor:
    """Return SDPN's L_DR = Σ over views of −mean_i log(‖ê_i − ê_nn(i)‖₂ + 1e-8), KoLeo on unit-norm embeddings.

    nn(i) is the nearest other utterance in the same view; both ends of the distance get a gradient.

    Args:
        e_student: embeddings ``(views, utterances, dim)``.
    """
    unit = F.normalize(e_student, dim=-1)
    with torch.no_grad():
        cosine = unit @ unit.transpose(1, 2)
        cosine.diagonal(dim1=1, dim2=2).fill_(-2.0)
        nearest = cosine.argmax(dim=2)
    neighbours = unit.gather(1, nearest.unsqueeze(2).expand_as(unit))
    distance = torch.linalg.vector_norm(unit - neighbours, dim=2)
    return -torch.log(distance + DISTANCE_EPS).mean(dim=1).sum()


def off_diagonal(e_student: Tensor) -> Tensor:
    """Return Σ over views of Σ_{i≠j} R_ij² / d, with R the correlation matrix of the view's batch (arXiv 2505.13826).

    Args:
        e_student: embeddings ``(views, utterances, d)``.
    """
    correlation = correlations(e_student)
    squares = correlation.square()
    return (squares.sum(dim=(1, 2)) - squares.diagonal(dim1=1, dim2=2).sum(dim=1)).sum() / e_student.shape[2]


def frobenius(e_student: Tensor) -> Tensor:
    """Return Σ over views of ‖R − I‖_F / d, with R the correlation matrix of the view's batch (arXiv 2505.13826).

    Args:
        e_student: embeddings ``(views, utterances, d)``.
    """
    correlation = correlations(e_student)
    identity = torch.eye(e_student.shape[2], dtype=correlation.dtype, device=correlation.device)
    return torch.linalg.vector_norm((correlation - identity).flatten(1), dim=1).sum() / e_student.shape[2]


def correlations(embeddings: Tensor) -> Tensor:
    """Return the correlation matrices ``(views, d, d)`` of the dimensions of embeddings ``(views, utterances, d)``."""
    centred = embeddings - embeddings.mean(dim=1, keepdim=True)
    standard = centred / (centred.square().sum(dim=1, keepdim=True) + CORRELATION_EPS).sqrt()
    return standard.transpose(1, 2) @ standard


DIMENSION_REGULARISATIONS = {"koleo": koleo, "off_diagonal": off_diagonal, "frobenius": frobenius}


def embedding_statistics(embeddings: Tensor) -> Dict[str, Tensor]:
    """Measure the spread of embeddings ``(utterances, dim)``.

    ``effective_rank`` is exp of the entropy of the covariance's normalised eigenvalues (Roy & Vetterli, 2007), and
    ``mean_cosine`` is the mean cosine of two different utterances. Both are NaN for embeddings that are not finite.
    """
    count = embeddings.shape[0]
    centred = embeddings - embeddings.mean(dim=0)
    # The smaller Gram matrix has the covariance's non-zero eigenvalues.
    gram = centred @ centred.t() if count < embeddings.shape[1] else centred.t() @ centred
    eigenvalues = _eigenvalues(gram).clamp_min(0)
    share = eigenvalues / eigenvalues.sum().clamp_min(torch.finfo(eigenvalues.dtype).tiny)
    unit = F.normalize(embeddings, dim=1)
    mean_cosine = (unit.sum(dim=0).square().sum() - count) / (count * (count - 1))
    return {"effective_rank": torch.exp(-torch.xlogy(share, share).sum()), "mean_cosine": mean_cosine}


def _eigenvalues(symmetric: Tensor) -> Tensor:
    """Return the eigenvalues of a symmetric matrix ``(n, n)``, float64 on the CPU; NaN where there are none.

    On GPUs, and in float32, the decomposition can fail for ill-conditioned matrices.
    """
    symmetric = symmetric.double().cpu()
    try:
        return torch.linalg.eigvalsh(symmetric)
    except torch.linalg.LinAlgError:  # elements that are not finite
        return torch.full_like(symmetric[0], float("nan"))
