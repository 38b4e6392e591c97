"""Segments of recordings from a class per frame, with the rules of Kaldi's utils/segmentation.pl.

The classes are 0 (silence), 1 (noise and other sounds) and 2 (speech). A segment is a stretch of frames, first
included, last excluded. This module imports the standard library only, because the scripts in utils/ should start fast.
"""

from dataclasses import dataclass
from typing import List, Sequence, Tuple

from sdpn_k2.errors import InputError

SILENCE, NOISE, SPEECH = 0, 1, 2


@dataclass(frozen=True)
class SegmentationRules:
    """What :func:`find_segments` aims at; times are in seconds.

    Attributes:
        silence_proportion: share of silence in all segments of a recording.
        frame_shift: time from one frame to the next.
        max_segment_length: segments that touch are merged up to this length.
        hard_max_segment_length: longer segments are cut into equal pieces.
        remove_noise_only: leave out segments without speech.
    """

    silence_proportion: float = 0.2
    frame_shift: float = 0.01
    max_segment_length: float = 15.0
    hard_max_segment_length: float = 30.0
    remove_noise_only: bool = True

    def __post_init__(self) -> None:
        """Raise InputError for a value that Kaldi refuses."""
        for name, low, high in (
            ("silence_proportion", 0.01, 0.99),
            ("frame_shift", 0.0001, 1.0),
            ("max_segment_length", 1.0, 100.0),
            ("hard_max_segment_length", 4.0, 500.0),
        ):
            value = getattr(self, name)
            if not (low < value < high or (name == "frame_shift" and value == high)):
                option = name.replace("_", "-")
                raise InputError(f"--{option} {value:.15g} should lie between {low:g} and {high:g}")
        if self.hard_max_segment_length < self.max_segment_length:
            raise InputError("--hard-max-segment-length cannot be less than --max-segment-length")


def find_segments(
    classes: Sequence[int], rules: SegmentationRules, recording: str, warnings: List[str]
) -> List[Tuple[int, int]]:
    """Return the segments of a recording as (first, end) in frames.

    Stretches of sound grow into the silence around them until the share of silence is reached. Then segments that touch
    are merged, those with the least silence between them first, and long ones are cut.

    Args:
        classes: class of each frame, at least one.
        rules: what to aim at.
        recording: name for the warnings.
        warnings: gets a sentence, as Kaldi words it, for whatever could not be reached.
    """
    edges = _Edges(classes)
    edges.grow(rules, recording, warnings)
    edges.merge(rules)
    edges.cut(rules, recording, warnings)
    segments = edges.segments()
    if rules.remove_noise_only:
        segments = [(first, end) for first, end in segments if SPEECH in classes[first:end]]
    if not segments:
        warnings.append(f"no segments for recording {recording}")
    return segments


def segment_lines(
    segments: Sequence[Tuple[int, int]], recording: str, frame_shift: float, separators: Tuple[str, str] = ("-", "-")
) -> List[str]:
    """Return the lines of a segments file, ``<recording>-<start>-<end> <recording> start end``.

    Names hold the times in hundredths of a second, with as many digits as the last end of the recording needs.
    """
    hundredths = int(100.0 * frame_shift * max((end for _, end in segments), default=0))
    power = digits = 1
    while power < hundredths:
        power, digits = power * 10, digits + 1
    lines = []
    for frames in segments:
        times = [f"{frame_shift * frame:.2f}" for frame in frames]
        start, end = (f"{float(time) * 100:0{digits}.0f}" for time in times)
        lines.append(f"{recording}{separators[0]}{start}{separators[1]}{end} {recording} {times[0]} {times[1]}")
    return lines


class _Edges:
    """Where segments start and end. A frame may be both: the end of a segment and the start of the next."""

    def __init__(self, classes: Sequence[int]) -> None:
        self.sound = [each != SILENCE for each in classes]
        before, after = [False, *self.sound], [*self.sound, False]
        self.starts = [now and not last for last, now in zip(before, after)]
        self.ends = [last and not now for last, now in zip(before, after)]

    def grow(self, rules: SegmentationRules, recording: str, warnings: List[str]) -> None:
        """Move the edges outwards in turn, one frame each, until enough silence lies inside."""
        count = len(self.sound)
        active = [frame for frame in range(count + 1) if self.starts[frame] or self.ends[frame]]
        sound = inside = sum(self.sound)
        if not sound:
            warnings.append(f"no segments found for recording {recording}")
            return
        target = int(sound / (1.0 - rules.silence_proportion))
        moved = True
        while inside < target and moved:
            moved = False
            for index, frame in enumerate(active):
                start, end = self.starts[frame], self.ends[frame]
                if start == end:  # it touches another segment
                    continue
                step = 1 if end else -1
                if not 0 <= frame + step <= count:
                    continue
                edges = self.ends if end else self.starts
                edges[frame], edges[frame + step] = False, True
                active[index] = frame + step
                inside += 1
                moved = True
                if inside == target:
                    break
        if inside < target:
            warnings.append(
                f"for recording {recording}, only got a proportion {(inside - sound) / inside:.15g} of silence frames, "
                f"versus target {rules.silence_proportion:.15g}"
            )

    def merge(self, rules: SegmentationRules) -> None:
        """Join segments that touch, unless the result is too long."""
        boundaries = [frame for frame in range(len(self.sound)) if self.starts[frame] and self.ends[frame]]
        for frame in sorted(boundaries, key=self._silence_around):
            first, end = frame - 1, frame + 1
            while not self.starts[first]:
                first -= 1
            while not self.ends[end]:
                end += 1
            if (end - first) * rules.frame_shift <= rules.max_segment_length:
                self.starts[frame] = self.ends[frame] = False

    def _silence_around(self, frame: int) -> int:
        """Return the number of silent frames without a gap on both sides of the start of ``frame``."""
        end, first = frame, frame
        while end < len(self.sound) and not self.sound[end]:
            end += 1
        while first > 0 and not self.sound[first - 1]:
            first -= 1
        return end - first

    def cut(self, rules: SegmentationRules, recording: str, warnings: List[str]) -> None:
        """Cut segments that are too long into the fewest equal pieces."""
        most = int(rules.hard_max_segment_length / rules.frame_shift)
        for first, end in self.segments():
            if end - first <= most:
                continue
            pieces = int((end - first) / most + 0.99999)
            seconds = (end - first) * rules.frame_shift
            warnings.append(
                f"for recording {recording}, splitting segment of length {seconds:.15g} seconds "
                f"into {pieces} pieces (--hard-max-segment-length {rules.hard_max_segment_length:.15g})"
            )
            for piece in range(1, pieces):
                edge = first + piece * ((end - first) // pieces)
                self.starts[edge] = self.ends[edge] = True

    def segments(self) -> List[Tuple[int, int]]:
        """Return the segments as (first, end)."""
        frames = range(len(self.sound) + 1)
        return list(zip((n for n in frames if self.starts[n]), (n for n in frames if self.ends[n])))
