"""From audio files to lhotse manifests and Kaldi data directories: what every corpus shares.

A corpus module lists its utterances (id → speaker, id → location) and calls :func:`scan_audio` to decode and check
all audio in threads, :func:`write_set` for the training set and each evaluation set, :func:`write_trials`,
:func:`write_augmentation` and last :func:`write_eval_sets`. What it leaves under ``data``::

    <set>/wav.scp utt2spk spk2utt utt2dur [segments] [trials…]     Kaldi data directory, sorted in C locale
    manifests/recordings_<set>.jsonl.gz supervisions_<set>.jsonl.gz    lhotse, 16 kHz
    manifests/recordings_{noise,music,speech,rir}.jsonl.gz             for augmentation, where there are any
    manifests/skipped_<set>                                        audio left out, and why
    eval_sets                                                      names of the evaluation sets, one per line
"""

from __future__ import annotations

import concurrent.futures
import io
import logging
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import MappingProxyType
from typing import Callable, Collection, Iterable, Iterator, Mapping, NamedTuple

import numpy as np

from sdpn_k2.data.cuts import write_manifest
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output, make_folder
from sdpn_k2.kaldi.backend.trials import Trial, read_trials
from sdpn_k2.kaldi.datadir.data_dir import (
    RECORDING_TABLES,
    SPEAKER_TABLES,
    UTTERANCE_TABLES,
    byte_order,
    trial_lists,
    write_data_dir,
    write_map,
)
from sdpn_k2.kaldi.features.wave import to_wav_command

SAMPLE_RATE = 16000
AUGMENTATION = ("noise", "music", "speech", "rir")
LIBSNDFILE_SUFFIXES = [
    ".wav",
    ".flac",
    ".ogg",
    ".opus",
    ".mp3",
    ".aif",
    ".aiff",
    ".aifc",
    ".au",
    ".snd",
    ".sph",
    ".nist",
    ".w64",
    ".rf64",
    ".caf",
    ".wv",
]
FFMPEG_SUFFIXES = [".m4a", ".aac", ".mp4", ".webm", ".wma"]
MIN_SECONDS = 0.065  # shorter audio has not the 5 frames of features that an embedding takes

log = logging.getLogger(__name__)


class Audio(NamedTuple):
    """Audio that has been decoded from start to end and found good."""

    location: str  # an absolute path, or a command ending in "|" that writes a WAV
    sample_rate: int  # Hz
    num_samples: int  # per channel, at sample_rate
    num_channels: int
    is_plain: bool  # a 16-bit 16 kHz mono WAV file: every Kaldi tool reads it as it is

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_samples / self.sample_rate


class Scan(NamedTuple):
    """What :func:`scan_audio` found: good audio and reasons against bad audio, by id."""

    good: dict[str, Audio]
    bad: dict[str, str]


class UnusableAudio(Exception):
    """One piece of audio cannot be used; the message says why."""


# Finding


