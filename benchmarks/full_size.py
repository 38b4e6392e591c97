#!/usr/bin/env python
"""Rehearse the recipe at its full number of utterances, with audio so short that a small machine suffices.

    python benchmarks/full_size.py --utterances 5000                                    every stage as it is
    python benchmarks/full_size.py --utterances 1000000 --skip-features --skip-extraction

Lays down a corpus of N utterances in VoxCeleb's folders, whose files are hard links to 300 files of about 1 s, and runs
egs/voxceleb/run.sh on it, stage by stage, first with N/2 utterances and then with N. Trial lists, VoxCeleb1 and the
number of speakers scale with N. One VoxCeleb2 file in 1000 is m4a if ffmpeg is installed. The model is tiny.

Prints a row of Markdown for each stage as soon as it ends: seconds; processor seconds of all processes; processor
seconds per million utterances; peak memory of the largest process; growth of the processor seconds from N/2 to N, which
other load disturbs less than seconds. docs/scale.md explains the rows.

With --skip-features, stage 1 does not compute features: their tables point at 300 stored matrices. With
--skip-extraction, stage 4 embeds 2000 utterances only; stages 5 to 7 read random embeddings of clustered speakers.
"""

import argparse
import base64
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import soundfile

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.formats.tables import TableWriter

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000
SOURCES = 300
# VoxCeleb as published.
VOX2_UTTERANCES, VOX2_SPEAKERS, VOX2_UTTERANCES_PER_VIDEO = 1_092_009, 5_994, 7
VOX1_UTTERANCES, VOX1_SPEAKERS, VOX1_TEST_SPEAKERS = 153_516, 1_251, 40
TRIALS = {"veri_test": 37_720, "list_test_all2": 579_818, "list_test_hard2": 550_894}  # at 10^6 utterances
M4A_EVERY = 1000
EXTRACTED = 2000  # utterances that stage 4 embeds with --skip-extraction
STEPS = 4  # of training; the run is taken up again in their middle
HEADER = "| stage | seconds | processor seconds | the same per million | peak memory (GB) | growth |"


class StageError(Exception):
    """A stage failed; the message is the end of its output."""


# The corpus


def write_sources(folder, with_m4a):
    """Write the short files that all utterances are links to: noise of 1.04 to 1.24 s, at three levels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(SOURCES):
        samples = rng.standard_normal(source_samples(number)) * (0.02, 0.05, 0.1)[number % 3]
        soundfile.write(folder / f"{number}.wav", samples, RATE, subtype="PCM_16")
    if with_m4a:
        encode = ["ffmpeg", "-v", "error", "-i", folder / "0.wav", "-c:a", "aac", folder / "0.m4a"]
        subprocess.run(encode, check=True, stdin=subprocess.DEVNULL)


def source_samples(number):
    """Return the length of a source in samples."""
    return RATE + 640 + 3200 * number // SOURCES


def source_of(utterance):
    """Return the number of the source of an utterance id."""
    return zlib.crc32(utterance.encode()) % SOURCES


def utterance_parts(index, speaker_name, per_speaker, per_video):
    """Return (speaker, video, file) of utterance ``index``; videos have names like YouTube's."""
    speaker, number = divmod(index, per_speaker)
    video, number = divmod(number, per_video)
    digest = hashlib.md5(f"{speaker} {video}".encode()).digest()
    return speaker_name(speaker), base64.urlsafe_b64encode(digest)[:11].decode(), f"{number + 1:05d}"


def vox2_speaker(index):
    return f"id{12 + 3 * index // 2:05d}"


def vox1_speaker(num_test):
    """Return a function from a speaker's index to its id: the first ``num_test`` are the test speakers."""
    return lambda index: f"id{10270 + index}" if index < num_test else f"id{10310 + index}"


def scaled(published, utterances, least):
    return max(least, round(published * utterances / 1_000_000))


