#!/usr/bin/env python
"""Compare the speed of the drop-in Kaldi tools with kaldiio, kaldi_native_fbank, NumPy and a plain Python loop.

    python benchmarks/kaldi_tools.py [--parts start-up tables …] [--vectors 1000000] [--trials 580000]
                                     [--utterances 1000000]

Every tool runs as a process of its own, as in a recipe. Times are the best of three, except for long runs. The parts
features, nnet3 and data-dirs count processor time, so that they may run beside other work.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sdpn_k2.kaldi.backend.plda import Plda, write_plda
from sdpn_k2.kaldi.features import frames
from sdpn_k2.kaldi.features.wave import Wave
from sdpn_k2.kaldi.formats.tables import TableWriter, read_table, write_object
from sdpn_k2.kaldi.nnet3.components import Component
from sdpn_k2.kaldi.nnet3.raw_network import Network, parse_node, write_network

UTILS = Path(__file__).resolve().parents[1] / "utils"
BIN = UTILS / "kaldi-bin"
RATE = 16000

# The x-vector network of Kaldi's sre16/v2: inputs and outputs of the layers, and the frames that each one sees.
TDNN = (
    (23, 512, (-2, -1, 0, 1, 2)),
    (512, 512, (-2, 0, 2)),
    (512, 512, (-3, 0, 3)),
    (512, 512, (0,)),
    (512, 1500, (0,)),
)
XVECTOR_DIM = 512

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


def processor_time(*command, times=3):
    """Run a program several times; return the least (seconds of processor time of it and its children, MB)."""
    best_run = (float("inf"), 0.0)
    for _ in range(times):
        child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            sys.exit(f"{' '.join(map(str, command))}: failed")
        best_run = min(best_run, (usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
    return best_run


def own_time(function, times=3):
    """Run a function several times; return the least processor time in seconds."""
    durations = []
    for _ in range(times):
        start = time.process_time()
        function()
        durations.append(time.process_time() - start)
    return min(durations)


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


def features(folder):
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((int(rng.integers(200, 800)), 30), dtype=np.float32) for _ in range(2000)]
    with TableWriter(f"ark:{folder}/feats.ark", "matrix") as writer:
        for number, matrix in enumerate(matrices):
            writer.write(f"utt{number:05d}", matrix)
    transform = rng.standard_normal((30, 31), dtype=np.float32)
    write_object(f"{folder}/transform.mat", transform, "matrix")
    table = f"ark:{folder}/feats.ark"

    def run(name, *arguments):
        return processor_time(sys.executable, BIN / name, *arguments, "ark:/dev/null")[0]

    def over_all(function):
        def all_of_them():
            for matrix in matrices:
                function(matrix)

        return own_time(all_of_them)

    copy = run("copy-feats", table)
    report(f"copy-feats: 2000 matrices, {sum(map(len, matrices))} × 30", copy, "processor time")
    filters = frames.delta_filters(2, 2)
    for words, arithmetic in (
        (("add-deltas", table), lambda m: frames.add_deltas(m, filters)),
        (("splice-feats", table), lambda m: frames.splice(m, 4, 4)),
        (("transform-feats", f"{folder}/transform.mat", table), lambda m: m @ transform[:, :30].T + transform[:, 30]),
        (("paste-feats", table, f"ark,s,cs:{folder}/feats.ark"), lambda m: np.hstack([m, m])),
        (("subsample-feats", "--n=2", table), lambda m: np.ascontiguousarray(m[::2])),
        (("select-feats", "0-9,20-29", table), lambda m: m[:, [*range(10), *range(20, 30)]]),
    ):
        seconds, own = run(*words), over_all(arithmetic)
        inputs = copy + (own_read(table) if words[0] == "paste-feats" else 0)
        share = (seconds - own) / inputs
        report(f"  {words[0]}", seconds, f"arithmetic {own:.2f} s; the rest is {share:.2f} × copy-feats (at most 1.2)")


def own_read(rspecifier):
    """Return the processor time that reading the table once takes: paste-feats reads two."""
    return own_time(lambda: sum(1 for _ in read_table(rspecifier, "matrix")))


def nnet3(folder, count=40):
    rng = np.random.default_rng(0)
    parts, lines, before = [], ["input-node name=input dim=23"], "input"

    def add(kind, name, fields, source):
        parts.append(Component(name, kind, fields, []))
        lines.append(f"component-node name={name} component={name} input={source}")
        return name

    def affine(name, inputs, outputs, source):
        weights = rng.standard_normal((outputs, inputs), dtype=np.float32) * np.float32((2 / inputs) ** 0.5)
        bias = np.zeros(outputs, np.float32)
        fields = {"LearningRate": np.float32(0), "LinearParams": weights, "BiasParams": bias}
        return add("NaturalGradientAffineComponent", name, fields, source)

    for number, (inputs, outputs, offsets) in enumerate(TDNN, 1):
        source = ", ".join(f"Offset({before}, {offset})" if offset else before for offset in offsets)
        before = affine(
            f"tdnn{number}", inputs * len(offsets), outputs, f"Append({source})" if len(offsets) > 1 else before
        )
        before = add("RectifiedLinearComponent", f"relu{number}", {"Dim": outputs}, before)
        statistics = {
            "BlockDim": outputs,
            "Epsilon": np.float32(1e-3),
            "TargetRms": np.float32(1),
            "Count": np.float64(9),
        }
        statistics.update(StatsMean=np.full(outputs, 0.5, np.float32), StatsVar=np.ones(outputs, np.float32))
        before = add("BatchNormComponent", f"norm{number}", {"Dim": outputs, **statistics}, before)
    dim = TDNN[-1][1]
    extraction = {"InputDim": dim, "InputPeriod": 1, "OutputPeriod": 1, "IncludeVarinance": True}
    before = add("StatisticsExtractionComponent", "extraction", extraction, before)
    pooling = {"InputDim": 2 * dim + 1, "InputPeriod": 1, "LeftContext": 10000, "RightContext": 10000}
    pooling.update(NumLogCountFeatures=0, OutputStddevs=True, VarianceFloor=np.float32(1e-10))
    before = add("StatisticsPoolingComponent", "pooling", pooling, before)
    before = affine("embedding", 2 * dim, XVECTOR_DIM, f"Round({before}, 1)")
    lines.append(f"output-node name=output input={before}")
    nodes = [parse_node(line) for line in lines]
    network = Network({node.name: node for node in nodes}, {part.name: part for part in parts})
    write_network(f"{folder}/final.raw", network)

    lengths = rng.integers(200, 800, count)
    with TableWriter(f"ark:{folder}/mfcc.ark", "matrix") as writer:
        for number, length in enumerate(lengths):
            writer.write(f"utt{number:05d}", rng.standard_normal((length, 23), dtype=np.float32))
    write_object(f"{folder}/a.vec", np.ones(256), "vector")
    start = processor_time(sys.executable, BIN / "copy-vector", f"{folder}/a.vec", f"{folder}/b.vec")[0]
    command = (BIN / "nnet3-xvector-compute", f"{folder}/final.raw", f"ark:{folder}/mfcc.ark", f"ark:{folder}/x.ark")
    seconds = processor_time(sys.executable, *command)[0] - start
    weights = [rng.standard_normal((len(offsets) * i, o), dtype=np.float32) for i, o, offsets in TDNN]
    inputs = [rng.standard_normal((800, len(each)), dtype=np.float32) for each in weights]

    def products():
        for length in lengths:
            for rows, each in zip(inputs, weights):
                rows[:length] @ each

    limit = own_time(products)
    total = int(lengths.sum())
    report(
        f"nnet3-xvector-compute, {count} utterances, {total} frames",
        seconds,
        f"processor time besides start-up; {total / seconds:.0f} frames/s",
    )
    report("  limit: its matrix products in NumPy", limit, f"{limit / seconds:.0%} of it (at least 50 %)")


def data_dirs(folder, count):
    def write(name, utterances):
        speaker_of = {utterance: utterance[:7] for utterance in utterances}
        values = {
            "utt2spk": lambda i, key: speaker_of[key],
            "wav.scp": lambda i, key: f"/corpora/voxceleb2/dev/wav/{key[:7]}/{key[8:21]}/{i:07d}.wav",
            "feats.scp": lambda i, key: (
                f"/exp/fbank/raw_fbank_train.{1 + i * 40 // count}.ark:{i * 51234 % 4000000000}"
            ),
            "vad.scp": lambda i, key: f"/exp/vad/vad_train.{1 + i * 40 // count}.ark:{i * 1234 % 400000000}",
            "utt2dur": lambda i, key: f"{3 + i % 1000 / 100:.2f}",
            "utt2num_frames": lambda i, key: 300 + i % 1000,
        }
        os.makedirs(f"{folder}/{name}")
        for table, value in values.items():
            with open(f"{folder}/{name}/{table}", "w") as stream:
                stream.writelines(f"{key} {value(i, key)}\n" for i, key in enumerate(utterances))
        by_speaker = {}
        for utterance, speaker in speaker_of.items():
            by_speaker.setdefault(speaker, []).append(utterance)
        with open(f"{folder}/{name}/spk2utt", "w") as stream:
            stream.writelines(f"{speaker} {' '.join(names)}\n" for speaker, names in by_speaker.items())

    ids = [f"id{10000 + i // 160:05d}-5r0dWxy17C8{i // 8 % 20:02d}-{i:07d}" for i in range(count)]
    write("all", ids)
    write("first", ids[: count // 2])
    write("second", ids[count // 2 :])
    with open(f"{folder}/all/feats.scp") as stream:
        lines = stream.readlines()
    with open(f"{folder}/all/feats.scp", "w") as stream:
        stream.writelines(lines[: count // 2] + lines[count // 2 + 1 :])  # fix has something to do
    for words, limit in (
        (("fix_data_dir.sh", f"{folder}/all"), 20),
        (("combine_data.sh", f"{folder}/both", f"{folder}/first", f"{folder}/second"), 20),
        (("split_data.sh", f"{folder}/both", 80), 10),
    ):
        seconds, memory = processor_time(UTILS / words[0], *words[1:], times=1)
        report(
            f"{words[0]}: {count} utterances",
            seconds,
            f"processor time (at most {limit}), {memory:.0f} MB (at most 2000)",
        )
    shutil.rmtree(f"{folder}/both")


PARTS = {
    "start-up": lambda folder, arguments: start_up(folder),
    "tables": lambda folder, arguments: tables(folder, arguments.vectors),
    "scoring": lambda folder, arguments: scoring(folder, arguments.trials),
    "fbank": lambda folder, arguments: fbank(folder),
    "features": lambda folder, arguments: features(folder),
    "nnet3": lambda folder, arguments: nnet3(folder),
    "data-dirs": lambda folder, arguments: data_dirs(folder, arguments.utterances),
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
    parser.add_argument("--utterances", type=int, default=1_000_000, help="number of utterances in data-dirs")
    arguments = parser.parse_args()
    if len(arguments.parts) > 1:
        # One process for each part: the kernel counts the peak memory of a parent as its child's.
        for name in arguments.parts:
            limits = [f"--vectors={arguments.vectors}", f"--trials={arguments.trials}"]
            limits.append(f"--utterances={arguments.utterances}")
            subprocess.run([sys.executable, __file__, "--parts", name, *limits], check=True)
        return
    name = arguments.parts[0]
    print(f"{name} ({os.cpu_count()} cores, Python {sys.version.split()[0]}, NumPy {np.__version__})")
    with tempfile.TemporaryDirectory() as folder:
        PARTS[name](folder, arguments)


if __name__ == "__main__":
    main()
