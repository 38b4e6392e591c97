"""Options of egs/voxceleb/run.sh, and the requests that it refuses."""

import itertools
import json
import shlex
import shutil

import numpy as np
import pytest
import soundfile
from run_recipe import TINY, run


def test_a_stage_names_the_missing_earlier_stage(tmp_path):
    result = run(
        "--corpus", "audio-dir", "--data", tmp_path / "d", "--exp", tmp_path / "e", "--stage", "3", check=False
    )
    assert result.returncode == 1
    assert f"{tmp_path}/d/eval_sets" in result.stderr and result.stderr.endswith("--stage 0\n")
    (tmp_path / "d" / "eval_sets").write_text("test\n")
    result = run(
        "--corpus", "audio-dir", "--data", tmp_path / "d", "--exp", tmp_path / "e", "--stage", "3", check=False
    )
    assert result.returncode == 1 and result.stderr.endswith("--stage 2\n")


@pytest.mark.slow
def test_small_corpus_first_without_and_then_with_trials(tmp_path):
    """Ten training utterances are too few for LDA in sixteen dimensions."""
    root, data, exp = tmp_path / "audio", tmp_path / "data", tmp_path / "exp"
    rng = np.random.default_rng(0)
    for name in (
        f"{part}/s{speaker}/{take}" for part in ("train", "test") for speaker in range(5) for take in range(2)
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / f"{name}.wav", rng.uniform(-0.5, 0.5, 5 * 16000), 16000)
    options = {
        "--corpus": "audio-dir",
        "--audio-root": root,
        "--data": data,
        "--exp": exp,
        "--config-set": TINY.replace("embedding_dim=8", "embedding_dim=16").replace("steps=3", "steps=1"),
    }
    arguments = list(itertools.chain(*options.items()))
    run(*arguments, "--stop-stage", "2")
    result = run(*arguments, "--stage", "6")
    assert "skipping stages 6 and 7" in result.stdout and "Stage 6" not in result.stdout
    assert not (exp / "scores").exists()
    (root / "test" / "trials").write_text("s0-0 s0-1 target\ns0-0 s1-0 nontarget\n")
    result = run(*arguments)
    assert "Stage 0: prepare the audio-dir corpus\n" in result.stdout
    assert "10 training embeddings" in result.stderr and "16 dimensions" in result.stderr
    assert (exp / "backend" / "mean.vec").is_file() and not (exp / "backend" / "plda").exists()
    results = json.loads((exp / "results.json").read_text())
    assert [row["backend"] for row in results["results"]] == ["cosine", "cosine_mean"] and not results["missing"]
    assert "PLDA" not in (exp / "RESULTS.md").read_text()
    assert run(*arguments).stdout.count("complete, nothing to do") == 8


@pytest.mark.slow
def test_training_logs_the_eer_on_a_set_called_dev(tmp_path):
    root, data, exp = tmp_path / "audio", tmp_path / "data", tmp_path / "exp"
    rng = np.random.default_rng(0)
    for name in (f"{part}/s{speaker}/{take}" for part in ("train", "dev") for speaker in range(5) for take in range(2)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / f"{name}.wav", rng.uniform(-0.5, 0.5, 5 * 16000), 16000)
    (root / "dev" / "trials").write_text("s0-0 s0-1 target\ns0-0 s1-0 nontarget\n")
    settings = TINY.replace("batch_size=8", "batch_size=4").replace("steps=3", "steps=2") + " train.checkpoint_every=1"
    arguments = ["--corpus", "audio-dir", "--audio-root", root, "--data", data, "--config-set", settings]

    def dev_eers(exp):
        entries = map(json.loads, (exp / "metrics.jsonl").read_text().splitlines())
        return {entry["step"]: entry["dev_eer"] for entry in entries if "dev_eer" in entry}

    run(*arguments, "--exp", exp, "--stop-stage", "3")
    assert list(dev_eers(exp)) == [1, 2] and (exp / "best.pt").is_file()
    written = (exp / "commands").read_text().splitlines()
    assert len(written) == 1 and written[0].startswith("bash run.sh --nj 1 --ngpu 0 --corpus audio-dir ")
    assert shlex.split(written[0])[-4:] == ["--exp", str(exp), "--stop-stage", "3"]

    # A data directory elsewhere, with a trial list of another name; and none.
    shutil.copytree(data / "dev", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "trials").rename(tmp_path / "elsewhere" / "trials_o")
    training = [*arguments, "--stage", "3", "--stop-stage", "3"]
    run(*training, "--exp", tmp_path / "other", "--dev-trials", tmp_path / "elsewhere")
    assert dev_eers(tmp_path / "other") == dev_eers(exp)
    run(*training, "--exp", tmp_path / "without", "--dev-trials", "none")
    assert not dev_eers(tmp_path / "without") and not (tmp_path / "without" / "best.pt").exists()
    refused = run(*training, "--exp", tmp_path / "bad", "--dev-trials", "deev", check=False)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "deev" in refused.stderr


