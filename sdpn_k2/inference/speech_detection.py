"""Speech detection in a data set: decisions for Kaldi, and speech segments for Kaldi and lhotse."""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import numpy as np
import torch
from lhotse import SupervisionSegment
from lhotse.cut import Cut, MixedCut, PaddingCut
from lhotse.utils import fastcopy
from torch import Tensor

from sdpn_k2.data.cut_sets import CutSetReader, is_cut_set, load_cut_audio
from sdpn_k2.data.manifest_files import WRITTEN, manifest_writer, write_manifest
from sdpn_k2.errors import InputError, Skipped, check_skip_bad
from sdpn_k2.files import make_folder
from sdpn_k2.kaldi.datadir.data_dir import read_map, write_map
from sdpn_k2.kaldi.datadir.subsegments import check_no_overlap
from sdpn_k2.kaldi.datadir.utterances import Part, cut_part, read_parts, read_wave_entry, sample_range
from sdpn_k2.kaldi.datadir.validation import validate
from sdpn_k2.kaldi.features.wave import Wave
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter, is_table, parse_rspecifier, read_table, script_lines
from sdpn_k2.pcm import from_int16
from sdpn_k2.signal.segmentation import Decoder, Topology, frame_samples, log_energy, segment, spans, two_gaussians

log = logging.getLogger(__name__)

# Limits of a batch that is decoded at once: utterances, and frames when all are as long as the longest.
BATCH_UTTERANCES = 64
BATCH_FRAMES = 200_000


class Utterance(NamedTuple):
    """A stretch of a recording."""

    id: str
    recording: str
    speaker: str
    start: int  # first sample in the recording
    channel: Optional[int]  # None if the recording has one channel, and ``segments`` does not name it
    samples: np.ndarray  # float32 in ±1
    rate: int


# The input of the classifier for an utterance: its log energies (frames,), or its log-likelihoods (frames, 2).
Frames = Tuple[Utterance, Tensor]


@dataclass
class VadSummary:
    """Counts of one run."""

    utterances: int = 0
    skipped: int = 0
    frames: int = 0
    speech_frames: int = 0
    segments: int = 0

    def lines(self) -> str:
        """Format the summary for people."""
        share = self.speech_frames / max(1, self.frames)
        return (
            f"{self.utterances} utterances, {self.skipped} skipped; {100 * share:.1f} % of {self.frames} frames are "
            f"speech, in {self.segments} segments"
        )


def detect_speech(
    source: str,
    output: Path,
    topology: Topology,
    decode: Decoder,
    *,
    device: torch.device,
    log_likelihoods: Optional[str] = None,
    skip_bad: bool = False,
) -> VadSummary:
    """Find the speech in recordings, and write these files into the folder ``output``::

        vad.ark, vad.scp            utterance → vector of 0 and 1, one for each frame of its features
        segments, utt2spk           Kaldi's tables of the speech segments
        supervisions.jsonl.gz       the same for lhotse
        cuts.jsonl.gz               from cuts: the cuts, with the speech segments as their supervisions

    Frames are those of Kaldi's features: 25 ms every 10 ms with ``--snip-edges=true``. A segment spans all samples of
    its frames, so the features of the segment equal the features of those frames. An utterance without speech has
    decisions but no segments. Utterances that cannot be read, end after their recording or are shorter than one frame
    are skipped with a warning. Overlapping utterances may lead to overlapping segments, which a warning names.

    Args:
        source: a Kaldi data directory (with or without ``segments``), an rspecifier of wave files, or lhotse's cuts or
            recordings (a manifest or a Shar folder). Each utterance of an rspecifier is its own recording and speaker,
            and each padded, appended or mixed cut its own recording. In files with several channels, the first is used
            unless ``segments`` names another.
        output: folder to write, made if missing; or, from cuts, ``x.jsonl`` or ``x.jsonl.gz``, which gets only cuts.
        topology: the segmentations that are possible, see :mod:`sdpn_k2.signal.segmentation`.
        decode: the decoder, see :mod:`sdpn_k2.signal.segmentation`.
        device: device that computes energies and decodes.
        log_likelihoods: an rspecifier of matrices (frames, 2), non-speech and speech, from a classifier of your own.
            It replaces the model of log energy.
        skip_bad: accept that more than 5 % of the utterances are skipped, as long as one is not.

    Raises:
        InputError: a broken data directory or table; too many utterances skipped; files that cannot be written.
    """
    if str(output).endswith(WRITTEN):
        if not is_cut_set(Path(source)):
            raise InputError(f"{output}: only cuts are written with their speech, but {source} is not a set of cuts")
        with tempfile.TemporaryDirectory() as folder:
            summary, starts, segments = _detect(
                source, Path(folder), topology, decode, device, log_likelihoods, skip_bad
            )
        _write_cuts(CutSetReader(Path(source)), output, starts, segments)
        return summary
    summary, starts, segments = _detect(source, output, topology, decode, device, log_likelihoods, skip_bad)
    if not is_table(source) and is_cut_set(Path(source)):
        _write_cuts(CutSetReader(Path(source)), output / "cuts.jsonl.gz", starts, segments)
    return summary


