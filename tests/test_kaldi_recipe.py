"""The back end as recipes call it: each command line that Kaldi ran, the chain, and a recipe's scoring stages.

The PATH holds only our tools and the system's. The bounds are about ten times the difference between a recomputation in
double precision and Kaldi's single precision.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest

from sdpn_k2.kaldi.backend.plda import read_plda
from sdpn_k2.kaldi.formats.tables import read_object, read_table

ROOT = Path(__file__).resolve().parent.parent
OUR_TOOLS = ROOT / "utils" / "kaldi-bin"


def environment():
    """Our tools, the interpreter that runs the tests and the system: nothing of Kaldi."""
    path = [str(OUR_TOOLS), str(Path(sys.executable).parent), "/usr/bin", "/bin"]
    for folder in path[2:]:
        assert not os.path.exists(os.path.join(folder, "ivector-mean")), "Kaldi is installed: its tools would be tested"
    return {"PATH": os.pathsep.join(path), "LC_ALL": "C", "OMP_NUM_THREADS": "1", "HOME": os.environ.get("HOME", "/")}


def shell(command, folder):
    return subprocess.run(
        ["bash", "-c", "set -eo pipefail; " + command], cwd=folder, env=environment(), capture_output=True, text=True
    )


# Comparisons of a file of ours with Kaldi's, of which some are cut (tests/data/golden/README.md)

CUT = {"scores_nonorm_smooth0.1": 600, "scores_simple": 600, "test_centered.txt": 40}


def first(items, kaldis):
    """As many of our items as a cut file of Kaldi's has, otherwise all."""
    return items[: CUT.get(kaldis.name)]


def same_text(ours, kaldis):
    assert ours.read_text() == kaldis.read_text()


def same_bytes(ours, kaldis):
    assert ours.read_bytes() == kaldis.read_bytes()


def same_scores(ours, kaldis, absolute=1e-4, relative=2e-6):
    texts = first(ours.read_text().splitlines(), kaldis), kaldis.read_text().splitlines()
    ours, kaldis = ([line.split() for line in lines] for lines in texts)
    assert [line[:2] for line in ours] == [line[:2] for line in kaldis]
    ours, kaldis = (np.array([float(line[2]) for line in lines]) for lines in (ours, kaldis))
    assert (abs(ours - kaldis) <= absolute + relative * abs(kaldis)).all()


def same_cosines(ours, kaldis):
    same_scores(ours, kaldis, 2e-6, 0)


def same_dense_scores(ours, kaldis):
    ours, kaldis = (dict(kaldiio.load_ark(str(path))) for path in (ours, kaldis))
    assert list(ours) == list(kaldis)
    for key, expected in kaldis.items():
        assert (abs(ours[key] - expected) <= 1e-4 + 2e-6 * abs(expected)).all()


def vectors_within(bound):
    def check(ours, kaldis_path):
        ours, kaldis = (dict(kaldiio.load_ark(str(path))) for path in (ours, kaldis_path))
        assert first(list(ours), kaldis_path) == list(kaldis)
        assert max(abs(ours[key] - kaldis[key]).max() for key in kaldis) <= bound

    return check


def same_mean(ours, kaldis):
    header = kaldis.read_bytes()[:8]  # " [ " of text, or \0BDV and the dimension
    assert ours.read_bytes()[:3] == header[:3] and (header[:1] != b"\0" or ours.read_bytes()[:8] == header)
    np.testing.assert_allclose(
        read_object(str(ours), "double_vector"), read_object(str(kaldis), "double_vector"), rtol=0, atol=1e-5
    )


def same_transform(ours, kaldis):
    assert (ours.read_bytes()[:1] == b"\0") == (kaldis.read_bytes()[:1] == b"\0")
    ours, kaldis = (read_object(str(path), "matrix").astype(float) for path in (ours, kaldis))
    signs = np.sign((ours[:, :-1] * kaldis[:, :-1]).sum(axis=1))[:, None]
    error = np.linalg.norm((signs * ours - kaldis)[:, :-1], axis=1) / np.linalg.norm(kaldis[:, :-1], axis=1)
    assert error.max() <= 1e-5
    assert abs((signs * ours - kaldis)[:, -1]).max() <= 1e-5