def lay_down(root, sources, utterances):
    """Write VoxCeleb1 and 2, the trial lists, MUSAN and RIRS_NOISES under ``root``."""
    has_m4a = (sources / "0.m4a").exists()
    speakers = min(VOX2_SPEAKERS, scaled(VOX2_SPEAKERS, utterances * 1_000_000 // VOX2_UTTERANCES, 8))
    folder = None
    for index in range(utterances):
        parts = utterance_parts(index, vox2_speaker, -(-utterances // speakers), VOX2_UTTERANCES_PER_VIDEO)
        path = root / "vox2" / "dev" / "aac" / "/".join(parts)
        folder = make_folder(path.parent, folder)
        if has_m4a and index % M4A_EVERY == 0:
            os.link(sources / "0.m4a", f"{path}.m4a")
        else:
            os.link(sources / f"{source_of('-'.join(parts))}.wav", f"{path}.wav")

    count = scaled(VOX1_UTTERANCES, utterances * 1_000_000 // VOX2_UTTERANCES, 48)
    speakers = scaled(VOX1_SPEAKERS, utterances * 1_000_000 // VOX2_UTTERANCES, 8)
    tested = scaled(VOX1_TEST_SPEAKERS, utterances * 1_000_000 // VOX2_UTTERANCES, 3)
    per_speaker = -(-count // speakers)

    def parts_of(index):
        return utterance_parts(index, vox1_speaker(tested), per_speaker, VOX2_UTTERANCES_PER_VIDEO)

    for index in range(count):
        parts = parts_of(index)
        part = "vox1_test_wav" if index < tested * per_speaker else "vox1_dev_wav"
        path = root / "vox1" / part / "wav" / "/".join(parts)
        folder = make_folder(path.parent, folder)
        os.link(sources / f"{source_of('-'.join(parts))}.wav", f"{path}.wav")
    for name, published in TRIALS.items():
        used = tested * per_speaker if name == "veri_test" else count
        write_trials(root / "vox1" / f"{name}.txt", scaled(published, utterances, 200), used, per_speaker, parts_of)

    for kind, source in {"noise": "free-sound", "music": "fma", "speech": "librivox"}.items():
        folder = root / "musan" / kind / source
        names = [f"{kind}-{source}-{number:04d}" for number in range(20)]
        for number, name in enumerate(names):
            place(sources, folder / f"{name}.wav", number)
        (folder / "ANNOTATIONS").write_text("".join(f"{name} rock N somebody\n" for name in names))
    for number in range(20):
        place(sources, root / "RIRS_NOISES" / f"simulated_rirs/smallroom/Room001/Room001-{number:05d}.wav", number)
        name = f"RVB2014_type1_rir_largeroom{number}.wav"
        place(sources, root / "RIRS_NOISES/real_rirs_isotropic_noises" / name, number)


def make_folder(path, previous):
    """Create the folder unless it is the previous one; return it."""
    if path != previous:
        path.mkdir(parents=True, exist_ok=True)
    return path


def place(sources, path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(sources / f"{number}.wav", path)


def write_trials(path, trials, utterances, per_speaker, parts_of):
    """Write a published list: half of the trials are within a speaker."""
    rng = np.random.default_rng(trials)
    speakers = utterances // per_speaker
    with open(path, "w") as stream:
        for number in range(trials):
            speaker, other, first, second = (int(value) for value in rng.integers(0, 2**31, 4))
            speaker %= speakers
            target = number % 2 == 0
            other = speaker if target else (speaker + 1 + other % (speakers - 1)) % speakers
            pair = (speaker * per_speaker + first % per_speaker, other * per_speaker + second % per_speaker)
            names = ("/".join(parts_of(index)) for index in pair)
            stream.write(f"{int(target)} {' '.join(f'{name}.wav' for name in names)}\n")


# What takes the place of stages 1 and 4


def write_features(folder):
    """Write fbank and VAD of each source once."""
    rng = np.random.default_rng(0)
    with (
        TableWriter(f"ark,scp:{folder}/fbank.ark,{folder}/fbank.scp", "matrix", compression_method=2) as fbank,
        TableWriter(f"ark,scp:{folder}/vad.ark,{folder}/vad.scp", "vector") as vad,
    ):
        for number in range(SOURCES):
            frames = num_frames(number)
            fbank.write(str(number), rng.standard_normal((frames, 80), dtype=np.float32))
            vad.write(str(number), np.ones(frames, np.float32))


def num_frames(source):
    """Return Kaldi's number of frames: windows of 400 samples, every 160."""
    return (source_samples(source) - 400) // 160 + 1


def link_features(directory, stored):
    """Write feats.scp, vad.scp and utt2num_frames of a data directory, pointing at the stored features."""
    places = {name: list(read_map(stored / f"{name}.scp").values()) for name in ("fbank", "vad")}
    with contextlib.ExitStack() as stack:
        feats, vad, frames, wav = (
            stack.enter_context(open(directory / name, mode))
            for name, mode in (("feats.scp", "w"), ("vad.scp", "w"), ("utt2num_frames", "w"), ("wav.scp", "r"))
        )
        for line in wav:
            utterance = line.split(None, 1)[0]
            source = source_of(utterance)
            feats.write(f"{utterance} {places['fbank'][source]}\n")
            vad.write(f"{utterance} {places['vad'][source]}\n")
            frames.write(f"{utterance} {num_frames(source)}\n")
    (directory / "frame_shift").write_text("0.01\n")


def write_embeddings(directory, folder, dim):
    """Write an embedding for each utterance and speaker of a data directory: a centre per speaker, and noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with TableWriter(f"ark,scp:{folder}/xvector.ark,{folder}/xvector.scp", "vector") as writer:
        with open(directory / "utt2spk") as stream:
            for line in stream:
                utterance, speaker = line.split()
                centre = np.random.default_rng(zlib.crc32(speaker.encode())).standard_normal(dim, dtype=np.float32)
                writer.write(utterance, centre + rng.standard_normal(dim, dtype=np.float32))
    with TableWriter(f"ark,scp:{folder}/spk_xvector.ark,{folder}/spk_xvector.scp", "vector") as writer:
        with open(directory / "spk2utt") as stream:
            for line in stream:
                speaker = line.split(None, 1)[0]
                centre = np.random.default_rng(zlib.crc32(speaker.encode())).standard_normal(dim, dtype=np.float32)
                writer.write(speaker, centre)


# Stages


class Rehearsal:
    """The stages at one number of utterances."""

    def __init__(self, work, utterances, dim, options, earlier):
        self.folder, self.utterances, self.dim, self.options = work / str(utterances), utterances, dim, options
        self.work, self.earlier, self.seconds = work, earlier, {}
        self.data, self.exp = self.folder / "data", self.folder / "exp"
        steps = [f"train.steps={STEPS}", f"train.checkpoint_every={STEPS // 2}", "train.batch_size=8"]
        model = ["channels=16", "attention_channels=4", "se_channels=4", "mlp_hidden_dim=16", "projection_dim=8"]
        crops = ["crops.global_seconds=1", "crops.local_seconds=0.5"]
        settings = [*steps, "train.workers=1", *crops, *(f"model.{setting}" for setting in model)]
        self.settings = [*settings, f"model.embedding_dim={dim}", "objective.num_prototypes=8"]

    def run(self):
        """Run every stage and print its row."""
        train = self.data / "train"
        print(f"\n{self.utterances} utterances\n\n{HEADER}\n|{' --- |' * 6}", flush=True)
        self.folder.mkdir()
        lay_down(self.folder, self.work / "sources", self.utterances)
        self.stage(0, "0 prepare")
        if self.options.skip_features:
            for name in ("train", "vox1"):
                link_features(self.data / name, self.work / "features")
            self.measure("1 fix_data_dir.sh", ROOT / "utils/fix_data_dir.sh", train)
            settings = [word for setting in self.settings for word in ("--set", setting)]
            self.measure("1 sdpn-k2 cuts", "sdpn-k2", "cuts", *settings, self.data, "train")
            self.call("sdpn-k2", "cuts", *settings, self.data, "vox1")
        else:
            self.stage(1, "1 features, VAD and cuts")
        self.data_directories(train)
        self.stage(2, "2 select cuts")
        self.stage(3, "3 start of training")
        last = max((self.exp / "checkpoints").iterdir())
        for path in (self.exp / "stamps/stage3.done", self.exp / "final.pt", last):
            path.unlink()
        self.stage(3, "3 resumption of training")
        if self.options.skip_extraction:
            few = self.folder / "few"
            count = min(EXTRACTED, self.utterances)
            self.call(ROOT / "utils/subset_data_dir.sh", train, count, few)
            extract = ROOT / "sid/nnet3/xvector/extract_xvectors.sh"
            self.measure(f"4 extraction of {count}", extract, "--nj", self.options.nj, self.exp, few, self.folder / "x")
            for name in ("train", "vox1"):
                write_embeddings(self.data / name, self.exp / f"xvectors_{name}", self.dim)
        else:
            self.stage(4, "4 extraction")
        self.stage(5, "5 LDA and PLDA")
        self.stage(6, "6 scoring")
        self.stage(7, "7 results and report")
        return self.seconds

    def data_directories(self, train):
        """Run the scripts that rewrite whole data directories."""
        utils, parts = ROOT / "utils", self.folder / "parts"
        self.measure("validate_data_dir.sh", utils / "validate_data_dir.sh", "--no-text", train)
        self.measure("split_data.sh", utils / "split_data.sh", train, 4)
        shutil.rmtree(train / "split4")
        self.measure("copy_data_dir.sh", utils / "copy_data_dir.sh", "--utt-prefix", "a-", train, parts / "copy")
        half = self.utterances // 2
        self.measure("subset_data_dir.sh", utils / "subset_data_dir.sh", train, half, parts / "half")
        self.measure("combine_data.sh", utils / "combine_data.sh", parts / "both", parts / "half", train)
        shutil.rmtree(parts)

    def stage(self, number, name):
        """Run one stage of run.sh and print its row."""
        options = {
            "--corpus": "voxceleb",
            "--voxceleb1-root": self.folder / "vox1",
            "--voxceleb2-root": self.folder / "vox2",
            "--musan-root": self.folder / "musan",
            "--rirs-root": self.folder / "RIRS_NOISES",
            "--data": self.data,
            "--exp": self.exp,
            "--config-set": " ".join(self.settings),
            "--nj": self.options.nj,
            "--ngpu": 0,
            "--stage": number,
            "--stop-stage": number,
        }
        words = [word for option in options.items() for word in option]
        self.measure(name, "bash", ROOT / "egs/voxceleb/run.sh", *words)

    def measure(self, name, *command):
        """Run a command and print its row."""
        seconds, processor_seconds, memory = self.call(*command)
        self.seconds[name] = processor_seconds
        growth = f"{processor_seconds / self.earlier[name]:.2f}" if name in self.earlier else ""
        million = processor_seconds / self.utterances * 1e6
        row = [name, f"{seconds:.1f}", f"{processor_seconds:.1f}", f"{million:.0f}", f"{memory:.2f}", growth]
        print(f"| {' | '.join(row)} |", flush=True)

    def call(self, *command):
        """Run a command; return seconds, processor seconds of all its processes, and GB of the largest."""
        log = self.folder / "log"
        # The tools need the Python that runs this script.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:{ROOT}/utils/parallel:{ROOT}/utils/kaldi-bin"
        start = time.perf_counter()
        with open(log, "wb") as stream:
            child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, PATH=path),
                start_new_session=True,
            )
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            # Its jobs have sessions of their own; run.pl ends them.
            os.killpg(child.pid, signal.SIGTERM)
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise StageError(f"{log.read_text(errors='replace')[-3000:]}\nfailed: {' '.join(map(str, command))}")
        return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024**2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, required=True, help="training utterances, at least 200")
    parser.add_argument("--layout", choices=["voxceleb"], default="voxceleb", help="layout of the corpus")
    parser.add_argument("--skip-features", action="store_true", help="store features of 300 files only")
    parser.add_argument("--skip-extraction", action="store_true", help=f"embed {EXTRACTED} utterances only")
    parser.add_argument("--nj", type=int, default=os.cpu_count(), help="parallel jobs")
    parser.add_argument("--work", type=Path, help="folder to work in (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep the working folder")
    options = parser.parse_args()
    if options.utterances < 200:
        parser.error("--utterances must be at least 200")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="full_size.", dir=options.work))
    try:
        write_sources(work / "sources", with_m4a=shutil.which("ffmpeg") is not None)
        (work / "features").mkdir()
        write_features(work / "features")
        dim = min(512, options.utterances // 8)
        earlier = {}
        for utterances in (options.utterances // 2, options.utterances):
            rehearsal = Rehearsal(work, utterances, dim, options, earlier)
            earlier = rehearsal.run()
            if not options.keep:
                remove(rehearsal.folder)
    except (StageError, InputError, OSError) as error:
        sys.exit(f"full_size.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if options.keep:
            print(f"\nkept: {work}")
        else:
            remove(work)


def remove(folder):
    """Remove a folder, in which processes that were just ended may still create files."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
        if not folder.exists():
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main()
