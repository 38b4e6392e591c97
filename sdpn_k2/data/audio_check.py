"""Decode audio from start to end, and skip files that cannot be used."""

from __future__ import annotations

import collections
import concurrent.futures
import logging
import os
import subprocess
from typing import Callable, Iterator, Mapping, NamedTuple

import numpy as np
from tqdm import tqdm

from sdpn_k2.data.audio_files import SAMPLE_RATE
from sdpn_k2.data.recordings import Audio
from sdpn_k2.errors import MAX_SKIPPED_SHARE, InputError, Skipped, check_skipped
from sdpn_k2.kaldi.features.sound import check_channel, open_sound, sound_exists
from sdpn_k2.kaldi.features.wave import encode_wave, read_command
from sdpn_k2.kaldi.formats.io import require_commands
from sdpn_k2.processors import usable_processors

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
    rate: int = SAMPLE_RATE,
) -> Scan:
    """Decode all audio in threads and skip files that cannot be used.

    Audio is skipped if it is missing, unreadable, truncated, shorter than ``min_seconds``, silent (all samples equal)
    or not finite, or if it lacks the channel. The log names the first few, and counts the audio at other rates.

    Args:
        locations: id → path, or command ending in ``|``.
        what: name of the set, for messages.
        channel: channel that will be used (0-based).
        num_jobs: number of threads; by default one per core.
        max_bad: largest percentage of audio that may be skipped.
        min_seconds: shortest usable duration.
        rate: sample rate of the prepared audio in Hz.

    Raises:
        InputError: there is no audio, or more than ``max_bad`` percent or all of it was skipped.
    """

    def check(item: tuple[str, str]) -> tuple[str, Audio] | Skipped:
        try:
            return item[0], check_audio(item[1], channel, min_seconds, rate)
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
    _report_rates(what, collections.Counter(audio.sample_rate for audio in scan.good.values()), rate)
    return scan


def _report_rates(what: str, rates: Mapping[int, int], rate: int) -> None:
    """Log how many audio files have another sample rate; ``rates`` is Hz → number of files."""
    others = {each: count for each, count in sorted(rates.items()) if each != rate}
    if not others:
        return
    lower = {each: count for each, count in others.items() if each < rate}
    hint = ""
    if lower:
        hint = (
            f"; {sum(lower.values())} are upsampled and have nothing above {max(lower) / 2:g} Hz: "
            f"consider --sample-rate {max(lower)}"
        )
    log.log(
        logging.WARNING if lower else logging.INFO,
        "%s: resampling %d of %d audio files to %d Hz (%s)%s",
        what,
        sum(others.values()),
        sum(rates.values()),
        rate,
        ", ".join(f"{count} at {each} Hz" for each, count in others.items()),
        hint,
    )


def check_audio(
    location: str, channel: int = 0, min_seconds: float = MIN_SECONDS, target_rate: int = SAMPLE_RATE
) -> Audio:
    """Decode one file or command from start to end, to be used at ``target_rate`` Hz.

    Raises:
        InputError: the audio cannot be used; the message names it and says why.
    """
    is_command = location.endswith("|")
    if not is_command and not sound_exists(location):
        raise InputError(f"{location}: no such file")
    if os.path.isfile(location) and os.path.getsize(location) == 0:
        raise InputError(f"{location}: the file is empty")
    with open_sound(_run(location) if is_command else location, location) as sound:
        check_channel(sound, channel)
        lowest, highest, finite = np.inf, -np.inf, True
        for block in sound.blocks():
            samples = block[:, channel]
            lowest, highest = min(lowest, samples.min()), max(highest, samples.max())
            finite = finite and bool(np.isfinite(samples).all())
        num_samples, rate, truncated = sound.read_to, sound.rate, sound.is_truncated
    if truncated:
        raise InputError(f"{location}: truncated: there are fewer samples than the header announces")
    if num_samples < max(1, min_seconds * rate):
        raise InputError(f"{location}: too short: {num_samples} samples, at least {min_seconds:g} s are needed")
    if not finite:
        raise InputError(f"{location}: some samples are NaN or infinite")
    if lowest == highest:
        raise InputError(f"{location}: silent: every sample is {lowest:g}")
    is_plain = not is_command and sound.is_pcm16_wav and rate == target_rate and sound.channels == 1
    return Audio(location, rate, num_samples, sound.channels, is_plain, target_rate)


def _run(command: str) -> bytes:
    """Return the output of a wav.scp command (with its final "|")."""
    wave = read_command(command)
    if wave is not None:  # ours, which needs no process
        return encode_wave(wave)
    require_commands(command)
    done = subprocess.run(command.rstrip()[:-1], shell=True, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = f": {lines[-1]}" if lines else ""
        raise InputError(f"command failed with status {done.returncode}: {command}{reason}")
    if not done.stdout:
        raise InputError(f"command wrote nothing: {command}")
    return done.stdout


def _map_in_threads(function: Callable, items: list, num_jobs: int, what: str) -> Iterator:
    """Map in threads (libsndfile and NumPy release the GIL), in order, with a progress bar on a terminal."""
    chunks = [items[first : first + FILES_PER_TASK] for first in range(0, len(items), FILES_PER_TASK)]
    with concurrent.futures.ThreadPoolExecutor(num_jobs) as executor:
        with tqdm(total=len(items), desc=f"checking {what}", unit="file", disable=None, leave=False) as bar:
            for results in executor.map(lambda chunk: [function(item) for item in chunk], chunks):
                bar.update(len(results))
                yield from results