def same_plda(ours, kaldis):
    assert ours.read_bytes()[:10] == kaldis.read_bytes()[:10]
    ours, kaldis = read_plda(str(ours)), read_plda(str(kaldis))
    np.testing.assert_allclose(ours.psi, kaldis.psi, rtol=1e-5)
    signs = np.sign((ours.transform * kaldis.transform).sum(axis=1))[:, None]
    error = np.linalg.norm(signs * ours.transform - kaldis.transform, axis=1)
    assert (error / np.linalg.norm(kaldis.transform, axis=1)).max() <= 5e-4
    np.testing.assert_allclose(ours.mean, kaldis.mean, atol=1e-5)


def same_adapted_plda(ours, kaldis):
    ours, kaldis = read_plda(str(ours)), read_plda(str(kaldis))
    for covariance, expected in zip(ours.covariances(), kaldis.covariances()):
        np.testing.assert_allclose(covariance, expected, atol=1e-5 * abs(expected).max())
    np.testing.assert_allclose(ours.mean, kaldis.mean, atol=1e-5)


def same_warnings(ours, kaldis):
    """Compare the warnings and the last count, without the places in the source."""

    def said(path, label):
        return re.findall(rf"^{label} \([^)]*\([^)]*\)[^)]*\) (.*)$", path.read_text(), re.MULTILINE)

    assert sorted(said(ours, "WARNING")) == sorted(said(kaldis, "WARNING"))
    assert said(kaldis, "LOG")[-1] == said(ours, "LOG")[-1]


# Start of a line of COMMANDS.txt → the files that it makes, and how they are compared
COMMANDS = {
    "ivector-mean scp:train.scp mean.vec": {"mean.vec": same_mean},
    "ivector-mean scp:train.scp mean.txt.tmp": {"mean.txt": same_mean},
    "ivector-mean --binary=true": {"mean_bin.vec": same_mean},
    "ivector-compute-lda --total-covariance-factor=0.0": {"transform.mat": same_transform},
    "ivector-compute-lda --total-covariance-factor=0.5": {"lda_t0.5.mat": same_transform},
    "ivector-compute-lda --total-covariance-factor=1.0": {"lda_t1.txt": same_transform},
    "copy-matrix --binary=false transform.mat": {"transform.txt": same_text},
    "ivector-compute-plda ark": {"plda": same_plda},
    "ivector-compute-plda --num-em-iters=3": {"plda_full_it3.txt": same_plda},
    "ivector-copy-plda --binary=false plda plda.txt": {"plda.txt": same_text},
    "ivector-copy-plda --binary=false --smoothing=0.1": {"plda_smooth0.1.txt": same_plda},
    "ivector-plda-scoring --normalize-length=true 'ivector-copy-plda": {"scores": same_scores},
    "ivector-plda-scoring --normalize-length=false": {"scores_nonorm_smooth0.1": same_scores},
    "ivector-plda-scoring --normalize-length=true --num-utts": {"scores_multi": same_scores},
    "ivector-plda-scoring --normalize-length=true --simple": {"scores_simple": same_scores},
    "ivector-plda-scoring --normalize-length=true plda_adapt": {"scores_adapt": same_scores},
    "(head -5 trials": {"scores_missing": same_scores, "scores_missing.stderr.txt": same_warnings},
    "ivector-mean ark:enroll.spk2utt scp:test.scp ark,t:": {
        "enroll_mean.ark": vectors_within(1e-5),
        "enroll_num_utts.ark": same_text,
    },
    "ivector-mean ark:enroll.spk2utt scp:test.scp ark:": {
        "enroll_mean_bin.ark": vectors_within(1e-5),
        "enroll_num_utts_bin.ark": same_bytes,
    },
    "ivector-mean ark:edge.spk2utt": {
        "edge_mean.ark": vectors_within(1e-5),
        "edge_num_utts.ark": same_text,
        "edge_mean.stderr.txt": same_warnings,
    },
    "ivector-adapt-plda --within": {"plda_adapt": same_adapted_plda, "plda_adapt.txt": same_adapted_plda},
    "ivector-adapt-plda --mean-diff-scale=0.0": {"plda_adapt_nomd.txt": same_adapted_plda},
    "ivector-compute-dot-products": {"scores_cosine": same_cosines},
    "ivector-normalize-length": {"test_lengthnorm.txt": vectors_within(1e-5)},
    "ivector-subtract-global-mean": {"test_centered.txt": vectors_within(1e-5)},
    "transform-vec": {"test_lda.txt": vectors_within(5e-5)},
    "ivector-transform": {"test_ivtransform.txt": vectors_within(5e-5)},
    "ivector-plda-scoring-dense": {"scores_dense.txt": same_dense_scores},
    "agglomerative-cluster": {"cluster_labels.txt": same_text},
    "est-pca": {"pca16.mat": same_transform, "pca_full.mat": same_transform},
}
INPUTS = [
    "train.ark",
    "train.scp",
    "train.utt2spk",
    "train.spk2utt",
    "test.ark",
    "test.scp",
    "test.utt2spk",
    "enroll.spk2utt",
    "reco2utt",
    "trials",
    "trials_multi",
]


