"""Small random models and data directories of real speech for tests of what is done with embeddings."""

from pathlib import Path

import torch

from sdpn_k2.config import Config, FeaturesConfig, ModelConfig, ObjectiveConfig
from sdpn_k2.kaldi.datadir.data_dir import write_data_dir
from sdpn_k2.kaldi.features.wave import to_wav_command
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.models.checkpoint import Checkpoint, save_checkpoint

MELSPEC = FeaturesConfig(kind="melspec", low_freq=0.0, scale=1.0)


def write_model(path: Path, features: FeaturesConfig = FeaturesConfig(), embedding_dim: int = 24) -> Path:
    """A checkpoint with random weights, and running statistics that are not those of the start."""
    model = ModelConfig(
        channels=32,
        attention_channels=8,
        se_channels=8,
        embedding_dim=embedding_dim,
        mlp_hidden_dim=16,
        projection_dim=8,
    )
    config = Config(features=features, model=model, objective=ObjectiveConfig(num_prototypes=8))
    torch.manual_seed(0)
    method = SDPN(config).train()
    with torch.no_grad():
        for _ in range(50):
            method.teacher(torch.randn(8, 40, features.num_mel_bins))
    save_checkpoint(path, Checkpoint(0, config, method.state_dict(), {}))
    return path


def write_data(folder: Path, shared: Path, speakers: int = 3, utterances: int = 3) -> Path:
    """A data directory of FLAC files of shared/corpora/dev, with all pairs as trials."""
    folders = sorted(path for path in (shared / "corpora" / "dev").iterdir() if path.is_dir())[:speakers]
    chosen = [path for speaker in folders for path in sorted(speaker.glob("*.flac"))[:utterances]]
    names = {f"{path.parent.name}-{path.stem}": path for path in chosen}
    write_data_dir(
        folder,
        {name: to_wav_command(str(path)) for name, path in names.items()},
        {name: path.parent.name for name, path in names.items()},
    )
    pairs = [(a, b) for a in sorted(names) for b in sorted(names) if a < b]
    kinds = ("nontarget", "target")
    with open(folder / "trials", "w") as stream:
        stream.writelines(f"{a} {b} {kinds[a.split('-')[0] == b.split('-')[0]]}\n" for a, b in pairs)
    return folder
