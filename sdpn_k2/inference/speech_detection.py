"""Which frames of a data set are speech: decisions for Kaldi, segments for Kaldi and lhotse."""

from __future__ import annotations

import itertools
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from lhotse import SupervisionSegment
from torch import Tensor

from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.errors import InputError
from sdpn_k2.files import make_folder
from sdpn_k2.kaldi.datadir.data_dir import read_map, validate, write_map
from sdpn_k2.kaldi.datadir.subsegments import check_no_overlap
from sdpn_k2.kaldi.datadir.utterances import Part, cut_part, read_parts, read_wave_entry, sample_range
from sdpn_k2.kaldi.features.wave import Wave
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter, is_table, parse_rspecifier, read_table, script_lines
from sdpn_k2.pcm import from_int16
from sdpn_k2.signal.segmentation import Decoder, Topology, frame_samples, log_energy, segment, spans, two_gaussians

log = logging.getLogger(__name__)

# Utterances that are decoded together, and their frames, counted as often as the longest has.
BATCH_UTTERANCES = 64
BATCH_FRAMES = 200_000


class Utterance(NamedTuple):
    """A stretch of a recording: where it starts in it (in samples), and its samples, float32 in ±1.

    ``channel`` is None where the recording has one and nobody named it.
    """

    id: str
    recording: str
    speaker: str
    start: int
    channel: Optional[int]
    samples: np.ndarray
    rate: int


@dataclass
class VadSummary:
    """Counts of one run."""

    utterances: int = 0
    skipped: int = 0
    frames: int = 0
    speech_frames: int = 0
    segments: int = 0

    def lines(self) -> str:
        """The summary for people."""
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
    device: torch.device,
    log_likelihoods: Optional[str] = None,
) -> VadSummary:
    """Find the speech in recordings, and write into the folder ``output``::

        vad.ark, vad.scp            utterance → vector of 0 and 1, one for each frame of its features
        segments, utt2spk           Kaldi's tables of the speech segments
        supervisions.jsonl.gz       the same for lhotse

    Frames are those of Kaldi's features at 25 ms every 10 ms with ``--snip-edges=true``. A segment spans all samples of
    its frames, so that features of the segment are exactly the features of those frames. Utterances without speech have
    decisions and no segments. Utterances that cannot be read, end beyond their recording or are shorter than one frame
    are skipped with a warning. Segments that overlap, as utterances that do may have, are named in a warning.

    Args:
        source: a Kaldi data directory (with or without ``segments``), or an rspecifier of wave files; the utterances of
            the latter are their own recordings and speakers. Of several channels that is taken which ``segments``
            names, else the first.
        output: made if missing.
        topology, decode: see :mod:`sdpn_k2.signal.segmentation`.
        device: where energies are modelled, and paths decoded.
        log_likelihoods: an rspecifier of matrices (frames, 2), non-speech and speech, from a classifier of your own,
            instead of the model of log energy.

    Raises:
        InputError: the data directory or table is broken, nothing could be used, files cannot be written.
    """
    summary, failed = VadSummary(), []
    batches = _batches(_with_frames(_read(source, failed), log_likelihoods, device, failed))
    first_batch = next(batches, None)
    if first_batch is None:
        raise InputError(f"{source}: not one usable utterance" + (f"; the first: {failed[0]}" if failed else ""))
    make_folder(output)
    output = output.resolve()  # vad.scp holds for any working directory
    classify = two_gaussians if log_likelihoods is None else list
    segments: Dict[str, Part] = {}
    speakers: Dict[str, str] = {}
    with TableWriter(f"ark,scp:{output}/vad.ark,{output}/vad.scp", "vector") as writer:
        for batch in itertools.chain([first_batch], batches):
            paths = segment([frames for _, frames in batch], topology, classify, decode)
            for (utterance, _), path in zip(batch, paths):
                writer.write(utterance.id, path.speech.astype(np.float32))
                summary.frames += len(path.speech)
                summary.speech_frames += int(path.speech.sum())
                for first, end in spans(path.speech):
                    name = f"{utterance.id}-{first:07d}-{end:07d}"
                    segments[name] = _segment(name, utterance, first, end)
                    speakers[name] = utterance.speaker
            summary.utterances += len(batch)
        for message in failed:
            log.warning("skipped %s", message)
    summary.skipped, summary.segments = len(failed), len(segments)
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
        log.warning("%s; sdpn-k2 extract-windows refuses such segments", error)
    return summary


