"""Every block of docs/recipes.md runs as it is written, in order."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from three_d_speaker import INTEROP
from tiny_config import TINY
from tiny_models import write_data

from sdpn_k2.config import config_to_yaml, load_config
from sdpn_k2.kaldi import tools
from sdpn_k2.kaldi.datadir.data_dir_ops import write_data_dir
from sdpn_k2.kaldi.datadir.utterances import read_utterances

ROOT = Path(__file__).resolve().parents[1]
TRAINING = """
crops: {global_seconds: 1.0, local_seconds: 0.5}
train: {batch_size: 4, steps: 2, workers: 0}
"""


def blocks():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    return re.findall(r"^```(sh|python)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def workplace(speech, golden, tmp_path):
    """A folder with the files that the recipes assume."""
    shutil.copy(INTEROP / "3dspeaker-sdpn-tiny.pth", tmp_path / "sdpn.pth")
    (tmp_path / "utils").symlink_to(ROOT / "utils")
    (tmp_path / "exp").mkdir()
    (tmp_path / "sdpn.yaml").write_text(
        config_to_yaml(load_config(None, [*TINY, "train.batch_size=4", "train.steps=2"]))
    )
    (tmp_path / "train.yaml").write_text(TRAINING)
    train = write_data(tmp_path / "data" / "train", speech, speakers=2)
    features = [f"scp:{train}/wav.scp", f"ark,scp:{train}/feats.ark,{train}/feats.scp"]
    assert tools.run("compute-fbank-feats", ["--dither=0", "--num-mel-bins=80", *features]) in (0, None)
    test = write_data(tmp_path / "data" / "test", speech)
    (tmp_path / "backend").mkdir()
    for name in ("mean.vec", "transform.mat", "plda"):
        shutil.copy(golden / name, tmp_path / "backend")
    recordings = (samples for _, samples in read_utterances(test, 16000))
    for name, samples in zip(("alice_1", "alice_2", "somebody", "bob_1"), recordings):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000, subtype="PCM_16")
    pause = np.random.default_rng(0).normal(size=16000) * 1e-4
    pieces = [piece for _, samples in list(read_utterances(test, 16000))[::2] for piece in (samples, pause)]
    soundfile.write(tmp_path / "meeting.wav", np.concatenate(pieces), 16000, subtype="PCM_16")
    write_data_dir(tmp_path / "data" / "meeting", {"meeting": str(tmp_path / "meeting.wav")}, {"meeting": "meeting"})
    return tmp_path


@pytest.mark.slow
def test_every_block_runs_as_written(workplace):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}

    def run(*command):
        done = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    found = blocks()
    assert len(found) > 12
    for language, block in found:
        if ".onnx" in block and torch.__version__ < "2.5":
            continue
        run(*(["bash", "-e", "-o", "pipefail", "-c", block] if language == "sh" else [sys.executable, "-c", block]))
    assert "EER" in run("sdpn-k2", "eval", "exp/released/scores_plda", "data/test/trials")
    windows = (workplace / "exp" / "meeting_windows" / "segments").read_text().splitlines()
    labels = (workplace / "exp" / "meeting_windows" / "labels").read_text().splitlines()
    assert [line.split()[0] for line in windows] == sorted(line.split()[0] for line in labels)