# Kaldi's two tools wrote the same bytes.
SAME_AS = {"test_ivtransform.txt": "test_lda.txt"}


def command_lines(golden, start):
    return [line for line in (golden / "COMMANDS.txt").read_text().splitlines() if line.startswith(start)]


@pytest.mark.parametrize("start", COMMANDS)
def test_each_command_on_kaldis_own_inputs(golden, tmp_path, start):
    (line,) = command_lines(golden, start)
    folder = tmp_path / "work"
    shutil.copytree(golden, folder)
    for name in COMMANDS[start]:
        (folder / name).unlink(missing_ok=True)
    result = shell(line, folder)
    assert result.returncode == 0, result.stderr
    for name, check in COMMANDS[start].items():
        check(folder / name, golden / SAME_AS.get(name, name))


@pytest.mark.parametrize("name", ["eer", "eer_tied"])
def test_equal_error_rate_as_printed(golden, name):
    result = shell(f"compute-eer {'eer_input' if name == 'eer' else name}", golden)
    assert result.returncode == 0
    assert result.stdout == (golden / f"{name}.txt").read_text()
    expected = re.search(r"Equal error rate is .*", (golden / f"{name}.stderr.txt").read_text()).group()
    assert expected in result.stderr


@pytest.fixture(scope="session")
def chain(golden, tmp_path_factory):
    """Run the whole chain from the vectors on, on our own outputs."""
    folder = tmp_path_factory.mktemp("chain")
    for name in INPUTS:
        shutil.copy(golden / name, folder)
    for line in command_lines(golden, ("ivector-", "agglomerative-cluster")):
        if "edge.spk2utt" not in line:
            result = shell(line, folder)
            assert result.returncode == 0, f"{line}\n{result.stderr}"
    return folder


@pytest.mark.parametrize("name", ["scores", "scores_nonorm_smooth0.1", "scores_multi", "scores_simple", "scores_adapt"])
def test_the_chain_ends_in_kaldis_scores(chain, golden, name):
    same_scores(chain / name, golden / name)
    number = len((golden / ("trials_multi" if name == "scores_multi" else "trials")).read_text().splitlines())
    assert len((chain / name).read_text().splitlines()) == number


def test_the_chain_ends_in_kaldis_cosines(chain, golden):
    same_cosines(chain / "scores_cosine", golden / "scores_cosine")


def test_the_chain_ends_in_kaldis_error_rates(chain, golden):
    result = shell(f"compute-eer <({ROOT}/local/prepare_for_eer.py trials scores)", chain)
    assert result.stdout == (golden / "eer.txt").read_text()
    for line in (golden / "mindcf.txt").read_text().splitlines():
        p_target, expected = line.split()
        result = shell(f"{ROOT}/sid/compute_min_dcf.py --p-target {p_target} scores trials", chain)
        assert result.stdout.strip() == expected
        assert f"minDCF is {expected} at threshold" in result.stderr


def test_clustering_from_our_own_plda(chain, golden):
    same_dense_scores(chain / "scores_dense.txt", golden / "scores_dense.txt")
    same_text(chain / "cluster_labels.txt", golden / "cluster_labels.txt")


