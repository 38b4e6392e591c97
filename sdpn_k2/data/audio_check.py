"""Decode audio from start to end, and skip files that cannot be used."""

from __future__ import annotations

import concurrent.futures
import io
import logging
import os
import re
import subprocess
from typing import Callable, Iterator, Mapping, NamedTuple

import numpy as np
import soundfile

from sdpn_k2.data.audio_files import SAMPLE_RATE
from sdpn_k2.data.recordings import Audio
from sdpn_k2.errors import MAX_SKIPPED_SHARE, InputError, Skipped, check_skipped
from sdpn_k2.processors import usable_processors
from sdpn_k2.progress import Progress

MIN_SECONDS = 0.065  # shorter audio has fewer than the 5 frames that an embedding needs
NUM_REPORTED = 10  # skipped files named in the log; the manifest skipped_<set> names all
FILES_PER_TASK = 64

log = logging.getLogger(__name__)


class Scan(NamedTuple):
    """Result of :func:`scan_audio`: the usable audio by id, and the skipped audio."""

    good: dict[str, Audio]
    skipped: list[Skipped]


def scan_audio(
    locations: Mapping[str, str],
    what: str,
    *,
    channel: int = 0,
    num_jobs: int | None = None,
    max_bad: float = 100 * MAX_SKIPPED_SHARE,
    min_seconds: float = MIN_SECONDS,
) -> Scan:
    """Decode all audio in threads and skip files that cannot be used.

    Audio is skipped if it is missing, unreadable, truncated, shorter than ``min_seconds``, silent (all samples equal)
    or not finite, or if it lacks the channel. The log names the first few.

    Args:
        locations: id → path, or command ending in ``|``.
        what: name of the set, for messages.
        channel: channel that will be used (0-based).
        num_jobs: number of threads; by default one per core.
        max_bad: largest percentage of audio that may be skipped.
        min_seconds: shortest usable duration.

    Raises:
        InputError: there is no audio, or more than ``max_bad`` percent or all of it was skipped.
    """

    def check(item: tuple[str, str]) -> tuple[str, Audio] | Skipped:
        try:
            return item[0], check_audio(item[1], channel, min_seconds)
        except InputError as error:
            return Skipped(item[0], str(error))

    if not locations:
        raise InputError(f"{what}: there is no audio")
    scan = Scan({}, [])
    for result in _map_in_threads(check, list(locations.items()), num_jobs or usable_processors(), what):
        if isinstance(result, Skipped):
            scan.skipped.append(result)
        else:
            name, audio = result
            scan.good[name] = audio
    check_skipped(
        scan.skipped, len(locations), where=what, what="audio files", max_share=max_bad / 100, option="--max-bad"
    )
    for item in scan.skipped[:NUM_REPORTED]:
        log.warning("%s: skipping %s", what, item)
    if scan.skipped:
        log.warning("%s: skipped %d of %d audio files", what, len(scan.skipped), len(locations))
    return scan


def check_audio(location: str, channel: int = 0, min_seconds: float = MIN_SECONDS) -> Audio:
    """Decode one file or command from start to end.

    Raises:
        InputError: the audio cannot be used; the message names it and says why.
    """
    is_command = location.endswith("|")
    if not is_command and not os.path.isfile(location):
        raise InputError(f"{location}: no such file")
    if not is_command and os.path.getsize(location) == 0:
        raise InputError(f"{location}: the file is empty")
    try:
        with soundfile.SoundFile(io.BytesIO(_run(location)) if is_command else location) as audio:
            num_samples, lowest, highest, finite = 0, np.inf, -np.inf, True
            if channel >= audio.channels:
                raise InputError(f"{location}: channel {channel} does not exist ({audio.channels} channels)")
            for block in audio.blocks(1 << 18, dtype="float32", always_2d=True):
                samples = block[:, channel]
                num_samples += len(samples)
                lowest, highest = min(lowest, samples.min()), max(highest, samples.max())
                finite = finite and bool(np.isfinite(samples).all())
            header_samples, rate, num_channels = audio.frames, audio.samplerate, audio.channels
            is_pcm16_wav = audio.format in ("WAV", "WAVEX") and audio.subtype == "PCM_16"
            truncated = num_samples < header_samples or _is_cut_short(audio.extra_info)
    except (soundfile.LibsndfileError, OSError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise InputError(f"{location}: cannot decode: {reason}") from error
    if truncated:
        raise InputError(f"{location}: truncated: there are fewer samples than the header announces")
    if num_samples < max(1, min_seconds * rate):
        raise InputError(f"{location}: too short: {num_samples} samples, at least {min_seconds:g} s are needed")
    if not finite:
        raise InputError(f"{location}: some samples are NaN or infinite")
    if lowest == highest:
        raise InputError(f"{location}: silent: every sample is {lowest:g}")
    is_plain = not is_command and is_pcm16_wav and rate == SAMPLE_RATE and num_channels == 1
    return Audio(location, rate, num_samples, num_channels, is_plain)


def _run(command: str) -> bytes:
    """Return the output of a wav.scp command (with its final "|")."""
    done = subprocess.run(command.rstrip()[:-1], shell=True, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = f": {lines[-1]}" if lines else ""
        raise InputError(f"command failed with status {done.returncode}: {command}{reason}")
    if not done.stdout:
        raise InputError(f"command wrote nothing: {command}")
    return done.stdout


def _is_cut_short(libsndfile_log: str) -> bool:
    """Return whether a WAV or AIFF header announces more bytes than the file has.

    Programs that write into a pipe do not know the length and announce about 2 or 4 GiB. Such sizes are ignored.
    """
    sizes = re.findall(r"^\s*(?:data|SSND)\s*: (\d+) \(should be (\d+)\)", libsndfile_log, flags=re.MULTILINE)
    return any(int(announced) > int(actual) and int(announced) < 0x7FFF0000 for announced, actual in sizes)


def _map_in_threads(function: Callable, items: list, num_jobs: int, what: str) -> Iterator:
    """Map in threads (libsndfile and NumPy release the GIL), in order, and show the progress."""
    chunks = [items[first : first + FILES_PER_TASK] for first in range(0, len(items), FILES_PER_TASK)]
    with concurrent.futures.ThreadPoolExecutor(num_jobs) as executor:
        progress = Progress(len(items), f"checking {what}, files", speed=("files", 1))
        try:
            for results in executor.map(lambda chunk: [function(item) for item in chunk], chunks):
                progress.update(len(results))
                yield from results
        finally:
            progress.close()
