"""Segment speech by Viterbi decoding, with minimum durations and with costs for changes of class.

    waveforms ── log_energy ──► frames ── two_gaussians (or any classifier) ──► log-likelihoods ── decode ──► labels

A path through a recording is a sequence of segments, alternately speech and non-speech, that covers all frames. Its
score is the sum of the frames' log-likelihoods, each under the class of its segment, minus the cost of each change.
``Topology`` defines the allowed paths. ``viterbi`` finds the best one with torch, and
``sdpn_k2.signal.k2_segmentation.viterbi`` finds it with k2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d
from torch.nn.utils.rnn import pad_sequence

from sdpn_k2.errors import InputError

NONSPEECH, SPEECH = 0, 1  # columns of log-likelihoods

FRAME_SECONDS, SHIFT_SECONDS = 0.025, 0.010  # as in Kaldi, so that decisions match features
# Energy of a frame without sound: less than that of a single 16-bit step in the context.
SILENCE = 1e-11

CONTEXT = 7  # frames on either side

EM_ITERATIONS = 30
VARIANCE_FLOOR = 0.03  # nat²; a standard deviation of 0.75 dB
MIN_CONTRAST = 0.3  # nat; levels less than 1.3 dB apart count as one


@dataclass(frozen=True)
class Topology:
    """The allowed segmentations, and the cost of changing the class. Durations are in frames, costs in nats.

    Each class is a chain of as many states as its minimum duration, with one frame per state. The last state loops, and
    leads to the first state of the other class. A path starts in the first state of either chain and ends in the last
    one. So every segment reaches its minimum, including the first and the last one. If a recording is shorter than a
    minimum, its length becomes the minimum, and it may be one segment of either class.

    Costs are large compared with the log-likelihood of a frame, because neighbouring frames are strongly correlated.
    """

    min_speech: int = 20
    min_nonspeech: int = 30
    to_speech_cost: float = 30.0
    to_nonspeech_cost: float = 30.0

    def __post_init__(self) -> None:
        """Check the ranges. Raises InputError."""
        for name in ("min_speech", "min_nonspeech"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: a minimum duration must be at least 1 frame")
        for name in ("to_speech_cost", "to_nonspeech_cost"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"{name} = {getattr(self, name)}: a cost must be finite")

    def fitted(self, num_frames: int) -> Topology:
        """Return this topology for a recording of ``num_frames``, with minima no longer than the recording."""
        if num_frames >= max(self.min_speech, self.min_nonspeech):
            return self
        return Topology(
            min(self.min_speech, num_frames),
            min(self.min_nonspeech, num_frames),
            self.to_speech_cost,
            self.to_nonspeech_cost,
        )


DEFAULT_TOPOLOGY = Topology()


class Path(NamedTuple):
    """The best path of a recording: ``speech`` bool (frames,), and its score in nats."""

    speech: np.ndarray
    score: float


# Frames of several recordings, (frames, …) each → their log-likelihoods, (frames, 2): non-speech, speech.
Classifier = Callable[[Sequence[Tensor]], List[Tensor]]
# Log-likelihoods, (frames, 2) for each recording → the best paths.
Decoder = Callable[[Sequence[Tensor], Topology], List[Path]]


def segment(
    frames: Sequence[Tensor],
    topology: Topology = DEFAULT_TOPOLOGY,
    classify: Optional[Classifier] = None,
    decode: Optional[Decoder] = None,
) -> List[Path]:
    """Label the frames of several recordings.

    Args:
        frames: input of ``classify``, (frames, …) for each recording; by default log energies (frames,).
        topology: the allowed segmentations and their costs.
        classify: the frame classifier, by default ``two_gaussians``. Its result includes priors, if there are any.
        decode: by default ``viterbi``; see ``sdpn_k2.signal.decoders.find_decoder`` for others.

    Raises:
        InputError: the classifier did not return finite log-likelihoods (frames, 2) for each recording.
    """
    log_likelihoods = (classify or two_gaussians)(frames)
    for index, (recording, values) in enumerate(zip(frames, log_likelihoods)):
        if values.shape != (len(recording), 2):
            raise InputError(
                f"recording {index}: log-likelihoods have shape {tuple(values.shape)}, "
                f"expected ({len(recording)}, 2) for non-speech and speech"
            )
        check_finite(values, f"recording {index}")
    return (decode or viterbi)(log_likelihoods, topology)


def check_finite(log_likelihoods: Tensor, what: str) -> None:
    """Raise InputError unless all log-likelihoods (frames, 2) of ``what`` are finite."""
    bad = (~torch.isfinite(log_likelihoods)).any(dim=1).nonzero()
    if len(bad):
        raise InputError(f"{what}: the log-likelihoods of frame {int(bad[0])} are not finite")


def spans(speech: np.ndarray) -> List[Tuple[int, int]]:
    """Return the speech segments in labels bool (frames,): first frame, and the one after the last.

    Examples:
        >>> spans(np.array([False, True, True, False, True]))
        [(1, 3), (4, 5)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], speech, [False]]).astype(np.int8)))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