def _detect(
    source: str,
    output: Path,
    topology: Topology,
    decode: Decoder,
    device: torch.device,
    log_likelihoods: Optional[str],
    skip_bad: bool,
) -> Tuple[VadSummary, Dict[str, float], Dict[str, List[Part]]]:
    """Write the folder; return the counts, and of each utterance the time in its recording and the speech segments."""
    skipped: List[Skipped] = []
    batches = _batches(_with_frames(_read(source), log_likelihoods, device))
    for first_batch in batches:
        if not isinstance(first_batch, Skipped):
            break
        skipped.append(first_batch)
    else:
        example = f"; the first is '{skipped[0].key}': {skipped[0].reason}" if skipped else ""
        raise InputError(f"{source}: no usable utterances{example}")
    make_folder(output)
    output = output.resolve()  # so that vad.scp is valid in any working directory
    classify = two_gaussians if log_likelihoods is None else list
    summary = VadSummary()
    segments: Dict[str, Part] = {}
    speakers: Dict[str, str] = {}
    starts: Dict[str, float] = {}
    parts: Dict[str, List[Part]] = defaultdict(list)
    with TableWriter(f"ark,scp:{output}/vad.ark,{output}/vad.scp", "vector") as writer:
        for batch in itertools.chain([first_batch], batches):
            if isinstance(batch, Skipped):
                skipped.append(batch)
                continue
            paths = segment([frames for _, frames in batch], topology, classify, decode)
            for (utterance, _), path in zip(batch, paths):
                writer.write(utterance.id, path.speech.astype(np.float32))
                starts[utterance.id] = utterance.start / utterance.rate
                summary.frames += len(path.speech)
                summary.speech_frames += int(path.speech.sum())
                for first, end in spans(path.speech):
                    name = f"{utterance.id}-{first:07d}-{end:07d}"
                    segments[name] = _segment(name, utterance, first, end)
                    parts[utterance.id].append(segments[name])
                    speakers[name] = utterance.speaker
            summary.utterances += len(batch)
        for key, reason in skipped:
            log.warning("skipped utterance %s: %s", key, reason)
        total = summary.utterances + len(skipped)
        check_skip_bad(skipped, total, skip_bad, where=source)
    summary.skipped, summary.segments = len(skipped), len(segments)
    _write_segments(output, segments, speakers)
    return summary, starts, parts


def _write_cuts(cuts: Iterable[Cut], output: Path, starts: Dict[str, float], segments: Dict[str, List[Part]]) -> None:
    """Write the cuts that could be used, with their speech segments in place of their supervisions."""
    with manifest_writer(output) as write:
        for cut in cuts:
            if cut.id in starts:
                write(_with_speech(cut, starts[cut.id], segments[cut.id]))