def find_audio(folder: str | Path) -> list[Path]:
    """List all audio files under ``folder``, as absolute paths in a fixed order.

    Raises:
        InputError: no such folder, no audio in it, or a file name that is not UTF-8.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    suffixes = set(LIBSNDFILE_SUFFIXES + FFMPEG_SUFFIXES)
    paths = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        paths += [Path(parent, name) for name in sorted(names) if os.path.splitext(name)[1].lower() in suffixes]
    for path in paths:
        if not str(path).isascii() and any("\ud800" <= letter <= "\udfff" for letter in str(path)):
            raise InputError(f"{str(path)!a}: this name is not UTF-8, as manifests must be: rename it")
    if not paths:
        raise InputError(f"{folder}: no audio files here (looked for {' '.join(sorted(suffixes))})")
    return paths


def locate(path: Path) -> str:
    """How to read a file: its path, or for what libsndfile does not decode (m4a …) an ffmpeg command ending in "|".

    Raises:
        InputError: ffmpeg is needed and not installed.
    """
    if path.suffix.lower() not in FFMPEG_SUFFIXES:
        return str(path)
    if shutil.which("ffmpeg") is None:
        raise InputError(f"{path}: {path.suffix} needs ffmpeg, which is not installed: install it or convert to wav")
    return f"ffmpeg -v 8 -i {shlex.quote(str(path))} -f wav -acodec pcm_s16le -ar {SAMPLE_RATE} -ac 1 - |"


def make_id(*parts: str) -> str:
    """Join the parts of a path into an id as Kaldi wants it: ``-`` between parts, no white space."""
    return "-".join("_".join(part.split()) for part in parts)


# Checking


def scan_audio(
    locations: Mapping[str, str],
    what: str,
    channel: int = 0,
    num_jobs: int | None = None,
    max_bad: float = 5.0,
    min_seconds: float = MIN_SECONDS,
) -> Scan:
    """Decode all audio, in threads, and sort out what cannot be used.

    Unusable is what is missing, unreadable, truncated, shorter than ``min_seconds``, silent (all samples equal), not
    finite, or without the wanted channel. The first few are reported by name, all are returned.

    Args:
        locations: id → path, or command ending in ``|``.
        what: name of the set, for messages.
        channel: the channel that will be used, from 0.
        num_jobs: threads; by default one per core.
        max_bad: the highest percentage of unusable audio to put up with.

    Raises:
        InputError: more than ``max_bad`` percent are unusable, or all.
    """

    def check(item: tuple[str, str]) -> tuple[str, Audio | str]:
        try:
            return item[0], check_audio(item[1], channel, min_seconds)
        except UnusableAudio as error:
            return item[0], str(error)

    if not locations:
        raise InputError(f"{what}: no audio at all")
    scan = Scan({}, {})
    for name, result in _map_in_threads(check, list(locations.items()), num_jobs or os.cpu_count() or 1, what):
        if isinstance(result, Audio):
            scan.good[name] = result
        else:
            scan.bad[name] = result
    if scan.bad:
        first = next(iter(scan.bad))
        percent = 100 * len(scan.bad) / len(locations)
        if percent > max_bad or not scan.good:
            raise InputError(
                f"{what}: {len(scan.bad)} of {len(locations)} audio files cannot be used ({percent:.1f} %, "
                f"--max-bad allows {max_bad:g} %); the first is '{first}': {scan.bad[first]}"
            )
        for name, reason in list(scan.bad.items())[:10]:
            log.warning("%s: skipping '%s': %s", what, name, reason)
        log.warning("%s: skipped %d of %d audio files", what, len(scan.bad), len(locations))
    return scan


def check_audio(location: str, channel: int = 0, min_seconds: float = MIN_SECONDS) -> Audio:
    """Decode one piece of audio from start to end.

    Raises:
        UnusableAudio: it cannot be used; the message says why and, for files, where.
    """
    import soundfile

    source = io.BytesIO(_run(location)) if location.endswith("|") else location
    if source is location and not os.path.isfile(location):
        raise UnusableAudio(f"{location}: no such file")
    if source is location and os.path.getsize(location) == 0:
        raise UnusableAudio(f"{location}: the file is empty")
    try:
        with soundfile.SoundFile(source) as audio:
            num_samples, lowest, highest, finite = 0, np.inf, -np.inf, True
            if channel >= audio.channels:
                raise UnusableAudio(f"{location}: has {audio.channels} channel(s), so no channel {channel}")
            for block in audio.blocks(1 << 18, dtype="float32", always_2d=True):
                samples = block[:, channel]
                num_samples += len(samples)
                lowest, highest = min(lowest, samples.min()), max(highest, samples.max())
                finite = finite and bool(np.isfinite(samples).all())
            header_samples, rate, num_channels = audio.frames, audio.samplerate, audio.channels
            is_pcm16_wav = audio.format in ("WAV", "WAVEX") and audio.subtype == "PCM_16"
            cut = num_samples < header_samples or _is_cut_short(audio.extra_info)
    except (soundfile.LibsndfileError, OSError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise UnusableAudio(f"{location}: cannot decode: {reason}") from error
    if cut:
        raise UnusableAudio(f"{location}: truncated: its header announces more samples than there are")
    if num_samples < max(1, min_seconds * rate):
        raise UnusableAudio(f"{location}: {num_samples} samples are too few, at least {min_seconds:g} s are needed")
    if not finite:
        raise UnusableAudio(f"{location}: some samples are NaN or infinite")
    if lowest == highest:
        raise UnusableAudio(f"{location}: silent: every sample is {lowest:g}")
    is_plain = source is location and is_pcm16_wav and rate == SAMPLE_RATE and num_channels == 1
    return Audio(location, rate, num_samples, num_channels, is_plain)


def _run(command: str) -> bytes:
    """Return what a wav.scp command (with its final "|") writes."""
    done = subprocess.run(command.rstrip()[:-1], shell=True, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = f": {lines[-1]}" if lines else ""
        raise UnusableAudio(f"command failed with status {done.returncode}: {command}{reason}")
    if not done.stdout:
        raise UnusableAudio(f"command wrote nothing: {command}")
    return done.stdout


def _is_cut_short(libsndfile_log: str) -> bool:
    """Whether a WAV or AIFF header announces more bytes than the file has.

    A size near 2 or 4 GiB in a shorter file is what programs write into a pipe, whose length they don't know.
    """
    sizes = re.findall(r"^\s*(?:data|SSND)\s*: (\d+) \(should be (\d+)\)", libsndfile_log, flags=re.MULTILINE)
    return any(int(announced) > int(actual) and int(announced) < 0x7FFF0000 for announced, actual in sizes)


def _map_in_threads(function: Callable, items: list, num_jobs: int, what: str) -> Iterator:
    """Map in threads (libsndfile and NumPy release the GIL), in order, with a progress bar on a terminal."""
    from tqdm import tqdm

    chunks = [items[first : first + 64] for first in range(0, len(items), 64)]
    with (
        concurrent.futures.ThreadPoolExecutor(num_jobs) as executor,
        tqdm(total=len(items), desc=f"checking {what}", unit="file", disable=None, leave=False) as bar,
    ):
        for results in executor.map(lambda chunk: [function(item) for item in chunk], chunks):
            bar.update(len(results))
            yield from results


# Writing


def make_recording(name: str, audio: Audio):
    """Return a lhotse Recording at 16 kHz (resampled as it is read, where the file has another rate)."""
    from lhotse import Recording
    from lhotse.audio import AudioSource

    is_command = audio.location.endswith("|")
    source = AudioSource(
        type="command" if is_command else "file",
        channels=list(range(audio.num_channels)),
        source=audio.location.rstrip("| ") if is_command else audio.location,
    )
    recording = Recording(
        id=name,
        sources=[source],
        sampling_rate=audio.sample_rate,
        num_samples=audio.num_samples,
        duration=audio.duration,
    )
    return recording if audio.sample_rate == SAMPLE_RATE else recording.resample(SAMPLE_RATE)


def wav_scp_entry(audio: Audio, channel: int = 0) -> str:
    """The wav.scp entry for this audio: the path where Kaldi's tools can read it, else a command."""
    if audio.is_plain or audio.location.endswith("|"):
        return audio.location
    return to_wav_command(audio.location, SAMPLE_RATE, channel)


