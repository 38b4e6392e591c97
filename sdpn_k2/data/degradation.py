"""Recordings as other channels would have made them: evaluation sets that measure speakers, not channels.

Where all recordings of a speaker come from one session, a model may recognise the session. ``degrade`` sends each
recording through a channel of its own, drawn from the seed and the recording's name: a room, a microphone, noise, for
some a telephone line or a noise gate, and a level. Training augmentation does not use these channels.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, List, NamedTuple, Tuple

import numpy as np
import soundfile
from scipy.signal import fftconvolve, resample_poly

from sdpn_k2.data.audio_files import SAMPLE_RATE, find_audio, locate
from sdpn_k2.errors import InputError, Skipped, check_skip_bad
from sdpn_k2.files import atomic_output, make_folder
from sdpn_k2.kaldi.features.wave import read_audio
from sdpn_k2.pcm import INT16_SCALE, from_int16, to_int16
from sdpn_k2.progress import Progress

log = logging.getLogger(__name__)

Gain = Callable[[np.ndarray], np.ndarray]  # from frequencies in Hz to factors
Triple = Tuple[float, float, float]

SPEED_OF_SOUND = 343.0  # m/s
TELEPHONE_RATE = 8000  # Hz
MU = 255.0  # of G.711
GATE_BLOCK = 160  # samples that a gate opens or closes as a whole


@dataclass(frozen=True)
class Channel:
    """What happens to one recording."""

    room: Triple  # metres
    source: Triple
    microphone: Triple
    reflection: float  # share of the amplitude that a wall reflects
    band: Tuple[float, float]  # Hz, where the microphone's response has fallen by 3 dB
    equalisation: Tuple[float, ...]  # dB, at equal distances on a logarithmic scale of frequency
    noise_slope: float  # dB per octave of the noise's spectrum
    snr: float  # dB
    telephone: bool  # 300 to 3400 Hz, 8 kHz, mu-law
    gate_share: float  # quietest part of the recording that is muted; 0: no gate
    level: float  # dBFS, root mean square


def draw_channel(rng: np.random.Generator, telephone_prob: float = 0.25, gate_prob: float = 0.25) -> Channel:
    """Draw a channel.

    Args:
        rng: random generator.
        telephone_prob: probability of a telephone line.
        gate_prob: probability of a noise gate, which leaves digital silence between words.
    """
    room = rng.uniform((2.5, 2.5, 2.2), (8.0, 6.0, 3.5))
    source, microphone = rng.uniform(0.4, room - 0.4), rng.uniform(0.4, room - 0.4)
    return Channel(
        room=_triple(room),
        source=_triple(source),
        microphone=_triple(microphone),
        reflection=float(rng.uniform(0.3, 0.85)),
        band=(float(rng.uniform(30, 200)), float(rng.uniform(4500, 7500))),
        equalisation=tuple(rng.normal(0, 3, size=7).clip(-8, 8).tolist()),
        noise_slope=float(rng.uniform(-6, 0)),
        snr=float(rng.uniform(5, 25)),
        telephone=bool(rng.random() < telephone_prob),
        gate_share=float(rng.uniform(0.1, 0.5)) if rng.random() < gate_prob else 0.0,
        level=float(rng.uniform(-36, -14)),
    )


def _triple(values: np.ndarray) -> Triple:
    x, y, z = values.tolist()
    return x, y, z


def degrade(samples: np.ndarray, channel: Channel, rng: np.random.Generator) -> np.ndarray:
    """Return a recording ``(samples,)`` in ±1 at 16 kHz as the channel would have recorded it, float64 in ±1.

    Args:
        samples: the recording.
        channel: the channel.
        rng: random generator of the noise.

    Raises:
        InputError: the recording is silent.
    """
    if not np.ptp(samples) > 0:
        raise InputError("silent: all samples are equal")
    x = fftconvolve(samples.astype(np.float64), room_response(channel))[: len(samples)]
    x = _filter(x, _microphone_gain(channel))
    exponent = channel.noise_slope / (20 * np.log10(2))
    noise = _filter(rng.standard_normal(len(x)), lambda f: np.maximum(f, 50.0) ** exponent)
    x += noise * np.sqrt(np.mean(x**2) / np.mean(noise**2) / 10 ** (channel.snr / 10))
    if channel.telephone:
        x = _telephone(x)
    if channel.gate_share:
        x = _gate(x, channel.gate_share)
    x *= 10 ** (channel.level / 20) / np.sqrt(np.mean(x**2))
    return np.clip(x, -1, 1 - 1 / INT16_SCALE)


def room_response(channel: Channel, seconds: float = 0.4) -> np.ndarray:
    """Return the impulse response of a room, from the direct path on, with unit energy.

    Image sources of a box whose walls all reflect the same share (Allen and Berkley, 1979), to the nearest sample.
    """
    longest = seconds * SPEED_OF_SOUND
    room, source, microphone = map(np.array, (channel.room, channel.source, channel.microphone))
    offsets, reflections = [], []
    for size, here, there in zip(room, source, microphone):
        order = np.arange(-int(longest / size) // 2 - 1, int(longest / size) // 2 + 2)
        offsets.append(np.concatenate([2 * order * size + here - there, 2 * order * size - here - there]))
        reflections.append(np.concatenate([abs(2 * order), abs(2 * order - 1)]))
    squares = [offset**2 for offset in offsets]
    distance = np.sqrt(np.add.outer(np.add.outer(*squares[:2]), squares[2])).ravel()
    bounces = np.add.outer(np.add.outer(*reflections[:2]), reflections[2]).ravel()
    delays = np.rint((distance - distance.min()) / SPEED_OF_SOUND * SAMPLE_RATE).astype(int)
    near = delays < round(seconds * SAMPLE_RATE)
    response = np.bincount(delays[near], weights=(channel.reflection**bounces / distance)[near])
    return response / np.sqrt(np.sum(response**2))


def _microphone_gain(channel: Channel) -> Gain:
    """Return the amplitude response of the microphone as a function of frequency in Hz."""
    low, high = channel.band
    bands = np.geomspace(100, 7000, len(channel.equalisation))

    def gain(frequency: np.ndarray) -> np.ndarray:
        f = np.maximum(frequency, 1.0)
        decibels = np.interp(np.log(f), np.log(bands), channel.equalisation)
        return 10 ** (decibels / 20) / np.sqrt((1 + (low / f) ** 4) * (1 + (f / high) ** 8))

    return gain


def _filter(x: np.ndarray, gain: Gain) -> np.ndarray:
    frequencies = np.fft.rfftfreq(len(x), 1 / SAMPLE_RATE)
    return np.fft.irfft(np.fft.rfft(x) * gain(frequencies), n=len(x))


def _telephone(x: np.ndarray) -> np.ndarray:
    """Send a recording over a line: 300 to 3400 Hz, 8 kHz, 8 bits in mu-law."""
    line = _filter(x, lambda f: 1 / np.sqrt((1 + (300 / np.maximum(f, 1)) ** 8) * (1 + (f / 3400) ** 16)))
    narrow = resample_poly(line, 1, SAMPLE_RATE // TELEPHONE_RATE)
    narrow /= np.abs(narrow).max()
    codes = np.rint(127 * np.sign(narrow) * np.log1p(MU * np.abs(narrow)) / np.log1p(MU))
    decoded = np.sign(codes) * np.expm1(np.abs(codes) / 127 * np.log1p(MU)) / MU
    return resample_poly(decoded, SAMPLE_RATE // TELEPHONE_RATE, 1)[: len(x)]


def _gate(x: np.ndarray, share: float) -> np.ndarray:
    """Set the quietest ``share`` of a recording to zero, in blocks of 10 ms; the gate closes 50 ms late."""
    blocks = np.array([np.mean(block**2) for block in np.array_split(x, max(1, len(x) // GATE_BLOCK))])
    held = np.max([np.concatenate([np.zeros(late), blocks[: len(blocks) - late]]) for late in range(6)], axis=0)
    is_open = held > np.quantile(held, share)
    return x * np.repeat(is_open, [len(block) for block in np.array_split(x, len(blocks))])


class Degraded(NamedTuple):
    """Counts of :func:`degrade_folder`."""

    done: int
    failed: int


def degrade_folder(
    source: Path,
    target: Path,
    seed: int,
    *,
    telephone_prob: float = 0.25,
    gate_prob: float = 0.25,
    skip_bad: bool = False,
) -> Degraded:
    """Degrade every audio file under ``source``, as 16 kHz mono FLAC under the same name in ``target``.

    Lists of trials are copied, and ``channels.jsonl`` gets the channel of each file.

    Args:
        source: folder of audio files.
        target: folder to write, made if missing; not inside ``source``.
        seed: with a file's name, decides on its channel.
        telephone_prob: probability of a telephone line.
        gate_prob: probability of a noise gate.
        skip_bad: accept that more than 5 % of the files cannot be used.

    Raises:
        InputError: no audio; two files that differ only in their suffix; a target inside the source; an output that
            cannot be written; too many files that cannot be used.
    """
    root, output = Path(os.path.abspath(source)), Path(os.path.abspath(target))
    if root == output or root in output.parents:
        raise InputError(f"{target}: lies in {source}; write the degraded files elsewhere")
    paths = list(find_audio(root))
    names = [path.relative_to(root).with_suffix("").as_posix() for path in paths]
    for name, following in zip(sorted(names), sorted(names)[1:]):
        if name == following:
            raise InputError(f"{root / name}: two files have this name with different suffixes; rename one")
    skipped: List[Skipped] = []
    lines = []
    progress = Progress(len(paths), "degrading, files")
    for name, path in zip(names, paths):
        digest = hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest()
        rng = np.random.default_rng(list(digest))
        channel = draw_channel(rng, telephone_prob, gate_prob)
        progress.update()
        try:
            samples = degrade(from_int16(read_audio(locate(path), SAMPLE_RATE)), channel, rng)
        except InputError as error:
            skipped.append(Skipped(name, str(error)))
            log.warning("skipped %s: %s", path, error)
            continue
        make_folder((output / name).parent)
        with atomic_output(output / f"{name}.flac") as stream:
            soundfile.write(stream, to_int16(samples), SAMPLE_RATE, format="FLAC")
        lines.append(json.dumps({"name": name, **asdict(channel)}) + "\n")
    progress.close()
    check_skip_bad(skipped, len(paths), skip_bad, where=source, what="files")
    for trials in sorted(root.glob("trials*")):
        with atomic_output(output / trials.name) as stream:
            stream.write(trials.read_bytes())
    with atomic_output(output / "channels.jsonl", "w") as stream:
        stream.writelines(lines)
    return Degraded(len(lines), len(skipped))
