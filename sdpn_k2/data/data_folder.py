"""Write the data folder that stage 0 of the recipe leaves for all later stages.

A corpus module lists its utterances (id → location, id → speaker), checks their audio with
:func:`sdpn_k2.data.audio_check.scan_audio`, and writes the training set and each evaluation set with
:func:`write_set` and :func:`sdpn_k2.data.trial_lists.write_trials`. It then calls :func:`write_augmentation` and, last,
:func:`write_eval_sets`. The result::

    <set>/wav.scp utt2spk spk2utt utt2dur [segments] [trials…]     Kaldi data directory, sorted in C locale
    manifests/recordings_<set>.jsonl.gz supervisions_<set>.jsonl.gz    lhotse
    manifests/recordings_{noise,music,speech,rir}.jsonl.gz             augmentation material, each optional
    manifests/skipped_<set>                                        skipped audio, with reasons
    eval_sets                                                      names of the evaluation sets, one per line
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from lhotse import SupervisionSegment

from sdpn_k2.data.audio_check import Scan, scan_audio
from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.data.recordings import make_recording, wav_scp_entry
from sdpn_k2.errors import InputError, Skipped
from sdpn_k2.files import atomic_output, make_folder
from sdpn_k2.kaldi.datadir.data_dir import (
    RECORDING_TABLES,
    SPEAKER_TABLES,
    UTTERANCE_TABLES,
    byte_order,
    trial_lists,
    write_map,
)
from sdpn_k2.kaldi.datadir.data_dir_ops import write_data_dir

AUGMENTATION = ("noise", "music", "speech", "rir")

log = logging.getLogger(__name__)


def clear_set(directory: Path, source: Path) -> None:
    """Remove the tables of an earlier preparation, and those that later stages derived from them.

    Also remove ``eval_sets`` beside the set, which marks a complete preparation.

    Raises:
        InputError: ``directory`` is the corpus itself.
    """
    if directory.exists() and source.exists() and directory.samefile(source):
        raise InputError(f"{source}: the data directory would overwrite the corpus: use another data folder")
    tables = UTTERANCE_TABLES + SPEAKER_TABLES + RECORDING_TABLES + ("segments",)
    for path in [*(directory / name for name in tables), *trial_lists(directory)]:
        path.unlink(missing_ok=True)
    (directory.parent / "eval_sets").unlink(missing_ok=True)


def unmark(data: Path) -> None:
    """Remove ``eval_sets``, which marks a complete preparation, before a new one begins."""
    (data / "eval_sets").unlink(missing_ok=True)


def write_set(data: Path, name: str, scan: Scan, speakers: Mapping[str, str], channel: int = 0) -> None:
    """Write a set with one utterance per recording: Kaldi data directory and lhotse manifests.

    Args:
        data: folder of all sets.
        name: ``train`` or an evaluation set.
        scan: checked audio by utterance id.
        speakers: utterance id → speaker label, at least for the usable audio.
        channel: channel to use (0-based).

    Raises:
        InputError: files cannot be written.
    """
    good = scan.good
    utterances = sorted(good, key=byte_order)
    write_data_dir(
        data / name,
        wav={utterance: wav_scp_entry(good[utterance], channel) for utterance in utterances},
        utt2spk={utterance: speakers[utterance] for utterance in utterances},
        tables={"utt2dur": {utterance: round(good[utterance].duration, 6) for utterance in utterances}},
    )
    # Generators: the recordings of a large corpus need not fit into memory.
    recordings = (make_recording(utterance, good[utterance]) for utterance in utterances)
    supervisions = (
        SupervisionSegment(
            id=utterance,
            recording_id=utterance,
            start=0.0,
            duration=make_recording(utterance, good[utterance]).duration,
            channel=channel,
            speaker=speakers[utterance],
        )
        for utterance in utterances
    )
    write_manifests(data, name, recordings, supervisions)
    write_skipped(data, name, scan.skipped)
    seconds = sum(audio.duration for audio in good.values())
    log_set(name, len(good), len({speakers[utterance] for utterance in good}), seconds)


def log_set(name: str, num_utterances: int, num_speakers: int, seconds: float) -> None:
    """Log the size of a set that was written."""
    log.info("%s: %d utterances of %d speakers, %.2f h", name, num_utterances, num_speakers, seconds / 3600)


def write_manifests(data: Path, name: str, recordings: Iterable, supervisions: Iterable) -> None:
    """Write ``manifests/recordings_<name>.jsonl.gz`` and ``manifests/supervisions_<name>.jsonl.gz``."""
    write_recordings(data, name, recordings)
    write_manifest(supervisions, data / "manifests" / f"supervisions_{name}.jsonl.gz")


def write_recordings(data: Path, name: str, recordings: Iterable) -> None:
    """Write ``manifests/recordings_<name>.jsonl.gz``."""
    make_folder(data / "manifests")
    write_manifest(recordings, data / "manifests" / f"recordings_{name}.jsonl.gz")


def write_skipped(data: Path, name: str, skipped: Sequence[Skipped]) -> None:
    """Write ``manifests/skipped_<name>`` (id and reason); if nothing was skipped, remove an old one."""
    path = data / "manifests" / f"skipped_{name}"
    if skipped:
        write_map(path, {key: " ".join(reason.split()) for key, reason in skipped})
    else:
        path.unlink(missing_ok=True)


def write_augmentation(data: Path, kinds: Mapping[str, Mapping[str, str]], **scan_options: Any) -> None:
    """Check augmentation material and write its recordings; remove the manifests of kinds that are not given.

    Args:
        data: folder of all sets.
        kinds: noise, music, speech or rir → (id → location).
        scan_options: ``num_jobs``, ``max_bad`` and ``rate`` of :func:`scan_audio`.

    Raises:
        InputError: too much audio of one kind is unusable.
    """
    for kind in AUGMENTATION:
        if kind not in kinds:
            for name in (f"recordings_{kind}.jsonl.gz", f"skipped_{kind}"):
                (data / "manifests" / name).unlink(missing_ok=True)
            continue
        # Any length will do: noise that is shorter than a crop is repeated.
        scan = scan_audio(kinds[kind], kind, min_seconds=0.0, **scan_options)
        write_recordings(data, kind, (make_recording(name, audio) for name, audio in scan.good.items()))
        write_skipped(data, kind, scan.skipped)
        minutes = sum(audio.duration for audio in scan.good.values()) / 60
        log.info("%s: %d recordings, %.1f min", kind, len(scan.good), minutes)


def write_eval_sets(data: Path, names: Iterable[str]) -> None:
    """Write ``eval_sets``, one evaluation set per line. Stage 0 writes it last."""
    with atomic_output(data / "eval_sets", "w") as stream:
        stream.writelines(f"{name}\n" for name in names)
