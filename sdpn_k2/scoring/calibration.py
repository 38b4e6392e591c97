"""Calibration and fusion by logistic regression: from scores to log-likelihood ratios.

The log-likelihood ratio of a trial is modelled as  llr = w_1 s_1 + ... + w_m s_m + b  with one weight per system.
Weights and offset minimise the prior-weighted cross-entropy [Brummer06] on a development set,

    p_target / N_target     sum over targets     log(1 + exp(-(llr + logit p_target)))
    + (1 - p_target) / N_nontarget  sum over nontargets  log(1 + exp(llr + logit p_target)),

and then apply to other trials. With one system this is calibration, with several it is fusion.

References:
----------
[Brummer06]  N. Brümmer and J. du Preez, "Application-independent evaluation of speaker detection", CSL 20, 2006.
[Pigeon00]   S. Pigeon et al., "Applying logistic regression to the fusion of the NIST'99 1-speaker submissions",
             Digital Signal Processing 10, 2000.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import List, Optional, Sequence, Union

import numpy as np

from sdpn_k2.errors import InputError, error_context
from sdpn_k2.files import atomic_output
from sdpn_k2.scoring.metrics import CostModel
from sdpn_k2.scoring.trial_arrays import Scores, Trials, match_scores, read_scores

MAX_ITERATIONS = 100
# Weight decay on standardised scores. It matters only if the development scores have no error: without it, the weights
# would then grow without bound.
RIDGE = 1e-8


@dataclass(frozen=True)
class Calibration:
    """An affine map from the scores of m systems to log-likelihood ratios.

    Attributes:
        weights: one per system.
        offset: added to the weighted sum.
        p_target: prior probability in training.
        kinds: the kind of each system's scores (``Backend.kind``), None where it is unknown; empty if all are.

    Raises:
        InputError: no weights, a number that is not finite, an impossible prior, or another number of kinds.
    """

    weights: List[float]
    offset: float
    p_target: float
    kinds: List[Optional[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.weights:
            raise InputError("the calibration has no weights")
        if not np.isfinite([*self.weights, self.offset]).all():
            raise InputError("the weights and the offset of the calibration must be finite")
        if len(self.kinds) not in (0, len(self.weights)):
            raise InputError(f"the calibration has {len(self.weights)} weights, but {len(self.kinds)} kinds of scores")
        CostModel(self.p_target)

    def check_kinds(self, kinds: Sequence[Optional[str]], scores: Sequence[object]) -> None:
        """Check that scores are of the kind that the calibration was trained on, where both kinds are known.

        Args:
            kinds: kind of each system's scores, None where it is unknown.
            scores: name of each system's scores, for the message.

        Raises:
            InputError: scores of another kind.
        """
        for trained, kind, name in zip(self.kinds, kinds, scores):
            if trained and kind and trained != kind:
                raise InputError(
                    f"{name}: these are {kind} scores, but the calibration was trained on {trained} scores"
                )

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return natural-log likelihood ratios, float64, shape (n,).

        Args:
            scores: shape (n, m), or (n,) for one system.

        Raises:
            InputError: another number of systems than in training.
        """
        columns = _columns(scores)
        if columns.shape[1] != len(self.weights):
            raise InputError(
                f"the calibration has weights for {len(self.weights)} systems, but there are {columns.shape[1]}"
            )
        ratios: np.ndarray = columns @ np.array(self.weights) + self.offset
        return ratios

    def probability(self, scores: np.ndarray, p_target: float = 0.5) -> np.ndarray:
        """Return the posterior probability of a target trial for a prior ``p_target``; float64, shape (n,)."""
        CostModel(p_target)
        return _sigmoid(self.apply(scores) + _logit(p_target))


