#!/usr/bin/env python
"""Measure how many utterances per second the loader alone delivers, from FLAC files of 8 s on disk.

    python benchmarks/loader.py [--workers 0 1 2] [--utterances 512]

The limit is libsndfile alone: one process decodes every file once and does nothing else. The peer reads each of the
five crops with a separate call, as many multi-crop data sets do. The batches that loader processes keep ready are in
memory that they share with the reader; it is printed, too.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from lhotse import Recording

from sdpn_k2.config import load_config
from sdpn_k2.data.crop_loader import multi_crop_loader
from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.data.multi_crop import MultiCropDataset, StepBatches

SECONDS, RATE, BATCH = 8, 16000, 64


def make_corpus(folder: Path, count: int) -> Path:
    """Write coloured noise with the spectral tilt of speech, so that FLAC works as hard as on speech."""
    rng = np.random.default_rng(0)
    cuts = []
    for index in range(count):
        samples = np.cumsum(rng.normal(size=SECONDS * RATE))
        samples -= np.convolve(samples, np.ones(64) / 64, mode="same")
        path = folder / f"u{index:05d}.flac"
        soundfile.write(path, 0.3 * samples / np.abs(samples).max(), RATE, subtype="PCM_16")
        cuts.append(Recording.from_file(path).to_cut())
    write_manifest(cuts, folder / "cuts.jsonl.gz")
    return folder / "cuts.jsonl.gz"


def report(name: str, count: int, start: float) -> None:
    """Print the rate since ``start``."""
    seconds = time.perf_counter() - start
    print(f"{name:<40} {count / seconds:8.0f} utterances/s", flush=True)


def shared_megabytes() -> float:
    """Return the shared memory that this process has used (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssShmem:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    """Measure the limit, the peer and our loader."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--utterances", type=int, default=512)
    arguments = parser.parse_args()
    config = load_config()
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_corpus(Path(folder), arguments.utterances)
        files = sorted(Path(folder).glob("*.flac"))
        for warm in (True, False):
            start = time.perf_counter()
            for path in files:
                soundfile.read(path, dtype="int16")
            if not warm:
                report("limit: libsndfile alone, 1 process", len(files), start)
        start = time.perf_counter()
        for path in files:
            for seconds in (4, 2, 2, 2, 2):
                soundfile.read(path, start=RATE, frames=seconds * RATE, dtype="int16")
        report("peer: one call per crop, 1 process", len(files), start)
        steps = 4 * (arguments.utterances // BATCH)
        for workers in arguments.workers:
            table = CutTable(manifest)
            batches = StepBatches(table, BATCH, steps, seed=0)
            loader = multi_crop_loader(MultiCropDataset(table, config), batches, workers, pin=False)
            next(loader)
            start = time.perf_counter()
            held = [shared_megabytes() for _ in loader]
            report(f"ours, {workers} loader processes", BATCH * len(held), start)
            print(f"{'':<40} {max(held):8.0f} MB shared with them")


if __name__ == "__main__":
    main()
