"""egs/voxceleb/run.sh, stage by stage, on a miniature VoxCeleb made of synthetic speech."""

import itertools
import json
import re
import time

import numpy as np
import pytest
import soundfile
from run_recipe import TINY, run
from voxceleb_tree import VOX1_DEV, VOX1_TEST, make_voxceleb_tree

from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.kaldi.datadir.data_dir import read_map


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
    return arguments, data, exp, run(*arguments, "--nj", "2").stdout


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
        said = run(*arguments, "--stop-stage", first).stdout
        assert [line.split(":")[0] for line in said.splitlines() if "nothing to do" in line] == [
            f"Stage {number}" for number in range(first)
        ]
        assert "  done in " in said
    old = (exp / "xvectors_vox1" / "xvector.1.ark").stat().st_mtime_ns
    said = run(*arguments, "--stage", "4", "--stop-stage", "4").stdout
    assert "nothing to do" not in said and said.count("  done in ") == 1
    assert (exp / "xvectors_vox1" / "xvector.1.ark").stat().st_mtime_ns > old


@pytest.mark.slow
def test_vad_and_corpus_labels_are_options(voxceleb):
    arguments, _, exp, _ = voxceleb
    said = run(*arguments, "--stage", "4", "--use-vad", "true", "--plda-labels", "corpus").stdout
    assert "corpus" in (exp / "backend" / "plda_labels").read_text()
    assert len(set(read_map(exp / "backend" / "utt2spk").values())) == 8
    assert "speaker labels" in said
