"""A training run of seconds, for tests: its settings, its corpus, its command line."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse import Recording

from sdpn_k2.config import load_config
from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.device import Process
from sdpn_k2.training.trainer import Trainer

TINY = [
    "model.channels=16",
    "model.attention_channels=4",
    "model.se_channels=4",
    "model.embedding_dim=8",
    "model.mlp_hidden_dim=16",
    "model.projection_dim=6",
    "objective.num_prototypes=5",
    "crops.global_seconds=1",
    "crops.local_seconds=0.5",
    "crops.min_seconds=0.4",
    "train.batch_size=6",
    "train.steps=8",
    "train.workers=0",
    "train.log_every=2",
    "train.checkpoint_every=2",
    "train.precision=float32",
    "train.ema_momentum=[0.9, 1.0]",
]
PROCESS = Process(0, 1, torch.device("cpu"))


def write_corpus(folder: Path, count: int = 14) -> Path:
    """``count`` short noises, some shorter than a crop, and their cut manifest."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    cuts = []
    for index in range(count):
        path = folder / f"spk{index % 3}-{index:02d}.wav"
        soundfile.write(path, rng.normal(size=4000 * (2 + index % 5)) * 0.1, 16000, subtype="PCM_16")
        cuts.append(Recording.from_file(path).to_cut())
    write_manifest(cuts, folder / "cuts.jsonl.gz")
    return folder / "cuts.jsonl.gz"


def make_trainer(cuts: Path, exp: Path, *overrides: str, **options) -> Trainer:
    """A trainer of this process."""
    return Trainer(load_config(None, TINY + list(overrides)), cuts, cuts.parent, exp, PROCESS, **options)


def command(cuts: Path, exp: Path, *overrides: str) -> list:
    """The command line of a run that saves after every step."""
    settings = [word for setting in [*TINY, "train.checkpoint_every=1", *overrides] for word in ("--set", setting)]
    return [sys.executable, "-m", "sdpn_k2", "train", "--device", "cpu", *settings, str(cuts), str(exp)]


def wait_for_checkpoint(exp: Path, process: subprocess.Popen, steps: int) -> None:
    """Until ``process`` has saved after ``steps`` steps."""
    while not (exp / "checkpoints" / f"step-{steps:08d}.pt").exists():
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.005)
