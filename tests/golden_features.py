"""Signals, Kaldi's features of them, and what Kaldi's tools computed from features: see tests/data/golden/README.md."""

import collections

import kaldiio
import numpy as np
import soundfile
from kaldi_support import succeed

RATE = 16000
STEP = 8  # signal_features.npz holds every eighth frame
DIMS = 6  # normalised_features.npz holds the first six of Kaldi's 80 fbank dimensions


def read_tables(path):
    """The tables in an .npz file: name → key → array."""
    tables = collections.defaultdict(dict)
    with np.load(path) as arrays:
        for name in arrays:
            table, _, key = name.partition("/")
            tables[table][key] = arrays[name]
    return tables


def write_table(folder, name, table):
    """Write an archive and its script file, as the golden command lines expect them."""
    kaldiio.save_ark(str(folder / f"{name}.ark"), table, scp=str(folder / f"{name}.scp"))


def write_waves(folder):
    """Write wav.scp and four wave files: the silence and the tone of Kaldi's files, and stand-ins for two others.

    The chirp and the short noise of Kaldi's files are not carried. Their stand-ins are as long, to the sample.
    """
    time = np.arange(27200) / RATE
    waves = {
        "chirp": np.int16(9000 * np.sin(2 * np.pi * (100 + 1000 * time) * time)),
        "noise-short": np.int16(900 * np.random.default_rng(0).standard_normal(430)),
        "silence": np.zeros(RATE, np.int16),
        "tone": np.int16(0.5 * 32767 * np.sin(2 * np.pi * 440 * time)),
    }
    for name, samples in waves.items():
        soundfile.write(folder / f"{name}.wav", samples, RATE)
    (folder / "wav.scp").write_text("".join(f"{name} {name}.wav\n" for name in sorted(waves)))


def run_line(golden, folder, part):
    """Run the only one of Kaldi's command lines that contains ``part``."""
    (line,) = [line for line in (golden / "COMMANDS.txt").read_text().splitlines() if part in line]
    succeed(line, folder)