def _with_speech(cut: Cut, start: float, segments: Sequence[Part]) -> Cut:
    """Return the cut with speech segments, whose times are those of the recording in which it starts at ``start``."""
    speaker, channel = _speaker(cut), getattr(cut, "channel", 0)
    found = [
        SupervisionSegment(
            part.utterance,
            part.recording,
            round(part.start - start, 6),
            round(part.end - part.start, 6),
            channel,
            speaker=speaker,
        )
        for part in segments
    ]
    bare = cut.drop_supervisions()
    if not isinstance(bare, MixedCut):
        return fastcopy(bare, supervisions=found)
    # Supervisions belong to tracks: each to the last one with audio that has begun.
    tracks = list(bare.tracks)
    audible = [at for at, track in enumerate(tracks) if not isinstance(track.cut, PaddingCut)]
    for each in found:
        at = max((at for at in audible if tracks[at].offset <= each.start), key=lambda at: tracks[at].offset, default=0)
        at = at if at in audible else audible[0]
        own = each.with_offset(-tracks[at].offset)
        track = tracks[at].cut
        tracks[at] = fastcopy(tracks[at], cut=fastcopy(track, supervisions=[*track.supervisions, own]))
    return fastcopy(bare, tracks=tracks)


def _speaker(cut: Cut) -> Optional[str]:
    speakers = {supervision.speaker for supervision in cut.supervisions}
    return speakers.pop() if len(speakers) == 1 else None


def _write_segments(output: Path, segments: Dict[str, Part], speakers: Dict[str, str]) -> None:
    """Write the speech segments for Kaldi and lhotse, and warn of overlaps."""
    write_map(output / "segments", {name: _fields(part) for name, part in segments.items()})
    write_map(output / "utt2spk", speakers)
    supervisions = (
        SupervisionSegment(
            name, part.recording, part.start, round(part.end - part.start, 6), part.channel or 0, speaker=speakers[name]
        )
        for name, part in segments.items()
    )
    write_manifest(supervisions, output / "supervisions.jsonl.gz", allow_empty=True)
    try:
        check_no_overlap(list(segments.values()), str(output / "segments"))
    except InputError as error:
        log.warning("%s; sdpn-k2 extract-windows does not accept overlaps", error)


def _segment(name: str, utterance: Utterance, first: int, end: int) -> Part:
    """Return the times in the recording that the samples of frames ``first`` to ``end`` - 1 span."""
    length, shift = frame_samples(utterance.rate)
    start = _seconds(utterance.start + first * shift, utterance.rate)
    stop = _seconds(utterance.start + (end - 1) * shift + length, utterance.rate)
    return Part(name, utterance.recording, start, stop, utterance.channel)


def _fields(part: Part) -> Tuple[object, ...]:
    """Return the fields of a line of ``segments`` after its key; the channel is written only if it was named."""
    return part[1:] if part.channel is not None else part[1:4]


def _seconds(sample: int, rate: int) -> float:
    """Return a sample's time in seconds, in whole microseconds, from which Kaldi's truncation gives the same sample."""
    time = round(sample / rate, 6)
    return time if int(time * rate) == sample else round(time + 1e-6, 6)


# Reading


def _read(source: str) -> Iterator[Union[Utterance, Skipped]]:
    if is_table(source):
        return _read_table(source)
    if is_cut_set(Path(source)):
        return _read_cuts(CutSetReader(Path(source)))
    if os.path.isdir(source):
        return _read_data_dir(Path(source))
    raise InputError(f"{source}: not a data directory, an rspecifier such as scp:wav.scp, or a set of cuts")