def test_clustering_by_a_known_number_of_speakers(chain):
    (chain / "reco2num_spk").write_text("te000 10\nte001 10\nte002 10\nte003 10\n")
    result = shell(
        "agglomerative-cluster --reco2num-spk-rspecifier=ark:reco2num_spk --max-spk-fraction=0.2 "
        "ark:scores_dense.txt ark:reco2utt ark,t:labels_known",
        chain,
    )
    assert result.returncode == 0, result.stderr
    labels = dict(read_table(f"ark:{chain / 'labels_known'}", "int"))
    speaker_of = dict(line.split() for line in (chain / "test.utt2spk").read_text().splitlines())
    for line in (chain / "reco2utt").read_text().splitlines():
        utterances = line.split()[1:]
        found = [labels[utterance] for utterance in utterances]
        assert sorted(set(found)) == list(range(1, 11))
        assert np.bincount(found).max() <= 12
        # These speakers are well separated: most utterances share a cluster with a majority of their own speaker.
        pairs = [(label, speaker_of[utterance]) for label, utterance in zip(found, utterances)]
        speakers = set(speaker_of.values())
        pure = sum(max(pairs.count((label, speaker)) for speaker in speakers) for label in set(found))
        assert pure >= 0.7 * len(utterances)


SCORING_STAGES = r"""
set -e
train_cmd=$root/utils/run.pl
trials=data/test/trials
train=exp/xvectors_train
test=exp/xvectors_test
centre="ark:ivector-subtract-global-mean"
project="transform-vec $train/transform.mat ark:- ark:- | ivector-normalize-length ark:-  ark:-"

$train_cmd $train/log/compute_mean.log \
  ivector-mean scp:$train/xvector.scp $train/mean.vec || exit 1

$train_cmd $train/log/lda.log \
  ivector-compute-lda --total-covariance-factor=0.0 --dim=$lda_dim \
  "ark:ivector-subtract-global-mean scp:$train/xvector.scp ark:- |" \
  ark:data/train/utt2spk $train/transform.mat || exit 1

$train_cmd $train/log/plda.log \
  ivector-compute-plda ark:data/train/spk2utt \
  "$centre scp:$train/xvector.scp ark:- | $project |" \
  $train/plda || exit 1

$train_cmd exp/scores/log/scoring.log \
  ivector-plda-scoring --normalize-length=true \
  "ivector-copy-plda --smoothing=0.0 $train/plda - |" \
  "$centre $train/mean.vec scp:$test/xvector.scp ark:- | $project |" \
  "$centre $train/mean.vec scp:$test/xvector.scp ark:- | $project |" \
  "cat '$trials' | cut -d\  --fields=1,2 |" exp/scores_test || exit 1

eer=`compute-eer <($root/local/prepare_for_eer.py $trials exp/scores_test) 2> /dev/null`
mindcf1=`$root/sid/compute_min_dcf.py --p-target 0.01 exp/scores_test $trials 2> /dev/null`
mindcf2=`$root/sid/compute_min_dcf.py --p-target 0.001 exp/scores_test $trials 2> /dev/null`
echo "EER: $eer%"
echo "minDCF(p-target=0.01): $mindcf1"
echo "minDCF(p-target=0.001): $mindcf2"
"""


def test_scoring_stages_of_the_voxceleb_recipe(golden, tmp_path):
    """Stages 10 to 12 of Kaldi's egs/voxceleb/v2, on vectors of 48 dimensions."""
    for name in ("train", "test"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / f"exp/xvectors_{name}").mkdir(parents=True)
        shutil.copy(golden / f"{name}.ark", tmp_path / f"exp/xvectors_{name}/xvector.ark")
        scp = (golden / f"{name}.scp").read_text().replace(f" {name}.ark:", f" exp/xvectors_{name}/xvector.ark:")
        (tmp_path / f"exp/xvectors_{name}/xvector.scp").write_text(scp)
    shutil.copy(golden / "train.utt2spk", tmp_path / "data/train/utt2spk")
    shutil.copy(golden / "train.spk2utt", tmp_path / "data/train/spk2utt")
    shutil.copy(golden / "trials", tmp_path / "data/test/trials")
    result = subprocess.run(
        ["bash", "-c", SCORING_STAGES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**environment(), "root": str(ROOT), "lda_dim": "24"},
    )
    assert result.returncode == 0, result.stderr
    eer = (golden / "eer.txt").read_text()
    dcf = dict(line.split() for line in (golden / "mindcf.txt").read_text().splitlines())
    assert result.stdout.splitlines() == [
        f"EER: {eer}%",
        f"minDCF(p-target=0.01): {dcf['0.01']}",
        f"minDCF(p-target=0.001): {dcf['0.001']}",
    ]
    same_scores(tmp_path / "exp/scores_test", golden / "scores")
    log = (tmp_path / "exp/scores/log/scoring.log").read_text()
    assert "# ivector-plda-scoring --normalize-length=true" in log
    assert "Processed 3554 trials, 0 had errors." in log
