"""Stage 0 and the data directories at the size of VoxCeleb: operations are counted. Also benchmarks/full_size.py."""

import importlib.util
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from lhotse import RecordingSet, SupervisionSet
from operation_count import count_calls

from sdpn_k2.data.corpora.audio_dir import prepare_audio_dir
from sdpn_k2.data.corpora.kaldi_dir import prepare_kaldi_dirs
from sdpn_k2.data.corpora.voxceleb import prepare_voxceleb
from sdpn_k2.data.kaldi_exchange import write_kaldi_dir
from sdpn_k2.data.manifest_files import load_manifest
from sdpn_k2.kaldi.datadir import data_dir_ops, derived_dirs, repair, validation
from sdpn_k2.kaldi.datadir.data_dir import read_map

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "full_size.py"
SIZES = (2000, 4000)
LARGEST_GROWTH = 2.2


@pytest.fixture(scope="module")
def full_size():
    """The benchmark as a module."""
    specification = importlib.util.spec_from_file_location("full_size", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def counted(full_size, tmp_path_factory):
    """Return what was counted, name → calls for each size, on corpora of links."""
    work = tmp_path_factory.mktemp("links")
    full_size.write_sources(work / "sources", with_m4a=False)
    counts = {}

    def count(name, function):
        counts.setdefault(name, []).append(count_calls(function))

    for size in SIZES:
        root, data = work / str(size), work / f"data{size}"
        full_size.lay_down(root, work / "sources", size)
        vox = root / "vox1", root / "vox2", data
        count("prepare_voxceleb", lambda vox=vox: prepare_voxceleb(*vox, num_jobs=1))
        train = data / "train"
        assert len(read_map(train / "utt2spk")) == size
        count("validate", lambda train=train: validation.validate(train, feats=False, text=False))
        count("fix", lambda train=train: repair.fix(train))
        count("split", lambda train=train: data_dir_ops.split(train, 4))
        count("split per utterance", lambda train=train: data_dir_ops.split(train, 7, per_utterance=True))
        count("copy", lambda train=train: derived_dirs.copy(train, train.parent / "copy", ("a-", "")))
        chosen = list(read_map(train / "utt2spk"))[::2]
        count("subset", lambda train=train, half=chosen: data_dir_ops.subset(train, train.parent / "half", half))
        count("combine", lambda data=data: derived_dirs.combine(data / "both", [data / "half", data / "train"]))
        count(
            "prepare_kaldi_dirs", lambda data=data: prepare_kaldi_dirs(data / "train", {}, data / "kaldi", num_jobs=1)
        )
        manifests = data / "manifests"
        recordings, supervisions = (
            list(load_manifest(manifests / f"{name}_train.jsonl.gz", kind))
            for name, kind in (("recordings", RecordingSet), ("supervisions", SupervisionSet))
        )
        items = recordings, supervisions, data / "exported"
        count("write_kaldi_dir", lambda items=items: write_kaldi_dir(*items))
        (root / "vox2/dev/aac").rename(root / "train")
        count("prepare_audio_dir", lambda root=root, data=data: prepare_audio_dir(root, data / "plain", num_jobs=1))
    return counts


def test_operations_grow_with_the_utterances(counted):
    growth = {name: larger / smaller for name, (smaller, larger) in counted.items()}
    assert len(growth) == 11
    # Fixed costs make it smaller than 2, but a function that was not counted would not grow at all.
    assert {name for name, value in growth.items() if not 1.3 < value < LARGEST_GROWTH} == set()


def test_the_corpus_has_voxcelebs_layout(full_size, tmp_path):
    full_size.write_sources(tmp_path / "sources", with_m4a=False)
    full_size.lay_down(tmp_path / "tree", tmp_path / "sources", 250)
    files = [path.relative_to(tmp_path / "tree/vox2") for path in (tmp_path / "tree/vox2").rglob("*.wav")]
    assert len(files) == 250
    assert all(re.fullmatch(r"dev/aac/id\d{5}/[\w-]{11}/\d{5}\.wav", str(path)) for path in files)
    for name in full_size.TRIALS:
        lines = (tmp_path / "tree/vox1" / f"{name}.txt").read_text().splitlines()
        assert len(lines) == 200
        for label, *pair in (line.split() for line in lines):
            found = [list((tmp_path / "tree/vox1").glob(f"*/wav/{utterance}")) for utterance in pair]
            assert [len(paths) for paths in found] == [1, 1]
            assert label == str(int(pair[0].split("/")[0] == pair[1].split("/")[0]))


def test_the_table(full_size, tmp_path, capsys, monkeypatch):
    (tmp_path / "sources").mkdir()
    seconds = itertools.count(1)
    monkeypatch.setattr(full_size, "lay_down", lambda *_: None)
    monkeypatch.setattr(full_size, "link_features", lambda *_: None)
    monkeypatch.setattr(full_size, "write_embeddings", lambda *_: None)

    def call(rehearsal, *command):
        """Leave what later stages remove."""
        for name in (
            "exp/stamps/stage3.done",
            "exp/final.pt",
            "exp/checkpoints/4.pt",
            "data/train/split4/x",
            "parts/x",
        ):
            path = rehearsal.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return next(seconds), 3.0 * rehearsal.utterances, 0.25

    monkeypatch.setattr(full_size.Rehearsal, "call", call)
    options = SimpleNamespace(skip_features=True, skip_extraction=True, nj=1)
    earlier = full_size.Rehearsal(tmp_path, 100, 8, options, {}).run()
    full_size.Rehearsal(tmp_path, 200, 8, options, earlier).run()
    first, second = (table.strip().splitlines() for table in capsys.readouterr().out.split("200 utterances"))
    assert first[0] == "100 utterances" and first[2] == second[0] == full_size.HEADER
    assert len(first) == 2 + len(second) and len(second) == 2 + 15
    assert {line.count("|") for line in second} == {7}
    # s in the first column; processor seconds, per million, GB, growth.
    assert re.fullmatch(r"\| 0 prepare \| \d+\.0 \| 600\.0 \| 3000000 \| 0\.25 \| 2\.00 \|", second[2])
    assert [line.split()[1] for line in second[2:] if line.split()[1].isdigit()] == list("0112334567")


MEASURE = """
import sys
from pathlib import Path
from types import SimpleNamespace

import full_size

rehearsal = full_size.Rehearsal(Path(sys.argv[1]), 300, 8, SimpleNamespace(), {})
rehearsal.folder.mkdir()
print(rehearsal.call(sys.executable, "-c", "pass")[2])
allocate = "x = bytearray(700_000_000); x[::4096] = b'1' * len(x[::4096])"
print(rehearsal.call("bash", "-c", f'"{sys.executable}" -c "{allocate}" | cat')[2])
"""


def test_measures_the_largest_process(tmp_path):
    # In a process of its own, since the system counts what a parent held when its child started.
    environment = dict(os.environ, PYTHONPATH=f"{SCRIPT.parent}:{SCRIPT.parents[1]}")
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    small, large = map(float, result.stdout.split())
    assert small < 0.6 < large


def test_a_failed_stage_shows_its_output(full_size, tmp_path):
    rehearsal = full_size.Rehearsal(tmp_path, 300, 8, SimpleNamespace(), {})
    rehearsal.folder.mkdir()
    with pytest.raises(full_size.StageError, match=r"(?s)no luck.*failed: bash -c"):
        rehearsal.call("bash", "-c", "echo no luck; exit 3")


def test_an_interrupted_run_leaves_nothing(tmp_path):
    command = [sys.executable, str(SCRIPT), "--utterances", "2000", "--nj", "1", "--work", str(tmp_path)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(tmp_path.glob("*/1000/log")):  # stage 0 has started
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGINT)
    _, said = run.communicate()
    assert run.returncode == 130 and b"Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_wrong_usage(tmp_path):
    run = subprocess.run([sys.executable, str(SCRIPT), "--utterances", "9"], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.endswith("--utterances must be at least 200\n")