# The two-Gaussian model of log energy


def log_energy(waveform: Tensor, rate: int) -> Tensor:
    """Compute the log energy around each frame: waveform (samples,) in ±1 → float32 (frames,).

    The energy of a frame, after mean removal, is averaged over ``CONTEXT`` frames on either side: syllables stand out
    from noise better than phones do. The number of frames is that of Kaldi's features with ``--snip-edges=true``.
    """
    length, shift = frame_samples(rate)
    if len(waveform) < length:
        return waveform.new_zeros(0)
    # The variance of a view copies no frames, and is exactly zero for constant ones.
    energy = waveform.unfold(0, length, shift).var(dim=1, unbiased=False) * length
    mean = avg_pool1d(energy[None, None], 2 * CONTEXT + 1, 1, CONTEXT, count_include_pad=False)[0, 0]
    return mean.clamp_min(SILENCE).log()


def frame_samples(rate: int) -> Tuple[int, int]:
    """Return length and shift of frames, in samples."""
    return max(1, int(rate * FRAME_SECONDS)), max(1, int(rate * SHIFT_SECONDS))


def two_gaussians(log_energies: Sequence[Tensor]) -> List[Tensor]:
    """Compute log-likelihoods of non-speech and speech under two Gaussians fitted to each recording by EM.

    The quieter Gaussian is non-speech. Frames without any sound (zeros from gates or padding) are not fitted. A frame
    quieter than the mean of non-speech, or louder than that of speech, is treated as if it were at that mean. So the
    evidence for speech never falls as energy rises, as it would in the tails of Gaussians of unequal variance. The
    Gaussians' weights are fitted but not applied. A recording with a single level (``MIN_CONTRAST``) has no speech.

    Args:
        log_energies: (frames,) for each recording, from ``log_energy``.

    Returns:
        Float64 (frames, 2) for each recording, on the device of its log energies.
    """
    lengths = [len(values) for values in log_energies]
    if not max(lengths, default=0):
        return [values.new_zeros((0, 2), dtype=torch.float64) for values in log_energies]
    values = pad_sequence([energies.double() for energies in log_energies], batch_first=True)
    frame = torch.arange(values.shape[1], device=values.device)
    # With a margin above the floor, whose logarithm was rounded.
    heard = (frame < torch.tensor(lengths, device=values.device).unsqueeze(1)) & (values > math.log(SILENCE) + 0.1)
    mean, variance = _fit_two_gaussians(values, heard)
    quiet, loud = mean[:, :1], mean[:, 1:]
    clamped = torch.minimum(torch.maximum(values, quiet), loud)
    mean, variance = mean.unsqueeze(1), variance.unsqueeze(1)
    result = -0.5 * ((clamped.unsqueeze(2) - mean) ** 2 / variance + variance.log())
    one_level = ~(loud - quiet >= MIN_CONTRAST).squeeze(1)
    result[one_level] = result.new_tensor([0.0, -1.0])
    return [row[:length] for row, length in zip(result, lengths)]


