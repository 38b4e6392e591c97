"""Speech and non-speech by Viterbi decoding: each segment lasts at least its minimum, each change of class has a cost.

    waveforms ── log_energy ──► frames ── two_gaussians (or any classifier) ──► log-likelihoods ── decode ──► labels

A path through a recording is a sequence of segments, speech and non-speech in turn, that covers all of its frames.
Its score is the sum of the log-likelihoods of its frames, each under the class of its segment, less the cost of each
change. :class:`Topology` says which paths there are; :func:`viterbi` finds the best one with torch,
:func:`sdpn_k2.signal.k2_segmentation.viterbi` the same with k2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d
from torch.nn.utils.rnn import pad_sequence

from sdpn_k2.errors import InputError

NONSPEECH, SPEECH = 0, 1  # columns of log-likelihoods

FRAME_SECONDS, SHIFT_SECONDS = 0.025, 0.010  # Kaldi's frames, so that decisions fit features
# Energy of a frame without sound: less than that of a single 16-bit step among its neighbours.
SILENCE = 1e-11

CONTEXT = 7  # frames

EM_ITERATIONS = 30
VARIANCE_FLOOR = 0.03  # nat²; a standard deviation of 0.75 dB
MIN_CONTRAST = 0.3  # nat; two levels less than 1.3 dB apart are one


@dataclass(frozen=True)
class Topology:
    """Which segmentations there are, and what a change of class costs. Durations are in frames, costs in nats.

    Each class is a chain of as many states as its minimum duration, passed one frame at a time; the last one loops and
    leads to the first one of the other class. A path starts with the first state of either chain and ends in the last
    one, so that every segment reaches its minimum, also the first and the last. In a recording that is itself shorter
    than a minimum, that minimum is the recording's length: it may be one segment of either class.

    Costs are large against the log-likelihood of a frame because neighbouring frames say nearly the same.
    """

    min_speech: int = 20
    min_nonspeech: int = 30
    to_speech_cost: float = 30.0
    to_nonspeech_cost: float = 30.0

    def __post_init__(self):
        if self.min_speech < 1 or self.min_nonspeech < 1:
            raise InputError(
                f"minimum durations of {self.min_speech} and {self.min_nonspeech} frames: at least 1 is needed"
            )
        if not (math.isfinite(self.to_speech_cost) and math.isfinite(self.to_nonspeech_cost)):
            raise InputError(f"transition costs {self.to_speech_cost} and {self.to_nonspeech_cost} must be finite")

    def fitted(self, num_frames: int) -> Topology:
        """This topology for a recording of ``num_frames``."""
        if num_frames >= max(self.min_speech, self.min_nonspeech):
            return self
        return Topology(
            min(self.min_speech, num_frames),
            min(self.min_nonspeech, num_frames),
            self.to_speech_cost,
            self.to_nonspeech_cost,
        )


class Path(NamedTuple):
    """The best path of a recording: ``speech`` bool (frames,), and its score in nats."""

    speech: np.ndarray
    score: float


# From the frames of several recordings, (frames, …) each, to their log-likelihoods, (frames, 2): non-speech, speech.
Classifier = Callable[[Sequence[Tensor]], List[Tensor]]
# From log-likelihoods, (frames, 2) for each recording, to the best paths.
Decoder = Callable[[Sequence[Tensor], Topology], List[Path]]


def segment(
    frames: Sequence[Tensor],
    topology: Topology = Topology(),
    classify: Classifier = None,
    decode: Decoder = None,
) -> List[Path]:
    """Label the frames of several recordings.

    Args:
        frames: what ``classify`` takes, (frames, …) for each recording; by default log energies (frames,).
        classify: the frame classifier, by default :func:`two_gaussians`. Priors, if any, are part of what it returns.
        decode: by default :func:`viterbi`; :func:`sdpn_k2.signal.decoders.find_decoder` finds that of a backend.

    Raises:
        InputError: the classifier returned something other than a finite (frames, 2) for each recording.
    """
    log_likelihoods = (classify or two_gaussians)(frames)
    for index, (recording, values) in enumerate(zip(frames, log_likelihoods)):
        if values.shape != (len(recording), 2):
            raise InputError(
                f"recording {index}: log-likelihoods of shape {tuple(values.shape)} for {len(recording)} frames: "
                f"expected ({len(recording)}, 2), non-speech and speech"
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

    >>> spans(np.array([False, True, True, False, True]))
    [(1, 3), (4, 5)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], speech, [False]]).astype(np.int8)))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


# The two-Gaussian model of log energy


def log_energy(waveform: Tensor, rate: int) -> Tensor:
    """The log energy around each frame: waveform (samples,) in ±1 → float32 (frames,).

    The energy of a frame, its mean taken off, is averaged with that of ``CONTEXT`` frames on either side: syllables
    stand out from noise better than phones do. There are as many frames as in Kaldi's features with
    ``--snip-edges=true``.
    """
    length, shift = frame_samples(rate)
    if len(waveform) < length:
        return waveform.new_zeros(0)
    # The variance is taken of a view: frames are not copied, and constant ones have none.
    energy = waveform.unfold(0, length, shift).var(dim=1, unbiased=False) * length
    mean = avg_pool1d(energy[None, None], 2 * CONTEXT + 1, 1, CONTEXT, count_include_pad=False)[0, 0]
    return mean.clamp_min(SILENCE).log()


def frame_samples(rate: int) -> Tuple[int, int]:
    """Length and shift of frames, in samples."""
    return max(1, int(rate * FRAME_SECONDS)), max(1, int(rate * SHIFT_SECONDS))


def two_gaussians(log_energies: Sequence[Tensor]) -> List[Tensor]:
    """Log-likelihoods of non-speech and speech under two Gaussians fitted to each recording by EM.

    The quieter Gaussian is non-speech. Frames without any sound (zeros, as gates and padding leave them) are not
    fitted. A frame quieter than the mean of non-speech, or louder than that of speech, counts as if it were at that
    mean: so the evidence for speech never falls as energy rises, as it would in the tails of Gaussians of unequal
    variance. Weights of the Gaussians are fitted but not applied. A recording of one level only (``MIN_CONTRAST``) has
    no speech.

    Args:
        log_energies: (frames,) for each recording, from :func:`log_energy`.

    Returns:
        Float64 (frames, 2) for each recording, on the device of its log energies.
    """
    lengths = [len(values) for values in log_energies]
    if not max(lengths, default=0):
        return [values.new_zeros((0, 2), dtype=torch.float64) for values in log_energies]
    values = pad_sequence([energies.double() for energies in log_energies], batch_first=True)
    frame = torch.arange(values.shape[1], device=values.device)
    # A margin above the floor: its logarithm was rounded.
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
    """Means, in rising order, and variances, (recordings, 2) each, by EM from the quartiles.

    Fitted to those ``values`` (recordings, frames) that are ``used``.
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


