#!/usr/bin/env python
"""Print the EER against training time, for the small recipe and for the same recipe with growing crops.

    python benchmarks/time_to_eer.py                                      a demo corpus is made for it
    python benchmarks/time_to_eer.py --root DIR [--eval-set dev-x=DIR]    DIR/train, and DIR/dev with trials
    python benchmarks/time_to_eer.py --root DIR --seeds 0 1 2 --set train.precision=float32

DIR is a folder as for `sdpn-k2 prepare audio-dir`. Every set with trials is evaluated, also sets that lie elsewhere.
Each training is a process of its own, one after the other. Its checkpoints are evaluated afterwards, by cosine scores
of the teacher's embeddings, so evaluation takes none of the time.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List

import numpy as np
import torch
from lhotse import RecordingSet

from sdpn_k2.config import load_config
from sdpn_k2.data.corpora.audio_dir import prepare_audio_dir
from sdpn_k2.data.corpora.demo import make_demo
from sdpn_k2.data.cut_selection import select_cuts
from sdpn_k2.data.manifest_files import load_manifest
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.models.checkpoint import list_checkpoints, load_checkpoint
from sdpn_k2.training.dev_trials import DevTrials

CONFIG = Path(__file__).parent.parent / "egs" / "voxceleb" / "conf" / "sdpn_small.yaml"
SETTINGS: Dict[str, List[str]] = {"recipe": [], "growing crops": ["crops.growth=[0.5, 0.75]"]}
CHECKPOINTS = 4  # of each training


def train(settings: List[str], cuts: Path, exp: Path) -> Dict[int, float]:
    """Train in a process of its own; return the seconds from its start to each checkpoint, by step."""
    steps = load_config(CONFIG, settings).train.steps
    assert steps is not None
    saving = [f"train.checkpoint_every={-(-steps // CHECKPOINTS)}", f"train.keep_checkpoints={CHECKPOINTS}"]
    options = [word for setting in [*settings, *saving] for word in ("--set", setting)]
    command = [sys.executable, "-m", "sdpn_k2", "train", "--config", str(CONFIG), *options, str(cuts), str(exp)]
    start = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    paths = list_checkpoints(exp / "checkpoints")
    return {load_checkpoint(path).step: path.stat().st_mtime - start for path in paths}


def main() -> None:
    """Prepare the data, train with each setting and seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="audio folder (default: a demo corpus)")
    parser.add_argument("--eval-set", action="append", default=[], metavar="NAME=DIR", help="another evaluation set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of both settings")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, root = Path(folder) / "data", arguments.root
        if root is None:
            root = Path(folder) / "audio"
            make_demo(root)
        sets = prepare_audio_dir(root, data, dict(item.split("=", 1) for item in arguments.eval_set))
        config = load_config(CONFIG, arguments.set)
        recordings = load_manifest(data / "manifests" / "recordings_train.jsonl.gz", RecordingSet)
        cuts = data / "manifests" / "selected_cuts_train.jsonl.gz"
        select_cuts((recording.to_cut() for recording in recordings), config, cuts)
        trials = {name: DevTrials(data / name, config, torch.device("cpu")) for name in sets}

        seeds = arguments.seeds
        print(f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}; mean over seeds {seeds}")
        print(f"{'':<13} {'step':>5} {'seconds':>8} " + " ".join(f"{name:>8}" for name in sets))
        for label, settings in SETTINGS.items():
            rows: Dict[int, List[List[float]]] = {}
            for seed in seeds:
                exp = Path(folder) / f"{label.replace(' ', '_')}_{seed}"
                taken = train([*arguments.set, *settings, f"seed={seed}"], cuts, exp)
                for step, seconds in taken.items():
                    encoder = Extractor.load(exp / "checkpoints" / f"step-{step:08d}.pt").encoder
                    rows.setdefault(step, []).append([seconds, *(each.eer(encoder) for each in trials.values())])
            for step, values in rows.items():
                seconds, *eers = np.mean(values, axis=0)
                print(f"{label:<13} {step:>5} {seconds:>8.0f} " + " ".join(f"{x:>8.2f}" for x in eers), flush=True)


if __name__ == "__main__":
    main()
