"""Existing Kaldi data directories, through lhotse's Kaldi import.

A directory needs ``wav.scp`` (plain paths, or ``command |``) and ``utt2spk``; ``segments`` and, for evaluation sets,
``trials`` or several ``trials_<name>`` are used where they are. Features are made anew, since the recipe needs its own
kind: a ``feats.scp`` is left out with a message.

Plain paths other than 16-bit 16 kHz mono WAV become a command that converts; so do commands at another rate.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Mapping

from sdpn_k2.data.cuts import write_manifest
from sdpn_k2.data.manifests import (
    MIN_SECONDS,
    SAMPLE_RATE,
    Audio,
    Scan,
    clear_set,
    list_recordings,
    log,
    scan_audio,
    wav_scp_entry,
    write_augmentation,
    write_eval_sets,
    write_recordings,
    write_skipped,
    write_trials,
)
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import (
    Segment,
    byte_order,
    read_map,
    read_segments,
    trial_lists,
    write_data_dir,
    write_map,
)


def prepare_kaldi_dirs(
    train: str | Path,
    eval_dirs: Mapping[str, str | Path],
    data: str | Path,
    augmentation: Mapping[str, str | Path] | None = None,
    num_jobs: int | None = None,
    max_bad: float = 5.0,
) -> list[str]:
    """Write manifests and data directories for existing Kaldi data directories.

    Args:
        train: data directory to train on; its speakers are not used for that.
        eval_dirs: name of an evaluation set → its data directory, with trial lists in it.
        data: where to write (see :mod:`sdpn_k2.data.manifests`).
        augmentation: kind (noise, music, speech, rir) → a folder of audio files.
        num_jobs: threads; by default one per core.
        max_bad: percentage of unusable recordings, per set, above which to give up.

    Returns:
        The names of the evaluation sets.

    Raises:
        InputError: a table is missing or wrong (file and line), an evaluation set has no trials, too much unusable
            audio.
    """
    data = Path(data)
    options = {"num_jobs": num_jobs, "max_bad": max_bad}
    trials = {name: trial_lists(folder) for name, folder in eval_dirs.items()}
    for name, lists in trials.items():
        if not lists:
            raise InputError(f"{eval_dirs[name]}: no file trials or trials_<name> here, which an evaluation set needs")
        if name == "train":
            raise InputError(f"{eval_dirs[name]}: an evaluation set cannot be called train: give it another name")
    for name, folder in {"train": train, **eval_dirs}.items():
        utterances = import_data_dir(Path(folder), data, name, **options)
        for path in trials.get(name, []):
            write_trials(path, data / name / path.name, utterances)
    kinds = {kind: list_recordings(folder) for kind, folder in (augmentation or {}).items()}
    write_augmentation(data, kinds, **options)
    write_eval_sets(data, eval_dirs)
    return list(eval_dirs)


def import_data_dir(source: Path, data: Path, name: str, **scan_options) -> Scan:
    """Check one Kaldi data directory and write it as set ``name``; returns the good and bad utterances.

    Raises:
        InputError: a table is missing or wrong, or too much audio unusable.
    """
    if (source / "feats.scp").is_file():
        log.info("%s: not used, features are computed anew", source / "feats.scp")
    wav, speakers, segments = _read_tables(source)
    clear_set(data / name, source)
    used = {segment.recording for segment in segments.values()}
    scan = scan_audio({recording: wav[recording] for recording in wav if recording in used}, name, **scan_options)
    segments, bad = _fit_segments(source, segments, scan)

    speakers = {utterance: speakers[utterance] for utterance in segments}
    audios = {segment.recording: scan.good[segment.recording] for segment in segments.values()}
    durations = {utterance: segment.end - segment.start for utterance, segment in segments.items()}
    tables = {"utt2dur": {utterance: round(duration, 6) for utterance, duration in durations.items()}}
    if (source / "segments").is_file():
        tables["segments"] = segments
    entries = {recording: _convert(audio) for recording, audio in audios.items()}
    write_data_dir(data / name, wav=entries, utt2spk=speakers, tables=tables)
    _import_into_lhotse(data, name, audios, speakers, tables.get("segments"))
    write_skipped(data, name, bad)
    hours = sum(durations.values()) / 3600
    log.info("%s: %d utterances of %d speakers, %.2f h", name, len(segments), len(set(speakers.values())), hours)
    return Scan({utterance: audios[segment.recording] for utterance, segment in segments.items()}, bad)


def _read_tables(source: Path) -> tuple[dict[str, str], dict[str, str], dict[str, Segment]]:
    """Read wav.scp, utt2spk and segments (without the file: each recording to its end) and check their ids."""
    for table in ("wav.scp", "utt2spk"):
        if not (source / table).is_file():
            raise InputError(f"{source / table}: no such file, and a Kaldi data directory needs it")
    wav = {recording: _absolute(entry) for recording, entry in read_map(source / "wav.scp").items()}
    speakers = read_map(source / "utt2spk")
    if (source / "segments").is_file():
        table, segments = source / "segments", read_segments(source / "segments")
    else:
        table, segments = source / "wav.scp", {recording: Segment(recording, 0.0, -1.0) for recording in wav}
    for utterance, segment in segments.items():
        if segment.recording not in wav:
            raise InputError(f"{table}: '{utterance}' is from recording '{segment.recording}', which wav.scp has not")
        if utterance not in speakers:
            raise InputError(f"{source / 'utt2spk'}: no utterance '{utterance}', which {table} has")
    for utterance in speakers:
        if utterance not in segments:
            raise InputError(f"{table}: no utterance '{utterance}', which {source / 'utt2spk'} has")
    return wav, speakers, segments


def _absolute(entry: str) -> str:
    """Commands stay; a path becomes absolute: Kaldi recipes often write it relative to where they run."""
    return entry if entry.endswith("|") else os.path.abspath(entry)


def _fit_segments(
    source: Path, segments: Mapping[str, Segment], scan: Scan
) -> tuple[dict[str, Segment], dict[str, str]]:
    """End every segment where its recording ends; return those that are left and, with a reason, the others."""
    good: dict[str, Segment] = {}
    bad: dict[str, str] = {}
    for utterance in sorted(segments, key=byte_order):
        recording, start, end = segments[utterance]
        if recording in scan.bad:
            bad[utterance] = scan.bad[recording]
            continue
        length = scan.good[recording].duration
        end = length if end == -1 else min(end, length)
        if end - start < MIN_SECONDS:
            bad[utterance] = (
                f"it has {max(0.0, end - start):.3g} s from {start:g} s on of recording '{recording}', which "
                f"lasts {length:g} s; at least {MIN_SECONDS:g} s are needed"
            )
            log.warning("%s: skipping '%s': %s", source / "segments", utterance, bad[utterance])
        else:
            good[utterance] = Segment(recording, start, end)
    if not good:
        raise InputError(f"{source / 'segments'}: no segment lies within its recording")
    return good, bad


def _convert(audio: Audio) -> str:
    """The wav.scp entry at 16 kHz."""
    if audio.location.endswith("|") and audio.sample_rate != SAMPLE_RATE:
        return f"{audio.location} sdpn-k2 to-wav --rate {SAMPLE_RATE} --channel 0 - |"
    return wav_scp_entry(audio)


def _import_into_lhotse(
    data: Path,
    name: str,
    audios: Mapping[str, Audio],
    speakers: Mapping[str, str],
    segments: Mapping[str, Segment] | None,
) -> None:
    """Run lhotse's import, once for each sampling rate: it takes one rate for a whole directory.

    It is given what it needs to get lengths right to the sample and not to fail without transcripts: reco2dur and text.
    """
    from lhotse.kaldi import load_kaldi_data_dir

    recordings, supervisions = [], []
    for rate in sorted({audio.sample_rate for audio in audios.values()}):
        some = {recording: audio for recording, audio in audios.items() if audio.sample_rate == rate}
        utterances = [u for u in speakers if (segments[u].recording if segments else u) in some]
        with tempfile.TemporaryDirectory(prefix="sdpn_k2-") as name_of_folder:
            folder = Path(name_of_folder)
            write_map(folder / "wav.scp", {recording: audio.location for recording, audio in some.items()})
            write_map(folder / "reco2dur", {recording: audio.duration for recording, audio in some.items()})
            write_map(folder / "utt2spk", {utterance: speakers[utterance] for utterance in utterances})
            if segments:
                write_map(folder / "segments", {utterance: segments[utterance] for utterance in utterances})
                write_map(folder / "text", dict.fromkeys(utterances, ""))
            imported, spoken, _ = load_kaldi_data_dir(folder, sampling_rate=rate)
        for recording in imported:
            # The import believes that every file has one channel.
            channels = list(range(some[recording.id].num_channels))
            source = dataclasses.replace(recording.sources[0], channels=channels)
            recording = dataclasses.replace(recording, sources=[source], channel_ids=channels)
            recordings.append(recording.resample(SAMPLE_RATE))
        supervisions += spoken
    write_recordings(data, name, sorted(recordings, key=lambda recording: recording.id))
    supervisions.sort(key=lambda supervision: supervision.id)
    write_manifest(supervisions, data / "manifests" / f"supervisions_{name}.jsonl.gz")