def test_scores_that_cannot_be_measured_are_named(tmp_path):
    data, exp = tmp_path / "data", tmp_path / "exp"
    for folder in (data / "test", exp / "backend", exp / "scores" / "test" / "log"):
        folder.mkdir(parents=True)
    (data / "eval_sets").write_text("test\n")
    (data / "test" / "trials").write_text("a x target\n")
    (exp / "backend" / "no_plda").touch()
    for method in ("cosine", "cosine_mean"):
        (exp / "scores" / "test" / f"trials.{method}").write_text("a x 1\n")
    result = run("--corpus", "audio-dir", "--data", data, "--exp", exp, "--stage", "7", check=False)
    assert result.returncode == 1 and "nontarget" in result.stderr
    last = result.stderr.splitlines()[-1]
    assert f"{exp}/scores/test/trials.cosine " in last and f"{data}/test/trials" in last


def test_other_nodes_run_only_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_RANK", "1")
    (tmp_path / "eval_sets").write_text("test\n")
    arguments = ["--corpus", "audio-dir", "--data", tmp_path, "--exp", tmp_path, "--num-nodes", "2"]
    result = run(*arguments, check=False)
    assert result.returncode == 1 and result.stdout.startswith("Node 1 of 2: ") and result.stdout.count("\n") == 1
    assert result.stderr.endswith("--stage 2\n")
    assert run(*arguments, "--stop-stage", "2").stdout.count("\n") == 1


def test_requested_gpus_must_exist(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "eval_sets").write_text("test\n")
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "selected_cuts_train.jsonl.gz").write_bytes(b"")
    result = run(
        "--corpus", "audio-dir", "--data", tmp_path, "--exp", tmp_path, "--stage", "3", "--ngpu", "1", check=False
    )
    assert result.returncode == 1 and "GPU" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--corpus", "nothing"], ["--corpus", "'nothing'", "voxceleb"]),
        (["--plda-labels", "typo"], ["--plda-labels", "'typo'", "clusters"]),
        (["--stage", "foo"], ["--stage", "'foo'"]),
        (["--nj", ""], ["--nj", "''"]),
        (["--ngpu", "1.5"], ["--ngpu", "'1.5'"]),
        (["junk", "--stage", "8"], ["'junk'"]),
        (["--data", "/tmp/a b"], ["--data", "'/tmp/a b'"]),
        (["--config-set", "features.low_freq=300"], ["conf/fbank.conf", "--low-freq=20"]),
        (["--config-set", "features.low_freq=300", "--sample-rate", "8000"], ["conf/fbank_8k.conf", "--low-freq=20"]),
        (["--sample-rate", "44100"], ["--sample-rate", "'44100'", "8000"]),
        (["--sample-rate", "8k"], ["--sample-rate", "'8k'"]),
        (["--no-such-option", "1"], ["--no-such-option"]),
        (["--corpus", "audio-dir", "--audio-root", "/nowhere"], ["/nowhere"]),
        (["--corpus", "audio-dir"], ["--audio-root"]),
        (["--corpus", "kaldi-dir", "--train-dir", "/tmp"], ["--test-dir"]),
        (["--corpus", "voxceleb", "--voxceleb1-root", "/tmp"], ["--voxceleb2-root"]),
        (["--audio-root", "/tmp"], ["--audio-root", "--corpus demo"]),
    ],
)
def test_bad_options(tmp_path, arguments, parts):
    result = run("--data", tmp_path / "d", "--exp", tmp_path / "e", *arguments, check=False)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in parts)
