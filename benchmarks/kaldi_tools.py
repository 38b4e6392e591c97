#!/usr/bin/env python
"""Compare the speed of the drop-in Kaldi tools with kaldiio, kaldi_native_fbank and a plain Python loop.

    python benchmarks/kaldi_tools.py [--parts start-up tables scoring fbank] [--vectors 1000000] [--trials 580000]

Every tool runs as a process of its own, as in a recipe. Times are the best of three, except for long runs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sdpn_k2.kaldi.backend.plda import Plda, write_plda
from sdpn_k2.kaldi.features.wave import Wave
from sdpn_k2.kaldi.formats.tables import TableWriter, read_table, write_object

BIN = Path(__file__).resolve().parents[1] / "utils" / "kaldi-bin"
RATE = 16000

COPY_LIST = """
import sys
with open(sys.argv[1]) as trials, open(sys.argv[2], "w") as scores:
    for line in trials:
        enroll, test = line.split()
        scores.write(f"{enroll} {test} {1.25:.6g}\\n")
"""


def report(name, seconds, remark=""):
    print(f"{name:<64} {seconds:8.2f} s   {remark}", flush=True)


def best(function, times=3):
    """Run a function several times; return the shortest duration in seconds."""
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return min(durations)


def process(*command):
    """Run a program; return (seconds, peak memory in MB)."""
    start = time.perf_counter()
    child = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))}: failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def tool(name, *arguments):
    return process(sys.executable, BIN / name, *arguments)


def start_up(folder):
    write_object(f"{folder}/a.vec", np.ones(256), "vector")
    copy = ("copy-vector", f"{folder}/a.vec", f"{folder}/b.vec")
    report("copy-vector of one vector, whole process", min(tool(*copy)[0] for _ in range(10)), "(at most 0.25)")
    report("python -c 'import numpy'", min(process(sys.executable, "-c", "import numpy")[0] for _ in range(10)))


def tables(folder, count):
    import kaldiio

    vectors = np.random.default_rng(0).standard_normal((count, 256), dtype=np.float32)
    keys = [f"id{i % 1251 + 10001}-5r0dWxy17C8-{i:08d}" for i in range(count)]

    def ours_write():
        with TableWriter(f"ark,scp:{folder}/ours.ark,{folder}/ours.scp", "vector") as writer:
            for key, vector in zip(keys, vectors):
                writer.write(key, vector)

    def theirs_write():
        with kaldiio.WriteHelper(f"ark,scp:{folder}/theirs.ark,{folder}/theirs.scp") as writer:
            for key, vector in zip(keys, vectors):
                writer(key, vector)

    def consume(entries):
        assert sum(1 for _ in entries) == count

    ways = {
        "write ark,scp": (ours_write, theirs_write),
        "read ark": (
            lambda: consume(read_table(f"ark:{folder}/ours.ark", "vector")),
            lambda: consume(kaldiio.load_ark(f"{folder}/ours.ark")),
        ),
        "read scp": (
            lambda: consume(read_table(f"scp:{folder}/ours.scp", "vector")),
            lambda: consume(kaldiio.ReadHelper(f"scp:{folder}/ours.scp")),
        ),
    }
    for name, (ours, theirs) in ways.items():
        seconds, peer = best(ours), best(theirs)
        report(f"{name}: {count} vectors of 256 dimensions", seconds)
        report("  peer: kaldiio", peer, f"ours is {peer / seconds:.1f} × faster (at least 3)")


def scoring(folder, count):
    rng = np.random.default_rng(0)
    keys = [f"id{i % 40 + 10270}-5r0dWxy17C8-{i:05d}.wav" for i in range(4874)]
    with TableWriter(f"ark:{folder}/test.ark", "vector") as writer:
        for key, vector in zip(keys, rng.standard_normal((len(keys), 200), dtype=np.float32)):
            writer.write(key, vector)
    transform = np.linalg.qr(rng.standard_normal((200, 200)))[0]
    write_plda(f"{folder}/plda", Plda(np.zeros(200), transform, np.sort(rng.uniform(0.1, 5, 200))[::-1]))
    with open(f"{folder}/trials", "w") as stream:
        for first in range(0, count, 100_000):
            pairs = rng.integers(0, len(keys), (min(100_000, count - first), 2)).tolist()
            stream.writelines(f"{keys[enroll]} {keys[test]}\n" for enroll, test in pairs)
    times = 3 if count <= 10**6 else 1
    loop = min(
        process(sys.executable, "-c", COPY_LIST, f"{folder}/trials", f"{folder}/copied")[0] for _ in range(times)
    )
    vectors = f"ark:{folder}/test.ark"
    runs = [
        tool("ivector-plda-scoring", f"{folder}/plda", vectors, vectors, f"{folder}/trials", f"{folder}/scores")
        for _ in range(times)
    ]
    seconds, memory = min(runs)
    report(
        f"ivector-plda-scoring: 4874 vectors of 200 dimensions, {count} trials",
        seconds,
        f"{seconds / loop:.1f} × the loop (at most 4), {memory:.0f} MB (at most 300)",
    )
    report("  peer: a Python loop that copies the list with one number", loop)


def fbank(folder):
    import kaldi_native_fbank

    rng = np.random.default_rng(0)
    seconds = rng.uniform(0.5, 1.5, 100)
    seconds *= 767 / seconds.sum()
    waves = [(3000 * rng.standard_normal(int(duration * RATE))).astype(np.float32) for duration in seconds]
    with TableWriter(f"ark,scp:{folder}/wav.ark,{folder}/wav.scp", "wave") as writer:
        for i, samples in enumerate(waves):
            writer.write(f"utt{i:03d}", Wave(samples[None], RATE))
    write_object(f"{folder}/a.vec", np.ones(256), "vector")
    start = min(tool("copy-vector", f"{folder}/a.vec", f"{folder}/b.vec")[0] for _ in range(5))
    for threads in sorted({1, 2, os.cpu_count()}):
        elapsed = min(
            tool(
                "compute-fbank-feats",
                "--dither=0",
                "--num-mel-bins=80",
                f"--num-threads={threads}",
                f"scp:{folder}/wav.scp",
                f"ark:{folder}/fbank.ark",
            )[0]
            for _ in range(3)
        )
        besides = elapsed - start
        report(
            f"compute-fbank-feats: 100 files, 767 s, {threads} thread(s)",
            elapsed,
            f"{besides:.2f} s besides start-up (at most 0.34 on one thread), {767 / besides:.0f} × real time",
        )

    def peer():
        options = kaldi_native_fbank.FbankOptions()
        options.frame_opts.dither = 0
        options.mel_opts.num_bins = 80
        for samples in waves:
            extractor = kaldi_native_fbank.OnlineFbank(options)
            extractor.accept_waveform(RATE, samples.tolist())
            extractor.input_finished()
            np.stack([extractor.get_frame(i) for i in range(extractor.num_frames_ready)])

    elapsed = best(peer)
    report("  peer: kaldi_native_fbank, without reading and writing", elapsed, f"{767 / elapsed:.0f} × real time")


PARTS = {
    "start-up": lambda folder, arguments: start_up(folder),
    "tables": lambda folder, arguments: tables(folder, arguments.vectors),
    "scoring": lambda folder, arguments: scoring(folder, arguments.trials),
    "fbank": lambda folder, arguments: fbank(folder),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--vectors", type=int, default=1_000_000, help="number of vectors in the table part (1 KB each)"
    )
    parser.add_argument(
        "--trials", type=int, default=580_000, help="number of trials; 100000000 shows that memory is bounded"
    )
    arguments = parser.parse_args()
    if len(arguments.parts) > 1:
        # One process for each part: the kernel counts the peak memory of a parent as its child's.
        for name in arguments.parts:
            limits = [f"--vectors={arguments.vectors}", f"--trials={arguments.trials}"]
            subprocess.run([sys.executable, __file__, "--parts", name, *limits], check=True)
        return
    name = arguments.parts[0]
    print(f"{name} ({os.cpu_count()} cores, Python {sys.version.split()[0]}, NumPy {np.__version__})")
    with tempfile.TemporaryDirectory() as folder:
        PARTS[name](folder, arguments)


if __name__ == "__main__":
    main()
