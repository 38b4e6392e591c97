"""Synthesise the demo corpus: speakers, noises and impulse responses, without any download.

A speaker is a fixed choice of espeak-ng voice variant, accent, pitch, pitch range, speaking rate and vocal tract
length. Every utterance varies these slightly, and has its own sentences and its own channel (level, equaliser,
background noise). Test speakers use voice variants that no training speaker uses.

The same seed and sizes give the same bytes with any number of processes. espeak-ng keeps state from one utterance to
the next, so each chunk of speakers has a fixed size and a fresh process of its own.

The result is an audio folder for :mod:`sdpn_k2.data.corpora.audio_dir`::

    <root>/{train,test}/<speaker>/<speaker>-<nn>.wav    <root>/test/trials    <root>/noise/*.wav    <root>/rir/*.wav
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import ctypes
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.pcm import INT16_SCALE, from_int16
from sdpn_k2.processors import usable_processors

SAMPLE_RATE = 16000
MIN_SECONDS, MAX_SECONDS = 3.0, 8.0
NUM_NOISES = 30
NUM_RIRS = 24
SPEAKERS_PER_PROCESS = 10
MARK = "demo.json"

# fmt: off
# Variants that sound like a person: no robots, whispers or novelty voices.
VARIANTS = (
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Lee",
    "Mario", "Michael", "Mike", "Nguyen", "Reed", "RicishayMax", "adam", "anika", "antonio", "aunty", "belinda",
    "benjamin", "boris", "caleb", "david", "ed", "edward", "edward2", "f1", "f2", "f3", "f4", "f5", "grandma",
    "grandpa", "gustave", "ian", "iven", "iven2", "iven3", "john", "kaukovalta", "klatt3", "klatt4", "linda", "m1",
    "m2", "m3", "m4", "m5", "m6", "m7", "m8", "marcelo", "max", "michel", "miguel", "norbert", "pablo", "paul",
    "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "steph2", "travis", "victor",
)
ACCENTS = (
    "en", "en-us", "en-us-nyc", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-gb-scotland", "en-029",
)

WHO = (
    "the old captain", "my younger sister", "a tired nurse", "the baker on the corner", "nobody in the village",
    "her neighbour", "the new teacher", "an honest lawyer", "one of the children", "the boy with the red scarf",
    "our guide", "the night watchman", "a famous painter", "the whole family", "his best friend",
    "the woman at the counter", "a quiet student", "the first passenger", "the gardener",
    "their uncle from the coast", "the young engineer", "a stranger", "the choir", "every second visitor",
)
DID = (
    "carried", "remembered", "painted", "forgot", "described", "repaired", "borrowed", "followed", "discovered",
    "photographed", "cleaned", "sold", "watched", "measured", "asked about", "laughed at", "looked for", "kept",
    "worried about", "explained", "built", "lost", "hid", "wrote about",
)
WHAT = (
    "a wooden bridge", "the yellow umbrella", "seven empty bottles", "the broken clock", "an orange bicycle",
    "the letter from Paris", "a bowl of cherries", "the oldest map", "three grey horses", "the missing key",
    "a thin book of poems", "the garden fence", "a heavy suitcase", "the church tower", "some very strange music",
    "the last piece of cheese", "a box of photographs", "the river boat", "a puzzle with a thousand pieces",
    "the winter coat", "fresh bread and butter", "a silver watch", "the northern lights", "an unusual theory",
)
WHERE = (
    "near the harbour", "behind the railway station", "in a narrow street", "under the big oak tree",
    "at the edge of the forest", "on the second floor", "in the middle of the square", "beside the frozen lake",
    "far from home", "across the valley", "in the public library", "between two hills", "along the beach",
    "outside the theatre", "at the market", "in the kitchen",
)
WHEN = (
    "before breakfast", "on a rainy Thursday", "last September", "during the storm", "after a long journey",
    "in nineteen eighty four", "just after midnight", "every other weekend", "at a quarter to five",
    "while the others were asleep", "for the third time", "without saying a word", "as quickly as possible",
    "early in the morning", "when the music stopped", "much too late",
)
JOIN = (
    ", and ", ", but ", ", because ", ", although ", ". Meanwhile ", ". Then ", ", so ", ". Perhaps ",
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class Speaker:
    """The properties that all utterances of a synthetic speaker share."""

    name: str
    subset: str  # "train" or "test"
    variant: str
    accent: str
    pitch: float  # espeak's scale, 0 to 99
    pitch_range: float  # espeak's scale, 0 to 99
    rate: float  # words per minute
    tract: float  # factor of formants and pitch


def make_demo(
    root: str | Path,
    *,
    seed: int = 0,
    num_train_speakers: int = 60,
    num_test_speakers: int = 20,
    num_utterances: int = 12,
    num_jobs: int | None = None,
) -> dict[str, int]:
    """Write the demo corpus to ``root``, replacing an earlier demo corpus.

    Args:
        root: folder to write.
        seed: determines every byte, together with the three sizes.
        num_train_speakers: number of speakers in the unlabelled training set.
        num_test_speakers: number of speakers in the test set, whose trials are all pairs of utterances; at least 2.
        num_utterances: number of utterances per speaker, 3 to 8 s each; at least 2.
        num_jobs: number of processes; by default one per core.

    Returns:
        The numbers of ``utterances``, ``trials``, ``noises`` and ``rirs``.

    Raises:
        InputError: a size is too small, ``root`` exists and is not a demo corpus, or espeak-ng cannot be loaded.
    """
    root = Path(root)
    if num_train_speakers < 1 or num_test_speakers < 2 or num_utterances < 2:
        raise InputError("the demo corpus needs at least 1 training speaker, 2 test speakers and 2 utterances each")
    if root.exists() and not (root / MARK).is_file() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root}: already exists and is not a demo corpus: remove it, or use another folder")
    _import_espeak()
    speakers = draw_speakers(seed, num_train_speakers, num_test_speakers)

    partial = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        jobs: list[Callable[[], None]] = [
            functools.partial(_speak_all, partial, seed, speakers[first : first + SPEAKERS_PER_PROCESS], num_utterances)
            for first in range(0, len(speakers), SPEAKERS_PER_PROCESS)
        ]
        jobs += [functools.partial(_write_noises, partial, seed), functools.partial(_write_rirs, partial, seed)]
        _run_in_fresh_processes(jobs, num_jobs or usable_processors())

        test = [(s.name, f"{s.name}-{n:02d}") for s in speakers if s.subset == "test" for n in range(num_utterances)]
        trials = list(itertools.combinations(test, 2))
        with atomic_output(partial / "test" / "trials", "w") as stream:
            for (speaker1, utterance1), (speaker2, utterance2) in trials:
                stream.write(f"{utterance1} {utterance2} {'target' if speaker1 == speaker2 else 'nontarget'}\n")
        with atomic_output(partial / MARK, "w") as stream:
            description = {"seed": seed, "speakers": [dataclasses.asdict(speaker) for speaker in speakers]}
            json.dump(description, stream, indent=1)
        shutil.rmtree(root, ignore_errors=True)
        partial.rename(root)
    except OSError as error:
        raise InputError(f"{root}: cannot write: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {
        "utterances": len(speakers) * num_utterances,
        "trials": len(trials),
        "noises": NUM_NOISES,
        "rirs": NUM_RIRS,
    }


def draw_speakers(seed: int, num_train: int, num_test: int) -> list[Speaker]:
    """Draw the speakers. Two test speakers share each test variant, so that the variant alone is not the speaker."""
    rng = np.random.default_rng([seed, 0])
    variants = [VARIANTS[i] for i in rng.permutation(len(VARIANTS))]
    num_test_variants = min((num_test + 1) // 2, len(variants) // 3)
    names = {"test": variants[:num_test_variants], "train": variants[num_test_variants:]}
    speakers = []
    for subset, count in (("train", num_train), ("test", num_test)):
        for index in range(count):
            speakers.append(
                Speaker(
                    name=f"{subset}{index:03d}",
                    subset=subset,
                    variant=names[subset][index % len(names[subset])],
                    accent=ACCENTS[rng.integers(len(ACCENTS))],
                    pitch=rng.uniform(20, 80),
                    pitch_range=rng.uniform(20, 80),
                    rate=rng.uniform(140, 200),
                    tract=rng.uniform(0.92, 1.09),
                )
            )
    return speakers


def draw_text(rng: np.random.Generator) -> str:
    """Draw two or three clauses of ordinary words: one of more than 10^12 texts."""

    def clause() -> str:
        words = [WHO[rng.integers(len(WHO))], DID[rng.integers(len(DID))], WHAT[rng.integers(len(WHAT))]]
        if rng.random() < 0.6:
            words.append(WHERE[rng.integers(len(WHERE))])
        if rng.random() < 0.4:
            words.append(WHEN[rng.integers(len(WHEN))])
        return " ".join(words)

    text = clause()
    for _ in range(rng.integers(1, 3)):
        text += JOIN[rng.integers(len(JOIN))] + clause()
    return text + "."


def _run_in_fresh_processes(jobs: list[Callable[[], None]], num_jobs: int) -> None:
    """Run each job in a process of its own, and ``num_jobs`` at a time."""
    context = multiprocessing.get_context("spawn")

    def run(job: Callable[[], None]) -> None:
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
            try:
                executor.submit(job).result()
            except concurrent.futures.process.BrokenProcessPool as error:
                raise InputError("a process was killed while making the demo corpus: retry with fewer jobs") from error

    with concurrent.futures.ThreadPoolExecutor(max(1, min(num_jobs, len(jobs)))) as executor:
        list(executor.map(run, jobs))


def _import_espeak() -> ModuleType:
    try:
        import espeakng_loader
    except ImportError as error:
        raise InputError(
            "the demo corpus needs espeakng-loader, which is not installed: "
            'run pip install "sdpn_k2[demo]" (in a checkout: pip install -e ".[demo]")'
        ) from error
    return espeakng_loader


class Synthesizer:
    """The espeak-ng library, called in this process through its C interface."""

    RETRIEVAL, DONT_EXIT = 2, 0x8000
    RATE, PITCH, RANGE = 1, 3, 4
    UTF8 = 1

    def __init__(self, seed: int):
        """Load the library and its data. Do so once per process, since the library keeps its state.

        Raises:
            InputError: the library is missing, does not load, or does not find its data.
        """
        espeakng_loader = _import_espeak()
        try:
            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            raise InputError(f"espeak-ng cannot be loaded: {error}; reinstall espeakng-loader") from error
        self._data = Path(espeakng_loader.get_data_path())
        self.sample_rate = self._library.espeak_Initialize(self.RETRIEVAL, 0, os.fsencode(self._data), self.DONT_EXIT)
        if self.sample_rate <= 0:
            raise InputError(f"espeak-ng does not start with its data in {self._data}; reinstall espeakng-loader")
        self._pieces: list[np.ndarray] = []

        @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        def collect(samples: Any, count: int, events: int) -> int:
            if samples and count > 0:
                self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        self._collect = collect  # the library keeps only the address
        self._library.espeak_SetSynthCallback(collect)
        # Otherwise the library seeds the noise of some voices with the time of day.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))

    def speak(
        self, text: str, accent: str, variant: str, *, rate: float, pitch: float, pitch_range: float
    ) -> np.ndarray:
        """Return the speech as float64 (samples,) in ±1 at ``self.sample_rate``.

        Raises:
            InputError: espeak-ng does not have the accent or the variant.
        """
        voice = f"{accent}+{variant}"
        # The library silently ignores an unknown variant.
        has_variant = (self._data / "voices" / "!v" / variant).is_file()
        if not has_variant or self._library.espeak_SetVoiceByName(voice.encode()):
            raise InputError(f"espeak-ng has no voice {voice!r}; reinstall espeakng-loader")
        for parameter, value in ((self.RATE, rate), (self.PITCH, pitch), (self.RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, round(value), 0)
        self._pieces.clear()
        encoded = text.encode()
        if self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, self.UTF8, None, None):
            raise InputError(f"espeak-ng cannot speak with voice {voice!r}")
        return from_int16(np.concatenate(self._pieces)).astype(np.float64)


def _speak_all(root: Path, seed: int, speakers: list[Speaker], num_utterances: int) -> None:
    """Write all utterances of these speakers."""
    synthesizer = Synthesizer(seed)
    for speaker in speakers:
        rng = np.random.default_rng([seed, 1, speaker.subset == "test", int(speaker.name[-3:])])
        folder = root / speaker.subset / speaker.name
        folder.mkdir(parents=True)
        for index in range(num_utterances):
            speech = _speak_one(synthesizer, speaker, rng)
            _write_wav(folder / f"{speaker.name}-{index:02d}.wav", _pass_channel(speech, rng))


def _speak_one(synthesizer: Synthesizer, speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """Say a text that takes 3 to 8 s; return speech at 16 kHz."""
    from scipy.signal import resample_poly

    while True:
        speech = synthesizer.speak(
            draw_text(rng),
            speaker.accent,
            speaker.variant,
            rate=speaker.rate * rng.uniform(0.93, 1.07),
            pitch=np.clip(speaker.pitch + rng.uniform(-6, 6), 0, 99),
            pitch_range=np.clip(speaker.pitch_range + rng.uniform(-8, 8), 0, 99),
        )
        # Playing at another rate moves formants and pitch together, as a longer or shorter vocal tract does.
        down = round(speaker.tract * synthesizer.sample_rate / 100)
        speech = resample_poly(speech, SAMPLE_RATE // 100, down)
        if MIN_SECONDS <= len(speech) / SAMPLE_RATE <= MAX_SECONDS:
            return speech


def _pass_channel(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give one recording its own equaliser, room (7 of 10), background noise (10 to 30 dB below) and level."""
    from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

    room = room_response(rng, decay=rng.uniform(0.2, 0.6)) if rng.random() < 0.7 else np.ones(1)
    size = next_fast_len(len(speech) + len(room), real=True)
    octaves = np.log2(np.maximum(rfftfreq(size, 1 / SAMPLE_RATE), 50) / 1000)
    gain_db = rng.uniform(-1, 1) * octaves
    for _ in range(2):
        gain_db += rng.uniform(-3, 3) * np.exp(-0.5 * ((octaves - rng.uniform(-2, 2.5)) / 0.7) ** 2)
    speech = irfft(rfft(speech, size) * rfft(room, size) * 10 ** (gain_db / 20), size)[: len(speech)]
    noise = coloured_noise(rng, len(speech), slope=rng.uniform(-2, 0))
    speech = speech + noise * (np.std(speech) * 10 ** (-rng.uniform(10, 30) / 20))
    return speech * (10 ** (rng.uniform(-10, -1) / 20) / np.max(np.abs(speech)))