def clear_set(directory: Path, source: Path) -> None:
    """Remove an earlier preparation's tables, and what later stages made of them, from a set's data directory.

    And ``eval_sets`` beside it, which says that the preparation is complete.

    Raises:
        InputError: the corpus itself lies there.
    """
    if directory.exists() and source.exists() and directory.samefile(source):
        raise InputError(f"{source}: the corpus lies where the data directory would go: give another data folder")
    tables = UTTERANCE_TABLES + SPEAKER_TABLES + RECORDING_TABLES + ("segments",)
    for path in [*(directory / name for name in tables), *trial_lists(directory)]:
        path.unlink(missing_ok=True)
    (directory.parent / "eval_sets").unlink(missing_ok=True)


def write_set(data: Path, name: str, scan: Scan, speakers: Mapping[str, str], channel: int = 0) -> None:
    """Write one set whose recordings are its utterances: Kaldi data directory and lhotse manifests.

    Args:
        data: folder of all sets.
        name: ``train`` or an evaluation set.
        scan: checked audio by utterance id.
        speakers: utterance id → speaker label, for at least the good audio.
        channel: the channel to use, from 0.

    Raises:
        InputError: files cannot be written.
    """
    from lhotse import SupervisionSegment

    good = scan.good
    utterances = sorted(good, key=byte_order)
    write_data_dir(
        data / name,
        wav={utterance: wav_scp_entry(good[utterance], channel) for utterance in utterances},
        utt2spk={utterance: speakers[utterance] for utterance in utterances},
        tables={"utt2dur": {utterance: round(good[utterance].duration, 6) for utterance in utterances}},
    )
    write_recordings(data, name, (make_recording(utterance, good[utterance]) for utterance in utterances))
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
    write_manifest(supervisions, data / "manifests" / f"supervisions_{name}.jsonl.gz")
    write_skipped(data, name, scan.bad)
    hours = sum(audio.duration for audio in good.values()) / 3600
    num_speakers = len({speakers[utterance] for utterance in good})
    log.info("%s: %d utterances of %d speakers, %.2f h", name, len(good), num_speakers, hours)


def write_recordings(data: Path, name: str, recordings: Iterable) -> None:
    """Write ``manifests/recordings_<name>.jsonl.gz``."""
    make_folder(data / "manifests")
    write_manifest(recordings, data / "manifests" / f"recordings_{name}.jsonl.gz")


