"""egs/voxceleb/run.sh, stage by stage, on a miniature VoxCeleb made of synthetic speech."""

import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_config import TINY_MODEL
from voxceleb_tree import VOX1_DEV, VOX1_TEST, make_voxceleb_tree

from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.kaldi.datadir.data_dir import read_map

RECIPE = Path(__file__).resolve().parents[1] / "egs" / "voxceleb"
TINY = " ".join([*TINY_MODEL, "train.batch_size=8", "train.steps=3", "train.workers=0"])


def run(*arguments, check=True):
    # The recipe uses the Python that runs the tests.
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", OMP_NUM_THREADS="1")
    result = subprocess.run(
        ["bash", str(RECIPE / "run.sh"), "--nj", "2", "--ngpu", "0", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert "Traceback" not in result.stderr, result.stderr
    if check:
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


@pytest.fixture(scope="module")
def voxceleb(speech, ffmpeg, tmp_path_factory):
    """Run every stage on the miniature tree; return (arguments, data, exp, standard output)."""
    root = tmp_path_factory.mktemp("voxceleb")
    recordings = (soundfile.read(path)[0] for path in itertools.cycle(sorted((speech / "train").rglob("*.wav"))))
    make_voxceleb_tree(root, recordings, num_train_speakers=8)
    for name in ("list_test_all", "list_test_hard", "list_test_hard2"):
        (root / "vox1" / f"{name}.txt").unlink()
    data, exp = root / "data", root / "exp"
    options = {
        "--corpus": "voxceleb",
        "--voxceleb1-root": root / "vox1",
        "--voxceleb2-root": root / "vox2",
        "--musan-root": root / "musan",
        "--rirs-root": root / "RIRS_NOISES",
        "--data": data,
        "--exp": exp,
        "--config": "conf/sdpn_small.yaml",
        "--config-set": TINY,
    }
    arguments = list(itertools.chain(*options.items()))
    return arguments, data, exp, run(*arguments).stdout


@pytest.mark.slow
def test_every_stage_leaves_its_files(voxceleb):
    _, data, exp, said = voxceleb
    for number in range(8):
        assert f"Stage {number}:" in said
    utterances = read_map(data / "train" / "utt2spk")
    assert len(utterances) == 24 and list(utterances) == sorted(utterances)
    for name in ("train", "vox1"):
        for table in ("wav.scp", "spk2utt", "utt2dur", "feats.scp", "vad.scp", "utt2num_frames"):
            assert (data / name / table).stat().st_size
        for table in ("xvector.scp", "spk_xvector.scp", "num_utts.ark"):
            assert (exp / f"xvectors_{name}" / table).stat().st_size
        assert len(read_map(exp / f"xvectors_{name}" / "xvector.scp")) == len(read_map(data / name / "utt2spk"))
    for file in ("final.pt", "backend/mean.vec", "backend/transform.mat", "backend/plda", "RESULTS.md", "report.html"):
        assert (exp / file).stat().st_size


def test_no_evaluated_speaker_is_trained_on_and_no_label_reaches_training(voxceleb):
    _, data, _, _ = voxceleb
    evaluated = set(VOX1_DEV + VOX1_TEST)
    assert set(read_map(data / "vox1" / "utt2spk").values()) == evaluated
    assert not evaluated & set(read_map(data / "train" / "utt2spk").values())
    table = CutTable(data / "manifests" / "selected_cuts_train.jsonl.gz")
    for index in range(len(table)):
        cut = table[index]
        assert not cut.supervisions and cut.id[:7] not in evaluated


def test_results_cover_every_list_and_back_end(voxceleb):
    _, data, exp, said = voxceleb
    lists = {path.name for path in (data / "vox1").glob("trials*")}
    assert lists == {"trials_o", "trials_o_cleaned", "trials_e_cleaned"}
    results = json.loads((exp / "results.json").read_text())
    text = json.dumps(results)
    for name in lists:
        for backend in ("cosine", "cosine_mean", "plda"):
            path = exp / "scores" / "vox1" / f"{name}.{backend}"
            assert path.stat().st_size and backend in text
            # Kaldi's own metrics
            assert re.search(rf"^{re.escape(str(path))}: EER [\d.]+ %, minDCF\(0.01\) [\d.]+$", said, re.MULTILINE)
    scores = [line.split() for line in (exp / "scores" / "vox1" / "trials_o.cosine").read_text().splitlines()]
    trials = [line.split()[:2] for line in (data / "vox1" / "trials_o").read_text().splitlines()]
    assert [score[:2] for score in scores] == trials


def test_cosine_scores_are_the_cosines_of_the_archives(voxceleb):
    import kaldiio

    _, _, exp, _ = voxceleb
    xvectors = kaldiio.load_scp(str(exp / "xvectors_vox1" / "xvector.scp"))
    for line in (exp / "scores" / "vox1" / "trials_o.cosine").read_text().splitlines():
        enroll, test, score = line.split()
        a, b = xvectors[enroll].astype(np.float64), xvectors[test].astype(np.float64)
        assert float(score) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=2e-6)


@pytest.mark.slow
def test_complete_stages_are_skipped_and_changed_inputs_are_not(voxceleb):
    arguments, data, exp, _ = voxceleb
    said = run(*arguments).stdout
    assert said.count("complete, nothing to do") == 8
    for changed, first in (
        (exp / "scores" / "vox1" / "trials_o.plda", 7),
        (data / "vox1" / "trials_o", 6),
        (exp / "xvectors_train" / "xvector.scp", 5),
    ):
        time.sleep(0.1)  # times of files are no finer than the kernel's tick
        changed.touch()
        said = run(*arguments, "--stage", "4", "--stop-stage", first).stdout
        assert [line.split(":")[0] for line in said.splitlines() if "nothing to do" in line] == [
            f"Stage {number}" for number in range(4, first)
        ]
        assert "  done in " in said and said.count("nothing to do") == first - 4


@pytest.mark.slow
def test_vad_and_corpus_labels_are_options(voxceleb):
    arguments, _, exp, _ = voxceleb
    said = run(*arguments, "--stage", "4", "--use-vad", "true", "--plda-labels", "corpus").stdout
    assert "corpus" in (exp / "backend" / "plda_labels").read_text()
    assert len(set(read_map(exp / "backend" / "utt2spk").values())) == 8
    assert "speaker labels" in said


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
    result = run(*arguments)
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
        (["--no-such-option", "1"], ["--no-such-option"]),
        (["--corpus", "audio-dir", "--audio-root", "/nowhere"], ["/nowhere"]),
    ],
)
def test_bad_options(tmp_path, arguments, parts):
    result = run("--data", tmp_path / "d", "--exp", tmp_path / "e", *arguments, check=False)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in parts)