def room_response(rng: np.random.Generator, decay: float) -> np.ndarray:
    """Draw a room's impulse response (samples,): direct path at 0 with height 1, reflections, exponential tail.

    Args:
        rng: random generator.
        decay: seconds until the tail has fallen by 60 dB.
    """
    time = np.arange(int(1.1 * decay * SAMPLE_RATE)) / SAMPLE_RATE
    envelope = 10 ** (-3 * time / decay)
    tail = rng.standard_normal(len(time)) * envelope
    tail[: int(rng.uniform(0.01, 0.03) * SAMPLE_RATE)] = 0
    # The tail has 3 to 15 dB less energy than the direct path.
    response = tail * np.sqrt(10 ** (-rng.uniform(3, 15) / 10) / np.sum(tail**2))
    for delay in rng.uniform(0.001, 0.04, rng.integers(6, 15)):
        sample = int(delay * SAMPLE_RATE)
        response[sample] += rng.choice([-1, 1]) * rng.uniform(0.1, 0.4) * envelope[sample]
    response[0] = 1
    return response


def coloured_noise(rng: np.random.Generator, num_samples: int, slope: float) -> np.ndarray:
    """Draw Gaussian noise (samples,) of unit deviation; its power is proportional to frequency ** ``slope``."""
    from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

    size = next_fast_len(num_samples, real=True)
    spectrum = rfft(rng.standard_normal(size)) * np.maximum(rfftfreq(size, 1 / SAMPLE_RATE), 20) ** (slope / 2)
    noise = irfft(spectrum, size)[:num_samples]
    return noise / np.std(noise)