def write_skipped(data: Path, name: str, bad: Mapping[str, str]) -> None:
    """Write ``manifests/skipped_<name>`` (id and reason), or remove an old one when nothing was skipped."""
    path = data / "manifests" / f"skipped_{name}"
    if bad:
        write_map(path, {utterance: " ".join(reason.split()) for utterance, reason in bad.items()})
    elif path.exists():
        path.unlink()


def write_augmentation(data: Path, kinds: Mapping[str, Mapping[str, str]], **scan_options) -> None:
    """Check and write the recordings of augmentation material; the manifest of a kind that is not given is removed.

    Args:
        data: folder of all sets.
        kinds: noise, music, speech or rir → (id → location).
        scan_options: ``num_jobs`` and ``max_bad`` of :func:`scan_audio`.

    Raises:
        InputError: too much of a kind is unusable.
    """
    for kind in AUGMENTATION:
        if kind not in kinds:
            for name in (f"recordings_{kind}.jsonl.gz", f"skipped_{kind}"):
                (data / "manifests" / name).unlink(missing_ok=True)
            continue
        # Of any length: noise is repeated as far as a crop reaches.
        scan = scan_audio(kinds[kind], kind, min_seconds=0.0, **scan_options)
        write_recordings(data, kind, (make_recording(name, audio) for name, audio in scan.good.items()))
        write_skipped(data, kind, scan.bad)
        minutes = sum(audio.duration for audio in scan.good.values()) / 60
        log.info("%s: %d recordings, %.1f min", kind, len(scan.good), minutes)


def list_recordings(folder: str | Path) -> dict[str, str]:
    """List the audio under a folder as id (its path below the folder) → location.

    Raises:
        InputError: no audio there, or one id twice.
    """
    locations: dict[str, str] = {}
    for path in find_audio(folder):
        add_utterance(locations, make_id(*path.relative_to(os.path.abspath(folder)).with_suffix("").parts), path)
    return locations


def add_utterance(locations: dict[str, str], utterance: str, path: Path) -> None:
    """Add one file to ``locations``.

    Raises:
        InputError: another file has this id already.
    """
    if utterance in locations:
        raise InputError(f"utterance id '{utterance}' twice: {locations[utterance]} and {path}; rename one of them")
    locations[utterance] = locate(path)


def write_trials(
    source: Path,
    destination: Path,
    scan: Scan,
    aliases: Mapping[str, str | None] = MappingProxyType({}),
    read: Callable[[Path], Iterable[Trial]] = read_trials,
) -> int:
    """Write a trial list in Kaldi's form, its names replaced by utterance ids.

    Trials of audio that was skipped are left out with a count.

    Args:
        source: the list; by default lines ``enroll test target|nontarget``.
        destination: what to write.
        scan: the checked audio of the set.
        aliases: other names under which a list may call an utterance → its id; None where a name fits several.
        read: how to read the list.

    Returns:
        The number of trials written.

    Raises:
        InputError: wrong fields (file:line); ids that are not in the set (the first ones named, all counted).
    """
    num_written = num_left_out = 0
    unknown: dict[str, None] = {}
    several: list[str] = []

    def resolve(name: str) -> str:
        if name in scan.good or name in scan.bad:
            return name
        utterance = aliases.get(name)
        if utterance is None:
            unknown[name] = None
            if name in aliases:
                several.append(name)
        return utterance or ""

    with atomic_output(destination, "w") as stream:
        for trial in read(source):
            enroll, test = resolve(trial.enroll), resolve(trial.test)
            if enroll in scan.good and test in scan.good:
                stream.write(f"{enroll} {test} {'target' if trial.target else 'nontarget'}\n")
                num_written += 1
            else:
                num_left_out += 1
        if several:
            raise InputError(f"{source}: '{several[0]}' may be any of several utterances: give <speaker>/{several[0]}")
        refuse_unknown(source, unknown)
        if not num_written:
            raise InputError(f"{source}: no trials")
    if num_left_out:
        log.warning("%s: left out %d trials of skipped audio", source, num_left_out)
    log.info("%s: %d trials", destination, num_written)
    return num_written


def refuse_unknown(source: Path, names: Collection[str]) -> None:
    """Raise InputError if there are ``names``: those that a trial list has and the set has not."""
    if names:
        first = ", ".join(sorted(names)[:3])
        more = ", …" if len(names) > 3 else ""
        raise InputError(f"{source}: {len(names)} ids are not among the utterances of this set: {first}{more}")


def write_eval_sets(data: Path, names: Iterable[str]) -> None:
    """Write ``eval_sets``: one evaluation set per line. The last thing stage 0 writes."""
    with atomic_output(data / "eval_sets", "w") as stream:
        stream.writelines(f"{name}\n" for name in names)