def _read_cuts(cuts: Iterable[Cut]) -> Iterator[Union[Utterance, Skipped]]:
    seen: Set[str] = set()
    for cut in cuts:
        if cut.id in seen:
            raise InputError(f"duplicate cut '{cut.id}'")
        seen.add(cut.id)
        try:
            samples = load_cut_audio(cut)
        except InputError as error:
            yield Skipped(cut.id, str(error))
            continue
        recording, start, channel = cut.id, 0, None
        if not isinstance(cut, MixedCut):
            recording, start = cut.recording_id, round(cut.start * cut.sampling_rate)
            if cut.recording.num_channels > 1:
                channel = cut.channel if isinstance(cut.channel, int) else cut.channel[0]
        yield Utterance(cut.id, recording, _speaker(cut) or cut.id, start, channel, samples, cut.sampling_rate)


def _read_data_dir(directory: Path) -> Iterator[Union[Utterance, Skipped]]:
    validate(directory, feats=False, text=False)
    speakers = read_map(directory / "utt2spk")
    recordings = RandomReader(f"scp:{directory / 'wav.scp'}", "wave")
    recording, wave = None, None
    for part in read_parts(directory):
        try:
            if wave is None or part.recording != recording:  # segments of one recording are mostly adjacent
                wave = None
                recording, wave = part.recording, recordings[part.recording]
            yield _cut(part, speakers[part.utterance], wave)
        except InputError as error:
            yield Skipped(part.utterance, str(error))


def _read_table(rspecifier: str) -> Iterator[Union[Utterance, Skipped]]:
    script = parse_rspecifier(rspecifier).script
    if script is None:  # an archive: nothing after a broken entry can be found
        for key, wave in read_table(rspecifier, "wave"):
            yield _cut(Part(key, key), key, wave)
        return
    for key, entry in script_lines(script):
        try:
            yield _cut(Part(key, key), key, read_wave_entry(entry))
        except InputError as error:
            yield Skipped(key, str(error))


def _cut(part: Part, speaker: str, wave: Wave) -> Utterance:
    if part.channel is None and len(wave.samples) > 1:
        log.warning("%s: %d channels; using the first", part.recording, len(wave.samples))
        part = part._replace(channel=0)
    start, _ = sample_range(part, wave.rate, wave.samples.shape[1])
    samples = from_int16(cut_part(wave, part))
    return Utterance(part.utterance, part.recording, speaker, start, part.channel, samples, wave.rate)


def _with_frames(
    utterances: Iterator[Union[Utterance, Skipped]], log_likelihoods: Optional[str], device: torch.device
) -> Iterator[Union[Frames, Skipped]]:
    """Add the classifier's input to each utterance, and drop its samples."""
    table = RandomReader(log_likelihoods, "matrix") if log_likelihoods else None
    for utterance in utterances:
        if isinstance(utterance, Skipped):
            yield utterance
            continue
        frames = log_energy(torch.from_numpy(utterance.samples).to(device), utterance.rate)
        if not len(frames):
            yield Skipped(utterance.id, f"{len(utterance.samples)} samples are shorter than a frame")
            continue
        if table is not None:
            matrix = table.get(utterance.id)
            if matrix is None or matrix.shape != (len(frames), 2) or not np.isfinite(matrix).all():
                found = "none" if matrix is None else f"a matrix of {matrix.shape[0]} × {matrix.shape[1]} numbers"
                expected = f"expected {len(frames)} × 2 finite log-likelihoods"
                yield Skipped(utterance.id, f"{expected}, found {found} in {log_likelihoods}")
                continue
            frames = torch.from_numpy(matrix).to(device)
        yield utterance._replace(samples=utterance.samples[:0]), frames


def _batches(items: Iterator[Union[Frames, Skipped]]) -> Iterator[Union[List[Frames], Skipped]]:
    """Yield batches of utterances to decode at once; pass on the skipped."""
    batch: List[Frames] = []
    longest = 0
    for item in items:
        if isinstance(item, Skipped):
            yield item
            continue
        longest = max(longest, len(item[1]))
        if batch and (len(batch) == BATCH_UTTERANCES or longest * (len(batch) + 1) > BATCH_FRAMES):
            yield batch
            batch, longest = [], len(item[1])
        batch.append(item)
    if batch:
        yield batch
