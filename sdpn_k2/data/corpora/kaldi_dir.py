"""Prepare existing Kaldi data directories.

A directory needs ``wav.scp`` (plain paths, or ``command |``) and ``utt2spk``. It may have ``segments``; an evaluation
set needs ``trials`` or several ``trials_<name>``. An existing ``feats.scp`` is not used, since the recipe computes
features of its own kind.

Files other than 16-bit mono WAV at the wanted rate become a command that converts them. So do commands at another rate.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Mapping, NamedTuple, Sequence

from sdpn_k2.data.audio_check import MIN_SECONDS, Scan, scan_audio
from sdpn_k2.data.audio_files import SAMPLE_RATE, list_recordings
from sdpn_k2.data.data_folder import (
    clear_set,
    log_set,
    unmark,
    write_augmentation,
    write_eval_sets,
    write_manifests,
    write_skipped,
)
from sdpn_k2.data.kaldi_exchange import read_kaldi_dir
from sdpn_k2.data.recordings import make_recording, wav_scp_entry
from sdpn_k2.data.trial_lists import check_trials, write_trials
from sdpn_k2.errors import MAX_SKIPPED_SHARE, InputError, Skipped, error_context
from sdpn_k2.kaldi.datadir.data_dir import Segment, byte_order, read_map, trial_lists
from sdpn_k2.kaldi.datadir.data_dir_ops import write_data_dir
from sdpn_k2.kaldi.datadir.utterances import Part, read_parts
from sdpn_k2.kaldi.features.wave import parse_to_wav
from sdpn_k2.kaldi.formats.io import commands_are_allowed, require_commands
from sdpn_k2.names import check_name

log = logging.getLogger(__name__)


class Tables(NamedTuple):
    """The tables of a data directory.

    Attributes:
        wav: recording → absolute path or command.
        speakers: utterance → speaker.
        parts: the utterances within their recordings.
        has_segments: whether there is a segments file; otherwise each recording is one utterance.
    """

    wav: dict[str, str]
    speakers: dict[str, str]
    parts: list[Part]
    has_segments: bool


def prepare_kaldi_dirs(
    train: str | Path,
    eval_dirs: Mapping[str, str | Path],
    data: str | Path,
    augmentation: Mapping[str, str | Path] | None = None,
    *,
    num_jobs: int | None = None,
    max_bad: float = 100 * MAX_SKIPPED_SHARE,
    rate: int = SAMPLE_RATE,
) -> list[str]:
    """Write manifests and data directories for existing Kaldi data directories.

    Args:
        train: data directory to train on; its speaker labels are not used for training.
        eval_dirs: name of an evaluation set → its data directory, with trial lists in it.
        data: folder to write to (see :mod:`sdpn_k2.data.data_folder`).
        augmentation: kind (noise, music, speech, rir) → a folder of audio files.
        num_jobs: number of threads; by default one per core.
        max_bad: largest percentage of unusable recordings per set.
        rate: sample rate of the prepared audio in Hz.

    Returns:
        The names of the evaluation sets.

    Raises:
        InputError: a table is missing or wrong (file and line), an evaluation set has no trials, too much unusable
            audio.
    """
    data = Path(data)
    trials = {name: trial_lists(folder) for name, folder in eval_dirs.items()}
    for name, lists in trials.items():
        check_name(name, f"{eval_dirs[name]}: set")
        if not lists:
            raise InputError(f"{eval_dirs[name]}: an evaluation set needs a file trials or trials_<name>")
        if name == "train":
            raise InputError(f"{eval_dirs[name]}: an evaluation set cannot be called train: rename the folder")
    unmark(data)
    # Lists first, since checking the audio may take hours.
    for name, lists in trials.items():
        known = _read_tables(Path(eval_dirs[name])).speakers
        for path in lists:
            check_trials(path, known)
    for name, folder in {"train": train, **eval_dirs}.items():
        scan = import_data_dir(Path(folder), data, name, num_jobs=num_jobs, max_bad=max_bad, rate=rate)
        for path in trials.get(name, []):
            write_trials(path, data / name / path.name, scan)
    kinds = {kind: list_recordings(folder, rate) for kind, folder in (augmentation or {}).items()}
    write_augmentation(data, kinds, num_jobs=num_jobs, max_bad=max_bad, rate=rate)
    write_eval_sets(data, eval_dirs)
    return list(eval_dirs)


def import_data_dir(
    source: Path,
    data: Path,
    name: str,
    *,
    num_jobs: int | None = None,
    max_bad: float = 100 * MAX_SKIPPED_SHARE,
    rate: int = SAMPLE_RATE,
) -> Scan:
    """Check one Kaldi data directory and write it as set ``name``; return the usable and the skipped utterances.

    Raises:
        InputError: a table is missing or wrong, or too much audio is unusable.
    """
    if (source / "feats.scp").is_file():
        log.info("%s: not used, since features are computed anew", source / "feats.scp")
    tables = _read_tables(source)
    clear_set(data / name, source)
    used = {part.recording for part in tables.parts}
    locations = {recording: entry for recording, entry in tables.wav.items() if recording in used}
    scan = scan_audio(locations, name, num_jobs=num_jobs, max_bad=max_bad, rate=rate)
    segments, skipped = _fit_segments(source, tables.parts, scan)

    audios = {segment.recording: scan.good[segment.recording] for segment in segments.values()}
    speakers = {utterance: tables.speakers[utterance] for utterance in segments}
    durations = {utterance: segment.end - segment.start for utterance, segment in segments.items()}
    write_data_dir(
        data / name,
        wav={recording: wav_scp_entry(audio) for recording, audio in audios.items()},
        utt2spk=speakers,
        tables={
            "utt2dur": {utterance: round(duration, 6) for utterance, duration in durations.items()},
            **({"segments": segments} if tables.has_segments else {}),
        },
    )
    # Entries of to-wav are read as the files that they name, which also works where commands are switched off.
    recordings = {
        recording: make_recording(recording, audio)
        for recording, audio in audios.items()
        if parse_to_wav(audio.location) is None
    }
    write_manifests(data, name, *read_kaldi_dir(data / name, recordings))
    write_skipped(data, name, skipped)
    log_set(name, len(segments), len(set(speakers.values())), sum(durations.values()))
    return Scan({utterance: audios[segment.recording] for utterance, segment in segments.items()}, skipped)


def _read_tables(source: Path) -> Tables:
    """Read wav.scp, utt2spk and segments, and check that they have the same ids."""
    for name in ("wav.scp", "utt2spk"):
        if not (source / name).is_file():
            raise InputError(f"{source / name}: no such file; a Kaldi data directory needs it")
    wav = {recording: _absolute(entry) for recording, entry in read_map(source / "wav.scp").items()}
    for recording, entry in wav.items():
        if entry.endswith("|") and not commands_are_allowed() and parse_to_wav(entry) is None:
            with error_context(f"{source / 'wav.scp'}: '{recording}'"):
                require_commands(entry)
    speakers, parts = read_map(source / "utt2spk"), read_parts(source)
    has_segments = (source / "segments").is_file()
    table = source / ("segments" if has_segments else "wav.scp")
    utterances = {part.utterance for part in parts}
    for part in parts:
        if part.utterance not in speakers:
            raise InputError(f"{table}: utterance '{part.utterance}' is not in {source / 'utt2spk'}")
    for utterance in speakers:
        if utterance not in utterances:
            raise InputError(f"{source / 'utt2spk'}: utterance '{utterance}' is not in {table}")
    return Tables(wav, speakers, parts, has_segments)


def _absolute(entry: str) -> str:
    """Make a path absolute, since recipes often write it relative to their working directory; keep a command."""
    return entry if entry.endswith("|") else os.path.abspath(entry)


def _fit_segments(source: Path, parts: Sequence[Part], scan: Scan) -> tuple[dict[str, Segment], list[Skipped]]:
    """End every segment where its recording ends; return the usable ones, in C-locale order, and the skipped ones."""
    segments: dict[str, Segment] = {}
    skipped: list[Skipped] = []
    reasons = dict(scan.skipped)
    for utterance, recording, start, end, _ in sorted(parts, key=lambda part: byte_order(part.utterance)):
        if recording in reasons:
            skipped.append(Skipped(utterance, reasons[recording]))
            continue
        length = scan.good[recording].duration
        end = length if end == -1 else min(end, length)
        if end - start < MIN_SECONDS:
            reason = (
                f"too short: {max(0.0, end - start):.3g} s from {start:g} s of recording '{recording}', which lasts "
                f"{length:g} s; at least {MIN_SECONDS:g} s are needed"
            )
            log.warning("%s: skipping '%s': %s", source / "segments", utterance, reason)
            skipped.append(Skipped(utterance, reason))
        else:
            segments[utterance] = Segment(recording, start, end)
    if not segments:
        raise InputError(f"{source / 'segments'}: there are no usable segments")
    return segments, skipped