def _write_noises(root: Path, seed: int) -> None:
    """Write noises of 8 s, alternately coloured, humming, impulsive and machine-like."""
    kinds = (_steady, _hum, _impulses, _machine)
    (root / "noise").mkdir()
    for index in range(NUM_NOISES):
        rng = np.random.default_rng([seed, 2, index])
        kind = kinds[index % len(kinds)]
        noise = kind(rng, np.arange(8 * SAMPLE_RATE) / SAMPLE_RATE)
        _write_wav(root / "noise" / f"{kind.__name__[1:]}-{index:02d}.wav", 0.5 * noise / np.max(np.abs(noise)))


def _steady(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Draw rain or wind: white, pink or brown noise that swells slowly."""
    swell = 1 + rng.uniform(0, 0.8) * np.sin(2 * np.pi * rng.uniform(0.05, 0.5) * time + rng.uniform(0, 6))
    return swell * coloured_noise(rng, len(time), slope=rng.uniform(-2.2, 0.3))


def _hum(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Draw mains hum or a motor: harmonics of a low tone over a little noise."""
    tone = rng.choice([50.0, 60.0, rng.uniform(70, 240)]) * (1 + 0.002 * np.sin(2 * np.pi * rng.uniform(0.1, 1) * time))
    phase = 2 * np.pi * np.cumsum(tone) / SAMPLE_RATE
    harmonics = [rng.uniform(0.3, 1) / n * np.sin(n * phase + rng.uniform(0, 6)) for n in range(1, 25)]
    return np.sum(harmonics, axis=0) + 0.05 * coloured_noise(rng, len(time), slope=-1)


def _impulses(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Draw knocks, clicks and clatter: decaying resonances at random times."""
    noise = 0.003 * coloured_noise(rng, len(time), slope=-1)
    for start in np.sort(rng.integers(0, len(time), rng.integers(15, 80))):
        tail = time[: len(time) - start][: SAMPLE_RATE // 2]
        burst = np.sin(2 * np.pi * rng.uniform(150, 5000) * tail) + 0.7 * rng.standard_normal(len(tail))
        noise[start : start + len(tail)] += rng.uniform(0.1, 1) * burst * np.exp(-tail / rng.uniform(0.002, 0.06))
    return noise


def _machine(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Draw a washing machine or an engine: noise in regular strokes."""
    strokes = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1.5, 18) * time)
    return strokes ** rng.uniform(1, 6) * coloured_noise(rng, len(time), slope=rng.uniform(-2, 0))


def _write_rirs(root: Path, seed: int) -> None:
    """Write room impulse responses, delayed by the time from mouth to microphone."""
    (root / "rir").mkdir()
    for index in range(NUM_RIRS):
        rng = np.random.default_rng([seed, 3, index])
        response = room_response(rng, decay=rng.uniform(0.15, 0.9))
        lead = np.zeros(int(rng.uniform(0.001, 0.01) * SAMPLE_RATE))
        response = np.concatenate([lead, response])
        _write_wav(root / "rir" / f"room-{index:02d}.wav", 0.95 * response / np.max(np.abs(response)))


def _write_wav(path: Path, samples: np.ndarray) -> None:
    """Write float samples (samples,) in ±1 as 16-bit PCM at 16 kHz."""
    import soundfile

    try:
        soundfile.write(path, np.round(samples * (INT16_SCALE - 1)).astype(np.int16), SAMPLE_RATE, subtype="PCM_16")
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(f"{path}: cannot write: {error}; is the disk full?") from error
