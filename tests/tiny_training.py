"""A training run of seconds: its corpus, its trainer, its command line."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse import CutSet, Features, Recording
from tiny_config import TINY, set_options

from sdpn_k2.config import load_config
from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.device import Process
from sdpn_k2.kaldi.formats.tables import TableWriter
from sdpn_k2.models.checkpoint import load_checkpoint
from sdpn_k2.signal.fbank import Fbank
from sdpn_k2.training.trainer import Trainer

PROCESS = Process(0, 1, torch.device("cpu"))


def write_corpus(folder: Path, count: int = 14) -> Path:
    """Write ``count`` short noises, some shorter than a crop; return their cut manifest."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    cuts = []
    for index in range(count):
        path = folder / f"spk{index % 3}-{index:02d}.wav"
        soundfile.write(path, rng.normal(size=4000 * (2 + index % 5)) * 0.1, 16000, subtype="PCM_16")
        cuts.append(Recording.from_file(path).to_cut())
    write_manifest(cuts, folder / "cuts.jsonl.gz")
    return folder / "cuts.jsonl.gz"


def write_fbank_corpus(cuts: Path, folder: Path) -> Path:
    """Write the fbank of ``cuts``, and noise beside it; return the manifest of cuts with features."""
    fbank = Fbank(load_config().features)
    items = []
    with TableWriter(f"ark,scp:{folder}/feats.ark,{folder}/feats.scp", "matrix") as writer:
        for cut in CutSet.from_file(cuts):
            frames = fbank(torch.from_numpy(cut.load_audio()))[0].numpy()
            writer.write(cut.id, frames)
            cut = cut.truncate(duration=len(frames) / 100, preserve_id=True)
            cut.features = Features(
                type="kaldi-fbank",
                num_frames=len(frames),
                num_features=80,
                frame_shift=0.01,
                sampling_rate=16000,
                start=0,
                duration=len(frames) / 100,
                storage_type="kaldiio",
                storage_path=str(folder / "feats.scp"),
                storage_key=cut.id,
                recording_id=cut.recording_id,
                channels=0,
            )
            items.append(cut)
    write_manifest(items, folder / "cuts.jsonl.gz")
    write_manifest([cut.recording for cut in items[:5]], folder / "recordings_noise.jsonl.gz")
    return folder / "cuts.jsonl.gz"


def make_trainer(cuts: Path, exp: Path, *overrides: str, **options) -> Trainer:
    """Return a trainer of this process."""
    return Trainer(load_config(None, [*TINY, *overrides]), cuts, cuts.parent, exp, PROCESS, **options)


def command(cuts: Path, exp: Path, *overrides: str) -> list:
    """Return the command line of a run that saves after every step."""
    settings = set_options([*TINY, "train.checkpoint_every=1", *overrides])
    return [sys.executable, "-m", "sdpn_k2", "train", "--device", "cpu", *settings, str(cuts), str(exp)]


def wait_for_checkpoint(exp: Path, process: subprocess.Popen, steps: int) -> None:
    """Wait until ``process`` has saved after ``steps`` steps."""
    while not (exp / "checkpoints" / f"step-{steps:08d}.pt").exists():
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.005)


def copy_run(final: Path, folder: Path) -> Path:
    """Copy the experiment folder of a finished run, for a test that changes it."""
    shutil.copytree(final.parent, folder, symlinks=True)
    return folder


def same_weights(first: Path, second: Path) -> bool:
    """Return whether two checkpoints hold the same step, weights and momentum, bit by bit."""
    a, b = load_checkpoint(first), load_checkpoint(second)
    return (
        a.step == b.step
        and all(torch.equal(a.model[name], b.model[name]) for name in a.model)
        and all(torch.equal(a.momentum[name], b.momentum[name]) for name in a.momentum)
    )
