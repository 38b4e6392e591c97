"""Small random models, and data directories of synthetic speech."""

import dataclasses
import itertools
from pathlib import Path

import torch
from tiny_config import TINY_MODEL

from sdpn_k2.config import FeaturesConfig, load_config
from sdpn_k2.kaldi.datadir.data_dir import write_data_dir
from sdpn_k2.kaldi.features.wave import to_wav_command
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.models.checkpoint import Checkpoint, save_checkpoint

FBANK = FeaturesConfig()
MELSPEC = FeaturesConfig(kind="melspec", low_freq=0.0, scale=1.0)


def write_model(path: Path, features: FeaturesConfig = FBANK, embedding_dim: int = 24) -> Path:
    """Write a checkpoint with random weights, and with running statistics that are not the initial ones."""
    config = load_config(None, [*TINY_MODEL, f"model.embedding_dim={embedding_dim}"])
    config = dataclasses.replace(config, features=features)
    torch.manual_seed(0)
    method = SDPN(config).train()
    with torch.no_grad():
        for _ in range(50):
            method.teacher(torch.randn(8, 40, features.num_mel_bins))
    save_checkpoint(path, Checkpoint(0, config, method.state_dict(), {}))
    return path


def write_data(folder: Path, speech: Path, speakers: int = 3, utterances: int = 3) -> Path:
    """Write a data directory of utterances of the fixture ``speech``, with all pairs as trials."""
    chosen = [
        path
        for speaker in sorted((speech / "test").glob("*/"))[:speakers]
        for path in sorted(speaker.glob("*.wav"))[:utterances]
    ]
    write_data_dir(
        folder,
        {path.stem: to_wav_command(str(path)) for path in chosen},
        {path.stem: path.parent.name for path in chosen},
    )
    kinds = ("nontarget", "target")
    with open(folder / "trials", "w") as stream:
        for a, b in itertools.combinations(chosen, 2):
            stream.write(f"{a.stem} {b.stem} {kinds[a.parent == b.parent]}\n")
    return folder
