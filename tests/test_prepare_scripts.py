"""The preparation scripts of stage 0, called as the recipe calls them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdpn_k2.kaldi.datadir.validation import validate

RECIPE = Path(__file__).resolve().parents[1] / "egs" / "voxceleb"


def run(*command, cwd: Path = RECIPE) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["bash", *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_demo_then_the_same_data_as_kaldi_directories(tmp_path):
    sizes = "--num-train-speakers 1 --num-test-speakers 2 --num-utterances 2 --seed 5 --nj 2"
    done = run("local/prepare_demo.sh", *sizes.split(), tmp_path / "audio", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert "train: 2 utterances" in done.stderr
    assert validate(tmp_path / "data" / "test", feats=False, text=False) == 4
    assert len((tmp_path / "data" / "test" / "trials").read_text().splitlines()) == 6

    source, options = tmp_path / "data", ["--noise-dir", tmp_path / "audio" / "noise"]
    done = run("local/prepare_kaldi_dir.sh", *options, source / "train", source / "test", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    for name in ("train/wav.scp", "train/utt2spk", "train/utt2dur", "test/trials", "test/spk2utt", "eval_sets"):
        assert (tmp_path / "again" / name).read_text() == (source / name).read_text()
    for name in ("recordings_noise", "recordings_test", "supervisions_train"):
        manifest = f"manifests/{name}.jsonl.gz"
        assert (tmp_path / "again" / manifest).exists() and (source / manifest).exists()


@pytest.mark.parametrize("script", ["demo", "audio_dir", "kaldi_dir", "voxceleb"])
def test_help_and_usage(script):
    done = run(f"local/prepare_{script}.sh", "--help")
    assert done.returncode == 0 and f"Usage: local/prepare_{script}.sh [options]" in done.stdout
    done = run(f"local/prepare_{script}.sh")
    assert done.returncode == 1 and done.stderr.startswith("Usage: ") and done.stderr.count("\n") == 1


def test_one_line_for_bad_input(tmp_path):
    done = run("local/prepare_audio_dir.sh", tmp_path / "nowhere", tmp_path / "data")
    assert done.returncode == 1
    assert done.stderr.startswith(f"sdpn-k2: error: {tmp_path}/nowhere: ") and done.stderr.count("\n") == 1
    done = run("local/prepare_voxceleb.sh", "", tmp_path, tmp_path / "data")
    assert done.returncode == 1 and done.stderr.startswith("sdpn-k2: error: ") and done.stderr.count("\n") == 1
    assert "VOXCELEB1" in done.stderr