def viterbi(log_likelihoods: Sequence[Tensor], topology: Topology = Topology()) -> List[Path]:
    """The best path of each recording, (frames, 2) each, with torch, in float64, on their device.

    Among paths of equal score it is one that ends in speech, if there is one; then the one whose last segment is the
    longest, then the last but one, and so on.
    """
    paths: List[Path] = [Path(np.zeros(0, bool), 0.0)] * len(log_likelihoods)
    groups: dict = {}
    for index, values in enumerate(log_likelihoods):
        if len(values):
            groups.setdefault(topology.fitted(len(values)), []).append(index)
    for fitted, indices in groups.items():
        for index, path in zip(indices, _viterbi([log_likelihoods[index] for index in indices], fitted)):
            paths[index] = path
    return paths


def _viterbi(log_likelihoods: List[Tensor], topology: Topology) -> List[Path]:
    """The same for recordings none of which is shorter than a minimum duration.

    A path that is in a class at boundary t (between frames t - 1 and t), its segment long enough, entered that class at
    some boundary u ≤ t - minimum. With C(t) the sum of the class's log-likelihoods before t, its score is

        C(t) + max over u ≤ t - minimum of [best score of the other class at u - cost - C(u)]

    so that, with C(t) taken off, the scores of a class are a running maximum of entries, and to look back takes only
    the boundaries where that maximum rose. As entries count no sooner than a minimum duration later, boundaries are
    done in blocks of the shorter of the two.
    """
    lengths = [len(values) for values in log_likelihoods]
    sums = pad_sequence([values.double() for values in log_likelihoods], batch_first=True).cumsum(dim=1)
    sums = torch.cat([torch.zeros_like(sums[:, :1]), sums], dim=1)
    advantage = sums[:, :, NONSPEECH] - sums[:, :, SPEECH]
    batch, boundaries = advantage.shape
    minimum = (topology.min_nonspeech, topology.min_speech)
    cost = (topology.to_nonspeech_cost, topology.to_speech_cost)

    best = [torch.full_like(advantage, -math.inf) for _ in minimum]  # less C(t)
    # entry[class][:, t]: score of what entered the class at boundary t - minimum.
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
    """The path through the running maxima of one recording, from its end."""
    end = len(best[SPEECH]) - 1
    speech = np.zeros(end, bool)
    kind = SPEECH if totals[SPEECH] >= totals[NONSPEECH] else NONSPEECH
    score = float(totals[kind])
    while end > 0:
        # The first boundary with this maximum is the soonest at which the segment, entered when it was, may end.
        reached = np.searchsorted(best[kind][: end + 1], best[kind][end], side="left")
        start = int(reached) - minimum[kind]
        speech[start:end] = kind == SPEECH
        end, kind = start, 1 - kind
    return Path(speech, score)
