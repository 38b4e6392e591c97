"""The work for a corpus grows with its size, not with its square: twice the utterances, twice the calls."""

import functools
import json
import random

import numpy as np
import soundfile
from operation_count import count_calls

from sdpn_k2.config import load_config
from sdpn_k2.data.cut_selection import select_cuts
from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.data.feature_cuts import feature_cuts
from sdpn_k2.data.manifest_files import load_manifest, write_manifest
from sdpn_k2.data.multi_crop import StepBatches
from sdpn_k2.data.shar import SharTable, write_shar
from sdpn_k2.kaldi.formats.tables import TableWriter

CONFIG = load_config()
MAX_GROWTH = 2.2


def write_corpus(folder, count):
    """Write what stage 0 and feature extraction leave for ``count`` utterances, which share audio and features."""
    (folder / "train").mkdir(parents=True)
    (folder / "manifests").mkdir()
    soundfile.write(folder / "a.wav", np.ones(64000) / 2, 16000)
    with TableWriter(f"ark,scp:{folder}/a.ark,{folder}/a.scp", "matrix") as writer:
        writer.write("a", np.ones((400, 80), np.float32))
    location = (folder / "a.scp").read_text().split()[1]
    ids = [f"s{index // 20:04d}-{index:06d}" for index in range(count)]
    for name, lines in (
        (
            "manifests/recordings_train.jsonl.gz",
            (
                {
                    "id": name,
                    "sources": [{"type": "file", "channels": [0], "source": f"{folder}/a.wav"}],
                    "sampling_rate": 16000,
                    "num_samples": 64000,
                    "duration": 4.0,
                    "channel_ids": [0],
                }
                for name in ids
            ),
        ),
        (
            "manifests/supervisions_train.jsonl.gz",
            ({"id": name, "recording_id": name, "start": 0, "duration": 4, "channel": 0} for name in ids),
        ),
    ):
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "train" / "utt2num_frames").write_text("".join(f"{name} 400\n" for name in ids))
    (folder / "train" / "feats.scp").write_text("".join(f"{name} {location}\n" for name in ids))


def make_cuts(folder):
    write_manifest(feature_cuts(folder, "train", CONFIG.features), folder / "cuts.jsonl.gz")


def make_cuts_out_of_order(folder):
    path = folder / "manifests" / "recordings_train.jsonl.gz"
    lines = path.read_text().splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    path.write_text("".join(lines))
    make_cuts(folder)


def select(folder):
    select_cuts(load_manifest(folder / "cuts.jsonl.gz"), CONFIG, folder / "selected.jsonl.gz")


def open_table(folder):
    assert CutTable(folder / "selected.jsonl.gz").digest


def order_of_two_epochs(folder):
    table = CutTable(folder / "selected.jsonl.gz")
    list(StepBatches(table, 4, 2 * len(table) // 4, seed=0))


def read_cuts(folder):
    list(CutTable(folder / "selected.jsonl.gz"))


def write_shards(folder):
    write_shar(folder / "selected.jsonl.gz", folder / "shards", 5, 0)


def order_of_shards(folder):
    SharTable(folder / "shards").permutation(np.random.default_rng(0))


def growth(steps, folder, size):
    """Do the steps for 10, ``size`` and twice as many utterances; return how the number of calls grows from size on."""
    counts = []
    for number in (10, size, 2 * size):  # the first time, modules are loaded
        write_corpus(folder / f"{number}", number)
        counts.append([count_calls(functools.partial(step, folder / f"{number}")) for step in steps])
    return {step.__name__: many / few for step, few, many in zip(steps, *counts[1:])}


def test_cuts(tmp_path):
    steps = (make_cuts, make_cuts_out_of_order, select, open_table, order_of_two_epochs, read_cuts)
    found = growth(steps, tmp_path, 2000)
    assert max(found.values()) <= MAX_GROWTH, found


def test_shards(tmp_path):
    found = growth((make_cuts, select, write_shards, order_of_shards), tmp_path, 100)
    assert max(found.values()) <= MAX_GROWTH, found