def _segment(name: str, utterance: Utterance, first: int, end: int) -> Part:
    """The samples of frames ``first`` to ``end`` - 1, as times in the recording."""
    length, shift = frame_samples(utterance.rate)
    start = _seconds(utterance.start + first * shift, utterance.rate)
    stop = _seconds(utterance.start + (end - 1) * shift + length, utterance.rate)
    return Part(name, utterance.recording, start, stop, utterance.channel)


def _fields(part: Part) -> Tuple[object, ...]:
    """A line of ``segments`` after its key: the channel stands there only where it was named."""
    return part[1:] if part.channel is not None else part[1:4]


def _seconds(sample: int, rate: int) -> float:
    """Microseconds precise, and such that Kaldi's tools, which multiply by the rate and round down, find ``sample``."""
    time = round(sample / rate, 6)
    return time if int(time * rate) == sample else round(time + 1e-6, 6)


# Reading


def _read(source: str, failed: List[str]) -> Iterator[Utterance]:
    if os.path.isdir(source):
        yield from _read_data_dir(Path(source), failed)
    elif is_table(source):
        yield from _read_table(source, failed)
    else:
        raise InputError(f"{source}: neither a data directory nor an rspecifier such as scp:wav.scp")


def _read_data_dir(directory: Path, failed: List[str]) -> Iterator[Utterance]:
    validate(directory, feats=False, text=False)
    speakers = read_map(directory / "utt2spk")
    recordings = RandomReader(f"scp:{directory / 'wav.scp'}", "wave")
    recording, wave = None, None
    for part in read_parts(directory):
        try:
            if part.recording != recording:  # the segments of a recording mostly stand together
                recording, wave = None, recordings[part.recording]
                recording = part.recording
            yield _cut(part, speakers[part.utterance], wave)
        except InputError as error:
            failed.append(f"utterance {part.utterance}: {error}")


def _read_table(rspecifier: str, failed: List[str]) -> Iterator[Utterance]:
    script = parse_rspecifier(rspecifier).script
    if script is None:  # an archive: what follows broken audio cannot be found in it
        for key, wave in read_table(rspecifier, "wave"):
            yield _cut(Part(key, key), key, wave)
        return
    for key, entry in script_lines(script):
        try:
            yield _cut(Part(key, key), key, read_wave_entry(entry))
        except InputError as error:
            failed.append(f"utterance {key}: {error}")


def _cut(part: Part, speaker: str, wave: Wave) -> Utterance:
    if part.channel is None and len(wave.samples) > 1:
        log.warning("%s: %d channels; taking the first", part.recording, len(wave.samples))
        part = part._replace(channel=0)
    start, _ = sample_range(part, wave.rate, wave.samples.shape[1])
    samples = from_int16(cut_part(wave, part))
    return Utterance(part.utterance, part.recording, speaker, start, part.channel, samples, wave.rate)


def _with_frames(
    utterances: Iterator[Utterance], log_likelihoods: Optional[str], device: torch.device, failed: List[str]
) -> Iterator[Tuple[Utterance, Tensor]]:
    """Each utterance, its samples dropped, and what the classifier takes: log energies, or log-likelihoods as given."""
    table = RandomReader(log_likelihoods, "matrix") if log_likelihoods else None
    for utterance in utterances:
        frames = log_energy(torch.from_numpy(utterance.samples).to(device), utterance.rate)
        if not len(frames):
            failed.append(f"utterance {utterance.id}: {len(utterance.samples)} samples are shorter than a frame")
            continue
        if table is not None:
            matrix = table.get(utterance.id)
            if matrix is None or matrix.shape != (len(frames), 2) or not np.isfinite(matrix).all():
                found = "none" if matrix is None else f"a matrix of {matrix.shape[0]} × {matrix.shape[1]} numbers"
                failed.append(
                    f"utterance {utterance.id}: expected {len(frames)} × 2 finite log-likelihoods, found {found} "
                    f"in {log_likelihoods}"
                )
                continue
            frames = torch.from_numpy(matrix).to(device)
        yield utterance._replace(samples=utterance.samples[:0]), frames


def _batches(items: Iterator[Tuple[Utterance, Tensor]]) -> Iterator[List[Tuple[Utterance, Tensor]]]:
    batch: List[Tuple[Utterance, Tensor]] = []
    longest = 0
    for item in items:
        longest = max(longest, len(item[1]))
        if batch and (len(batch) == BATCH_UTTERANCES or longest * (len(batch) + 1) > BATCH_FRAMES):
            yield batch
            batch, longest = [], len(item[1])
        batch.append(item)
    if batch:
        yield batch