def train_calibration(
    scores: np.ndarray, is_target: np.ndarray, p_target: float = 0.5, kinds: Sequence[Optional[str]] = ()
) -> Calibration:
    """Train on a development set, by Newton's method.

    Args:
        scores: shape (n, m), or (n,) for one system.
        is_target: bool, shape (n,).
        p_target: prior around which the ratios should be most accurate.
        kinds: kind of each system's scores, to record; None where it is unknown.

    Raises:
        InputError: only one kind of trial, scores that are not finite, a system whose scores are all equal, or an
            impossible prior.
    """
    CostModel(p_target)
    columns, is_target = _columns(scores), np.asarray(is_target, bool)
    n_targets = int(is_target.sum())
    if not 0 < n_targets < len(is_target):
        raise InputError(f"calibration needs target and nontarget trials; {n_targets} of {len(is_target)} are targets")
    if not np.isfinite(columns).all():
        raise InputError("calibration needs finite scores, but some are NaN or infinite")
    centre, scale = columns.mean(axis=0), columns.std(axis=0)
    if not (scale > 0.0).all():
        raise InputError(
            f"all development scores of system {int(np.argmin(scale)) + 1} are equal, so it cannot be calibrated"
        )
    inputs = np.column_stack(((columns - centre) / scale, np.ones(len(columns))))
    weights = np.where(is_target, p_target / n_targets, (1.0 - p_target) / (len(is_target) - n_targets))
    parameters = _newton(inputs, is_target, weights, _logit(p_target))
    slopes = parameters[:-1] / scale
    offset = float(parameters[-1] - slopes @ centre)
    return Calibration([float(slope) for slope in slopes], offset, p_target, list(kinds))


def stack_scores(systems: Sequence[Union[str, Path, Scores]], trials: Trials) -> np.ndarray:
    """Return the scores of several systems on the same trials, float64, shape (len(trials), len(systems)).

    Raises:
        InputError: as ``read_scores`` and ``match_scores``, such as a system without a score for a trial.
    """
    read = (system if isinstance(system, Scores) else read_scores(system) for system in systems)
    return np.column_stack([match_scores(scores, trials) for scores in read]).astype(np.float64, copy=False)


def write_calibration(path: Union[str, Path], calibration: Calibration) -> None:
    """Write a calibration as JSON."""
    with atomic_output(path, "w") as stream:
        json.dump(asdict(calibration), stream, indent=2)
        stream.write("\n")


def read_calibration(path: Union[str, Path]) -> Calibration:
    """Read a file of :func:`write_calibration`.

    Raises:
        InputError: an unreadable file, or one that does not hold a calibration.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path}: not a calibration (JSON in UTF-8)") from error
    with error_context(path):
        try:
            values = json.loads(text)
            if not isinstance(values["weights"], list):
                raise TypeError("weights must be a list")
            weights = [float(weight) for weight in values["weights"]]
            kinds = [None if kind is None else str(kind) for kind in values.get("kinds", [])]
            return Calibration(weights, float(values["offset"]), float(values["p_target"]), kinds)
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError("not a calibration (JSON with a list of weights, offset and p_target)") from error


def _newton(inputs: np.ndarray, is_target: np.ndarray, weights: np.ndarray, prior: float) -> np.ndarray:
    sign = np.where(is_target, 1.0, -1.0)
    decay = np.full(inputs.shape[1], RIDGE)
    decay[-1] = 0.0  # the offset is free

    def loss(parameters: np.ndarray) -> float:
        margins = sign * (inputs @ parameters + prior)
        return float(weights @ np.logaddexp(0.0, -margins) + 0.5 * decay @ parameters**2)

    parameters = np.zeros(inputs.shape[1])
    current = loss(parameters)
    for _ in range(MAX_ITERATIONS):
        posterior = _sigmoid(inputs @ parameters + prior)
        gradient = inputs.T @ (weights * (posterior - is_target)) + decay * parameters
        curvature = (inputs * (weights * posterior * (1.0 - posterior))[:, None]).T @ inputs
        # Decay makes the solution unique where two systems have the same scores: they share the weight.
        step = np.linalg.lstsq(curvature + np.diag(decay), gradient, rcond=None)[0]
        for _ in range(60):
            candidate = loss(parameters - step)
            if candidate <= current:
                break
            step *= 0.5
        else:
            break
        parameters = parameters - step
        if current - candidate <= 1e-14 * max(current, 1e-300):
            break
        current = candidate
    return parameters


def _columns(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    return scores[:, None] if scores.ndim == 1 else scores


def _logit(probability: float) -> float:
    return float(np.log(probability) - np.log1p(-probability))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    probability: np.ndarray = np.exp(-np.logaddexp(0.0, -x))
    return probability