def _fit_two_gaussians(values: Tensor, used: Tensor) -> Tuple[Tensor, Tensor]:
    """Fit two Gaussians by EM from the quartiles to those ``values`` (recordings, frames) that are ``used``.

    Returns:
        Means, in rising order, and variances, (recordings, 2) each.
    """
    count = used.sum(dim=1, keepdim=True)
    ordered = values.masked_fill(~used, math.inf).sort(dim=1).values
    quartiles = torch.cat([count // 4, (3 * count) // 4], dim=1).clamp_max(values.shape[1] - 1)
    mean = ordered.gather(1, quartiles).masked_fill(count == 0, 0.0)
    used, points = used.unsqueeze(2).double(), values.unsqueeze(2)
    total = count.clamp_min(1)
    overall = (used * points).sum(dim=1) / total
    spread = (used * (points - overall.unsqueeze(1)) ** 2).sum(dim=1) / total
    variance = (spread / 4).clamp_min(VARIANCE_FLOOR).expand_as(mean)
    weight = torch.full_like(mean, 0.5)
    for _ in range(EM_ITERATIONS):
        joint = weight.log() - 0.5 * variance.log()
        joint = joint.unsqueeze(1) - 0.5 * (points - mean.unsqueeze(1)) ** 2 / variance.unsqueeze(1)
        responsibility = joint.softmax(dim=2) * used
        mass = responsibility.sum(dim=1).clamp_min(1e-3)
        weight = mass / mass.sum(dim=1, keepdim=True)
        mean = (responsibility * points).sum(dim=1) / mass
        variance = (responsibility * (points - mean.unsqueeze(1)) ** 2).sum(dim=1) / mass
        variance = variance.clamp_min(VARIANCE_FLOOR)
    mean, order = mean.sort(dim=1)
    return mean, variance.gather(1, order)


# Decoding


def viterbi(log_likelihoods: Sequence[Tensor], topology: Topology = DEFAULT_TOPOLOGY) -> List[Path]:
    """Find the best path of each recording, (frames, 2) each, in float64 on their device.

    Among paths of equal score, one that ends in speech wins. Then the longest last segment wins, then the longest last
    but one, and so on.
    """
    paths: List[Path] = [Path(np.zeros(0, bool), 0.0)] * len(log_likelihoods)
    groups: Dict[Topology, List[int]] = {}
    for index, values in enumerate(log_likelihoods):
        if len(values):
            groups.setdefault(topology.fitted(len(values)), []).append(index)
    for fitted, indices in groups.items():
        for index, path in zip(indices, _viterbi([log_likelihoods[index] for index in indices], fitted)):
            paths[index] = path
    return paths


def _viterbi(log_likelihoods: List[Tensor], topology: Topology) -> List[Path]:
    """Find the best paths of recordings that are at least as long as both minimum durations.

    Consider a path that is in a class at boundary t (between frames t - 1 and t), with a long enough segment. It
    entered that class at some boundary u ≤ t - minimum. Let C(t) be the sum of the class's log-likelihoods before t.
    Then the best score is

        C(t) + max over u ≤ t - minimum of [best score of the other class at u - cost - C(u)]

    Without C(t), the scores of a class are a running maximum of entries, and tracing back needs only the boundaries
    where that maximum rose. An entry takes effect a minimum duration later. So boundaries are processed in blocks as
    long as the shorter minimum.
    """
    lengths = [len(values) for values in log_likelihoods]
    sums = pad_sequence([values.double() for values in log_likelihoods], batch_first=True).cumsum(dim=1)
    sums = torch.cat([torch.zeros_like(sums[:, :1]), sums], dim=1)
    advantage = sums[:, :, NONSPEECH] - sums[:, :, SPEECH]
    batch, boundaries = advantage.shape
    minimum = (topology.min_nonspeech, topology.min_speech)
    cost = (topology.to_nonspeech_cost, topology.to_speech_cost)

    best = [torch.full_like(advantage, -math.inf) for _ in minimum]  # without C(t)
    # entry[class][:, t]: score of entering the class at boundary t - minimum.
    entry = [advantage.new_full((batch, boundaries + duration), -math.inf) for duration in minimum]
    for scores, duration in zip(entry, minimum):
        scores[:, duration] = 0.0
    block = min(minimum)
    for first in range(1, boundaries, block):
        end = min(first + block, boundaries)
        for scores, entered in zip(best, entry):
            window = entered[:, first:end].clone()
            window[:, 0] = torch.maximum(window[:, 0], scores[:, first - 1])
            scores[:, first:end] = window.cummax(dim=1).values
        change = advantage[:, first:end]
        for kind, sign in ((NONSPEECH, -1.0), (SPEECH, 1.0)):
            shift = minimum[kind]
            entry[kind][:, first + shift : end + shift] = best[1 - kind][:, first:end] + sign * change - cost[kind]

    ends = torch.tensor(lengths, device=sums.device)
    rows = torch.arange(batch, device=sums.device)
    totals = torch.stack([scores[rows, ends] for scores in best], dim=1) + sums[rows, ends]
    rising = [scores.cpu().numpy() for scores in best]
    return [
        _trace_back([scores[row, : length + 1] for scores in rising], minimum, total)
        for row, (length, total) in enumerate(zip(lengths, totals.cpu().numpy()))
    ]


def _trace_back(best: List[np.ndarray], minimum: Tuple[int, int], totals: np.ndarray) -> Path:
    """Trace the path back through the running maxima of one recording."""
    end = len(best[SPEECH]) - 1
    speech = np.zeros(end, bool)
    kind = SPEECH if totals[SPEECH] >= totals[NONSPEECH] else NONSPEECH
    score = float(totals[kind])
    while end > 0:
        # This maximum first appears where the segment reaches its minimum duration, and so tells where it began.
        reached = np.searchsorted(best[kind][: end + 1], best[kind][end], side="left")
        start = int(reached) - minimum[kind]
        speech[start:end] = kind == SPEECH
        end, kind = start, 1 - kind
    return Path(speech, score)
