#!/usr/bin/env python
"""Compare the frame errors of ``sdpn-k2 vad`` and Kaldi's ``compute-vad`` in noise.

    python benchmarks/vad.py CORPORA [--set test] [--recordings 40] [--decoder auto]

CORPORA has folders test/ (or dev/) with clean speech, <speaker>/<utterance>.flac or .wav, and noise/, all at 16 kHz. A
recording consists of 2 to 4 utterances at equal level with 0.3 to 3 s of digital silence around them. One noise,
repeated to that length, is added at 0, 5 and 10 dB below the power of the active frames.

The truth comes from the clean utterances. A frame is active if its energy is 10 dB above the utterance's own silence
(the 5th percentile of its frames) and within 35 dB of its loud frames (the 95th). Pauses of at most 0.2 s between
active frames also count as speech (``--bridge``; 0 excludes them). Frames are 25 ms every 10 ms. The error is the share
of frames with the wrong label, averaged over recordings.

The defaults of ``sdpn-k2 vad`` were chosen on utterances of dev with every second noise; test uses the other noises.
"""

import argparse
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

import numpy as np
import soundfile
import torch

from sdpn_k2.kaldi.features.energy_vad import energy_vad
from sdpn_k2.kaldi.features.fbank_mfcc import MfccOptions, mfcc
from sdpn_k2.pcm import INT16_SCALE
from sdpn_k2.signal.decoders import find_decoder
from sdpn_k2.signal.segmentation import Topology, log_energy, segment

RATE, LENGTH, SHIFT = 16000, 400, 160
SNRS = (0, 5, 10)
KALDI = "compute-vad, its defaults"
RECIPE = "compute-vad, VoxCeleb recipe"
OURS = "sdpn-k2 vad"


class Recording(NamedTuple):
    """A noisy recording: samples in ±1, and the true label of each frame."""

    samples: np.ndarray
    speech: np.ndarray
    snr: int


def read(path: Path) -> np.ndarray:
    """Read a file at 16 kHz, float32 in ±1."""
    samples, rate = soundfile.read(path, dtype="float32")
    if rate != RATE:
        raise SystemExit(f"{path}: {rate} Hz, expected {RATE}")
    return samples


def decibels(samples: np.ndarray) -> np.ndarray:
    """Return the level of each frame in dB."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, LENGTH)[::SHIFT]
    return 10 * np.log10(frames.var(axis=1, dtype=np.float64) + 1e-12)


def active(samples: np.ndarray, bridge: int) -> np.ndarray:
    """Return the active frames of a clean utterance, including pauses of up to ``bridge`` frames."""
    level = decibels(samples)
    silence, loud = np.percentile(level, [5, 95])
    result = level > max(silence + 10, loud - 35)
    indices = np.flatnonzero(result)
    for before, after in zip(indices[:-1], indices[1:]):
        if after - before - 1 <= bridge:
            result[before:after] = True
    return result


def find_audio(folder: Path, pattern: str) -> List[Path]:
    """List the audio files that match a pattern, sorted."""
    return sorted(path for path in folder.glob(pattern) if path.suffix in (".flac", ".wav"))


def recordings(corpora: Path, name: str, count: int, bridge: int = 20, seed: int = 0) -> Iterator[Recording]:
    """Make ``count`` recordings of a set, each at every SNR."""
    rng = np.random.default_rng(seed)
    utterances = find_audio(corpora / name, "*/*")
    noises = find_audio(corpora / "noise", "*")[(0 if name == "dev" else 1) :: 2]
    for _ in range(count):
        parts = [np.zeros(silence(rng, 0.3, 2), np.float32)]
        speech = [np.zeros(len(parts[0]) // SHIFT, bool)]
        for index in rng.choice(len(utterances), rng.integers(2, 5), replace=False):
            samples = read(utterances[index])
            samples = samples[: len(samples) // SHIFT * SHIFT] * (0.05 / samples.std())
            pause = np.zeros(silence(rng, 0.5, 3), np.float32)
            parts += [samples, pause]
            labels = np.zeros((len(samples) + len(pause)) // SHIFT, bool)
            found = active(samples, bridge)
            labels[: len(found)] = found
            speech.append(labels)
        clean = np.concatenate(parts)
        level = decibels(clean)
        truth = np.concatenate(speech)[: len(level)]
        noise = read(noises[rng.integers(len(noises))])
        noise = np.resize(np.roll(noise, -rng.integers(len(noise))), len(clean))
        power = np.mean(10 ** (level[truth] / 10))
        for snr in SNRS:
            gain = np.float32(np.sqrt(power / 10 ** (snr / 10)) / noise.std())
            yield Recording(clean + gain * noise, truth, snr)


def silence(rng: np.random.Generator, shortest: float, longest: float) -> int:
    """Draw the length of a pause in samples, a multiple of the frame shift."""
    return int(rng.uniform(shortest, longest) * RATE) // SHIFT * SHIFT


def errors(noisy: List[Recording], decoder: str = "auto") -> Dict[str, Dict[int, float]]:
    """Return the frame error by system and SNR, as a share."""
    decode = find_decoder(decoder)
    labels: Dict[str, List[np.ndarray]] = {KALDI: [], RECIPE: [], OURS: []}
    energies = []
    for recording in noisy:
        features = mfcc(recording.samples * np.float32(INT16_SCALE), MfccOptions(dither=0.0))
        labels[KALDI].append(energy_vad(features))
        labels[RECIPE].append(energy_vad(features, 5.5, 0.5, 2, 0.12))
        energies.append(log_energy(torch.from_numpy(recording.samples), RATE))
    labels[OURS] = [path.speech for path in segment(energies, Topology(), decode=decode)]
    return {
        system: {
            snr: float(np.mean([np.mean(a != b.speech) for a, b in zip(answers, noisy) if b.snr == snr]))
            for snr in SNRS
        }
        for system, answers in labels.items()
    }


def main() -> None:
    """Print a table of frame errors."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--set", default="test", choices=("dev", "test"))
    parser.add_argument("--recordings", type=int, default=40)
    parser.add_argument("--bridge", type=int, default=20, help="longest pause, in frames, that counts as speech")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder", default="auto", choices=("auto", "k2", "torch"))
    arguments = parser.parse_args()
    noisy = list(recordings(arguments.corpora, arguments.set, arguments.recordings, arguments.bridge, arguments.seed))
    share = np.mean(np.concatenate([recording.speech for recording in noisy]))
    print(f"{arguments.recordings} recordings of {arguments.set}; {100 * share:.1f} % of the frames are speech\n")
    print("| frame error, % | " + " | ".join(f"{snr} dB" for snr in SNRS) + " | mean |")
    print("|---" * (len(SNRS) + 2) + "|")
    results = errors(noisy, arguments.decoder)
    for system, by_snr in results.items():
        values = [*by_snr.values(), np.mean(list(by_snr.values()))]
        print(f"| {system} | " + " | ".join(f"{100 * value:.2f}" for value in values) + " |")
    mean = {system: np.mean(list(by_snr.values())) for system, by_snr in results.items()}
    best = min(mean[KALDI], mean[RECIPE])
    print(f"\n{100 * (1 - mean[OURS] / best):.1f} % fewer errors than the better setting of compute-vad")


if __name__ == "__main__":
    main()
