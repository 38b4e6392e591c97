"""The scoring halves of Kaldi's recipes, in their own words, with only our tools on the PATH.

The embeddings are those of an untrained model, so error rates are high. Each figure that a recipe prints is computed
again in double precision: scores from the closed form of PLDA, and error rates with scikit-learn.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from diarization_reference import frame_error_rate, read_turns
from kaldi_support import load
from recipe_embeddings import link_recipe, write_conversations, write_embeddings
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import roc_curve

from sdpn_k2.kaldi.backend.plda import read_plda
from sdpn_k2.kaldi.formats.tables import read_object

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def embeddings(speech, tmp_path_factory):
    """Sets of embeddings that recipes read and must not change."""
    return write_embeddings(tmp_path_factory.mktemp("embeddings"), speech)


@pytest.fixture
def recipe(tmp_path):
    """Return a function that runs the lines of a recipe in a folder, and returns what they print."""
    link_recipe(tmp_path)
    path = [ROOT / "utils/kaldi-bin", ROOT / "utils", Path(sys.executable).parent, "/usr/bin", "/bin"]
    for folder in path[2:]:
        assert not os.path.exists(os.path.join(folder, "ivector-mean")), "Kaldi is installed: its tools would be tested"
    environment = {"PATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}

    def run(lines):
        start = ". ./cmd.sh\n. ./path.sh\nset -e\nstage=0\n"
        done = subprocess.run(
            ["bash", "-c", start + lines], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        logs = "".join(log.read_text()[-2000:] for log in tmp_path.rglob("*.log")) if done.returncode else ""
        assert done.returncode == 0, done.stdout + done.stderr + logs
        return done.stdout

    return run


def link_sets(embeddings, folder, **names):
    """Give the sets of embeddings the names that a recipe has for them."""
    for own, name in names.items():
        directory = folder / f"data/{name}"
        directory.mkdir(parents=True, exist_ok=True)
        for path in (embeddings / f"data/{own}").iterdir():
            os.symlink(path, directory / path.name)
        target = folder / f"exp/xvectors_{name}"
        (target / "log").mkdir(parents=True)
        for path in (embeddings / f"exp/xvectors_{own}").iterdir():
            os.symlink(path, target / path.name)


def load_as_the_recipe(scp, folder):
    """Load a script file whose archives are named relative to where the recipe ran."""
    entries = [line.split(" ", 1) for line in scp.read_text().splitlines()]
    return {key: np.array(kaldiio.load_mat(str(folder / entry))) for key, entry in entries}


def read_scores(path):
    """Return (enroll, test) → score."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return {(enroll, test): float(score) for enroll, test, score in lines}


def plda_scores(enroll, test, mean, transform, plda, trials):
    """Return the scores of trials by the closed form, from embeddings of speakers (with counts) and of utterances."""
    model = read_plda(str(plda))
    matrix = read_object(str(transform), "matrix").astype(float)
    centre = read_object(str(mean), "vector").astype(float)

    def project(vector, count):
        vector = matrix[:, :-1] @ (vector - centre) + matrix[:, -1]
        vector = vector * np.sqrt(len(vector)) / np.linalg.norm(vector)
        vector = model.transform @ (vector - model.mean)
        return vector * np.sqrt(len(vector) / np.sum(vector**2 / (model.psi + 1.0 / count)))

    def log_density(vector, mean, variance):
        return -0.5 * np.sum(np.log(2 * np.pi * variance) + (vector - mean) ** 2 / variance)

    scores = {}
    for speaker, utterance in trials:
        vector, count = enroll[speaker]
        speaker_mean = project(vector, count) * count * model.psi / (count * model.psi + 1)
        point = project(test[utterance], 1)
        same = log_density(point, speaker_mean, 1 + model.psi / (count * model.psi + 1))
        scores[speaker, utterance] = same - log_density(point, 0, 1 + model.psi)
    return scores


def eer(scores, labels):
    """Return the equal error rate in percent."""
    false_alarms, hits, _ = roc_curve([labels[pair] for pair in scores], list(scores.values()))
    return 100 * np.min(np.maximum(false_alarms, 1 - hits))


def read_trials(path):
    lines = [line.split() for line in path.read_text().splitlines()]
    return {(enroll, test): label == "target" for enroll, test, label in lines}


def enrolment(folder):
    counts = dict(line.split() for line in (folder / "num_utts.ark").read_text().splitlines())
    return {
        name: (vector.astype(float), int(counts[name])) for name, vector in load(folder / "spk_xvector.scp").items()
    }


def check(exp, train, enroll, test, mean, plda, trials, scores):
    """Check the scores of a recipe by the closed form; return their EER in percent."""
    labels = read_trials(trials)
    found = read_scores(scores)
    assert list(found) == list(labels)
    vectors = {name: vector.astype(float) for name, vector in load(exp / f"xvectors_{test}/xvector.scp").items()}
    expected = plda_scores(
        enrolment(exp / f"xvectors_{enroll}"), vectors, mean, exp / f"xvectors_{train}/transform.mat", plda, labels
    )
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-3, atol=2e-3)
    return eer(found, labels)


def printed(text, pattern):
    return [float(number) for number in re.search(pattern, text).groups()]


SRE16 = r"""
sre16_trials=data/sre16_eval_test/trials
sre16_trials_tgl=data/sre16_eval_test/trials_tgl
sre16_trials_yue=data/sre16_eval_test/trials_yue

if [ $stage -le 8 ]; then
  $train_cmd exp/xvectors_sre16_major/log/compute_mean.log \
    ivector-mean scp:exp/xvectors_sre16_major/xvector.scp \
    exp/xvectors_sre16_major/mean.vec || exit 1;

  lda_dim=6
  $train_cmd exp/xvectors_sre_combined/log/lda.log \
    ivector-compute-lda --total-covariance-factor=0.0 --dim=$lda_dim \
    "ark:ivector-subtract-global-mean scp:exp/xvectors_sre_combined/xvector.scp ark:- |" \
    ark:data/sre_combined/utt2spk exp/xvectors_sre_combined/transform.mat || exit 1;

  $train_cmd exp/xvectors_sre_combined/log/plda.log \
    ivector-compute-plda ark:data/sre_combined/spk2utt \
    "ark:ivector-subtract-global-mean scp:exp/xvectors_sre_combined/xvector.scp ark:- | transform-vec exp/xvectors_sre_combined/transform.mat ark:- ark:- | ivector-normalize-length ark:-  ark:- |" \
    exp/xvectors_sre_combined/plda || exit 1;

  $train_cmd exp/xvectors_sre16_major/log/plda_adapt.log \
    ivector-adapt-plda --within-covar-scale=0.75 --between-covar-scale=0.25 \
    exp/xvectors_sre_combined/plda \
    "ark:ivector-subtract-global-mean scp:exp/xvectors_sre16_major/xvector.scp ark:- | transform-vec exp/xvectors_sre_combined/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |" \
    exp/xvectors_sre16_major/plda_adapt || exit 1;
fi

if [ $stage -le 9 ]; then
  $train_cmd exp/scores/log/sre16_eval_scoring.log \
    ivector-plda-scoring --normalize-length=true \
    --num-utts=ark:exp/xvectors_sre16_eval_enroll/num_utts.ark \
    "ivector-copy-plda --smoothing=0.0 exp/xvectors_sre_combined/plda - |" \
    "ark:ivector-mean ark:data/sre16_eval_enroll/spk2utt scp:exp/xvectors_sre16_eval_enroll/xvector.scp ark:- | ivector-subtract-global-mean exp/xvectors_sre16_major/mean.vec ark:- ark:- | transform-vec exp/xvectors_sre_combined/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |" \
    "ark:ivector-subtract-global-mean exp/xvectors_sre16_major/mean.vec scp:exp/xvectors_sre16_eval_test/xvector.scp ark:- | transform-vec exp/xvectors_sre_combined/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |" \
    "cat '$sre16_trials' | cut -d\  --fields=1,2 |" exp/scores/sre16_eval_scores || exit 1;

  utils/filter_scp.pl $sre16_trials_tgl exp/scores/sre16_eval_scores > exp/scores/sre16_eval_tgl_scores
  utils/filter_scp.pl $sre16_trials_yue exp/scores/sre16_eval_scores > exp/scores/sre16_eval_yue_scores
  pooled_eer=$(paste $sre16_trials exp/scores/sre16_eval_scores | awk '{print $6, $3}' | compute-eer - 2>/dev/null)
  tgl_eer=$(paste $sre16_trials_tgl exp/scores/sre16_eval_tgl_scores | awk '{print $6, $3}' | compute-eer - 2>/dev/null)
  yue_eer=$(paste $sre16_trials_yue exp/scores/sre16_eval_yue_scores | awk '{print $6, $3}' | compute-eer - 2>/dev/null)
  echo "Using Out-of-Domain PLDA, EER: Pooled ${pooled_eer}%, Tagalog ${tgl_eer}%, Cantonese ${yue_eer}%"
fi

if [ $stage -le 10 ]; then
  $train_cmd exp/scores/log/sre16_eval_scoring_adapt.log \
    ivector-plda-scoring --normalize-length=true \
    --num-utts=ark:exp/xvectors_sre16_eval_enroll/num_utts.ark \
    "ivector-copy-plda --smoothing=0.0 exp/xvectors_sre16_major/plda_adapt - |" \
    "ark:ivector-mean ark:data/sre16_eval_enroll/spk2utt scp:exp/xvectors_sre16_eval_enroll/xvector.scp ark:- | ivector-subtract-global-mean exp/xvectors_sre16_major/mean.vec ark:- ark:- | transform-vec exp/xvectors_sre_combined/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |" \
    "ark:ivector-subtract-global-mean exp/xvectors_sre16_major/mean.vec scp:exp/xvectors_sre16_eval_test/xvector.scp ark:- | transform-vec exp/xvectors_sre_combined/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |" \
    "cat '$sre16_trials' | cut -d\  --fields=1,2 |" exp/scores/sre16_eval_scores_adapt || exit 1;

  pooled_eer=$(paste $sre16_trials exp/scores/sre16_eval_scores_adapt | awk '{print $6, $3}' | compute-eer - 2>/dev/null)
  echo "Using Adapted PLDA, EER: Pooled ${pooled_eer}%"
fi
"""  # noqa: E501


@pytest.mark.slow
def test_sre16_with_adaptation(recipe, embeddings, tmp_path):
    link_sets(
        embeddings,
        tmp_path,
        train="sre_combined",
        major="sre16_major",
        enroll="sre16_eval_enroll",
        test="sre16_eval_test",
    )
    test = tmp_path / "data/sre16_eval_test"
    lines = (test / "trials").read_text().splitlines(keepends=True)
    tagalog = {line.split()[0] for line in lines[: len(lines) // 2]}
    (test / "trials_tgl").write_text("".join(line for line in lines if line.split()[0] in tagalog))
    (test / "trials_yue").write_text("".join(line for line in lines if line.split()[0] not in tagalog))
    said = recipe(SRE16)
    exp = tmp_path / "exp"
    sets = exp, "sre_combined", "sre16_eval_enroll", "sre16_eval_test", exp / "xvectors_sre16_major/mean.vec"
    for plda, scores, pattern in (
        ("sre_combined/plda", "sre16_eval_scores", r"Out-of-Domain PLDA, EER: Pooled ([\d.]+)%, Tagalog ([\d.]+)%"),
        ("sre16_major/plda_adapt", "sre16_eval_scores_adapt", r"Adapted PLDA, EER: Pooled ([\d.]+)%"),
    ):
        rate = check(*sets, exp / f"xvectors_{plda}", test / "trials", exp / "scores" / scores)
        rates = printed(said, pattern)
        assert rates[0] == pytest.approx(rate, abs=2.0) and rate < 45
        if len(rates) == 2:
            found = read_scores(exp / "scores/sre16_eval_tgl_scores")
            assert {speaker for speaker, _ in found} == tagalog
            assert rates[1] == pytest.approx(eer(found, read_trials(test / "trials_tgl")), abs=4.0)
    adapted, plain = (
        read_plda(str(exp / f"xvectors_{name}")) for name in ("sre16_major/plda_adapt", "sre_combined/plda")
    )
    assert not np.allclose(adapted.psi, plain.psi, rtol=1e-3)


# The two recipes score in the same words; what differs are the names and the number of enrolled utterances.
CORE = r"""
nnet_dir=exp
if [ $stage -le 10 ]; then
  $train_cmd $nnet_dir/xvectors_TRAIN/log/compute_mean.log \
    ivector-mean scp:$nnet_dir/xvectors_TRAIN/xvector.scp \
    $nnet_dir/xvectors_TRAIN/mean.vec || exit 1;

  lda_dim=6
  $train_cmd $nnet_dir/xvectors_TRAIN/log/lda.log \
    ivector-compute-lda --total-covariance-factor=0.0 --dim=$lda_dim \
    "ark:ivector-subtract-global-mean scp:$nnet_dir/xvectors_TRAIN/xvector.scp ark:- |" \
    ark:data/TRAIN/utt2spk $nnet_dir/xvectors_TRAIN/transform.mat || exit 1;

  $train_cmd $nnet_dir/xvectors_TRAIN/log/plda.log \
    ivector-compute-plda ark:data/TRAIN/spk2utt \
    "ark:ivector-subtract-global-mean scp:$nnet_dir/xvectors_TRAIN/xvector.scp ark:- | transform-vec $nnet_dir/xvectors_TRAIN/transform.mat ark:- ark:- | ivector-normalize-length ark:-  ark:- |" \
    $nnet_dir/xvectors_TRAIN/plda || exit 1;
fi

if [ $stage -le 11 ]; then
  $train_cmd $nnet_dir/scores/log/scoring.log \
    ivector-plda-scoring --normalize-length=true \
    --num-utts=ark:$nnet_dir/xvectors_ENROLL/num_utts.ark \
    "ivector-copy-plda --smoothing=0.0 $nnet_dir/xvectors_TRAIN/plda - |" \
    "ark:ivector-mean ark:data/ENROLL/spk2utt scp:$nnet_dir/xvectors_ENROLL/xvector.scp ark:- | ivector-subtract-global-mean $nnet_dir/xvectors_TRAIN/mean.vec ark:- ark:- | transform-vec $nnet_dir/xvectors_TRAIN/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |" \
    "ark:ivector-subtract-global-mean $nnet_dir/xvectors_TRAIN/mean.vec scp:$nnet_dir/xvectors_TEST/xvector.scp ark:- | transform-vec $nnet_dir/xvectors_TRAIN/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |" \
    "cat '$trials' | cut -d\  --fields=1,2 |" $nnet_dir/scores/scores || exit 1;

  eer=$(paste $trials $nnet_dir/scores/scores | awk '{print $6, $3}' | compute-eer - 2>/dev/null)
  mindcf1=`sid/compute_min_dcf.py --p-target 0.01 $nnet_dir/scores/scores $trials 2> /dev/null`
  mindcf2=`sid/compute_min_dcf.py --p-target 0.001 $nnet_dir/scores/scores $trials 2> /dev/null`
  echo "EER: $eer%"
  echo "minDCF(p-target=0.01): $mindcf1"
  echo "minDCF(p-target=0.001): $mindcf2"
fi
"""  # noqa: E501


def score_core(recipe, folder, trials, train, enroll, test):
    lines = CORE.replace("TRAIN", train).replace("ENROLL", enroll).replace("TEST", test)
    said = recipe(f"trials={trials}\n{lines}")
    exp = folder / "exp"
    mean, plda = exp / f"xvectors_{train}/mean.vec", exp / f"xvectors_{train}/plda"
    rate = check(exp, train, enroll, test, mean, plda, folder / trials, exp / "scores/scores")
    assert printed(said, r"EER: ([\d.]+)%")[0] == pytest.approx(rate, abs=2.0) and rate < 45
    costs = printed(said, r"minDCF\(p-target=0.01\): ([\d.]+)\nminDCF\(p-target=0.001\): ([\d.]+)\n")
    assert 0.3 < costs[0] <= costs[1] <= 1.0
    return exp


@pytest.mark.slow
def test_sitw_core_core(recipe, embeddings, tmp_path):
    """One trial list in a folder of lists; models of one utterance each."""
    names = {"train": "train_combined_200k", "enroll": "sitw_eval_enroll", "test": "sitw_eval_test"}
    link_sets(embeddings, tmp_path, **names)
    exp, data = tmp_path / "exp", tmp_path / "data"
    enroll = data / "sitw_eval_enroll"
    first = {line.split()[0]: line.split()[1] for line in (enroll / "spk2utt").read_text().splitlines()}
    (enroll / "spk2utt").unlink()
    (enroll / "spk2utt").write_text("".join(f"{speaker} {utterance}\n" for speaker, utterance in first.items()))
    (exp / "xvectors_sitw_eval_enroll/num_utts.ark").unlink()
    recipe(
        "cd exp/xvectors_sitw_eval_enroll; rm spk_xvector.*; ivector-mean ark:../../data/sitw_eval_enroll/spk2utt "
        "scp:xvector.scp ark,scp:spk_xvector.ark,spk_xvector.scp ark,t:num_utts.ark 2> log/speaker_mean.log"
    )
    trials = (data / "sitw_eval_test/trials").read_text()
    (data / "sitw_eval_test/trials").unlink()
    (data / "sitw_eval_test/trials").mkdir()
    (data / "sitw_eval_test/trials/core-core.lst").write_text(trials)
    score_core(recipe, tmp_path, "data/sitw_eval_test/trials/core-core.lst", *names.values())
    assert set((exp / "xvectors_sitw_eval_enroll/num_utts.ark").read_text().split()[1::2]) == {"1"}


@pytest.mark.slow
def test_cnceleb_with_enrolment_from_several_utterances(recipe, embeddings, tmp_path):
    names = {"train": "train_comb", "enroll": "eval_enroll", "test": "eval_test"}
    link_sets(embeddings, tmp_path, **names)
    (tmp_path / "data/eval_test/lists").mkdir()
    os.rename(tmp_path / "data/eval_test/trials", tmp_path / "data/eval_test/lists/trials.lst")
    exp = score_core(recipe, tmp_path, "data/eval_test/lists/trials.lst", *names.values())
    counts = (exp / "xvectors_eval_enroll/num_utts.ark").read_text().split()[1::2]
    assert min(map(int, counts)) >= 2


CALLHOME = r"""
command -v bc > /dev/null || bc() { awk "BEGIN { print ($(cat)) }"; }
nnet_dir=exp

if [ $stage -le 9 ]; then
  "$train_cmd" $nnet_dir/xvectors_callhome1/log/plda.log \
    ivector-compute-plda ark:$nnet_dir/xvectors_sre_segmented_128k/spk2utt \
      "ark:ivector-subtract-global-mean \
      scp:$nnet_dir/xvectors_sre_segmented_128k/xvector.scp ark:- \
      | transform-vec $nnet_dir/xvectors_callhome1/transform.mat ark:- ark:- \
      | ivector-normalize-length ark:- ark:- |" \
    $nnet_dir/xvectors_callhome1/plda || exit 1;

  "$train_cmd" $nnet_dir/xvectors_callhome2/log/plda.log \
    ivector-compute-plda ark:$nnet_dir/xvectors_sre_segmented_128k/spk2utt \
      "ark:ivector-subtract-global-mean \
      scp:$nnet_dir/xvectors_sre_segmented_128k/xvector.scp ark:- \
      | transform-vec $nnet_dir/xvectors_callhome2/transform.mat ark:- ark:- \
      | ivector-normalize-length ark:- ark:- |" \
    $nnet_dir/xvectors_callhome2/plda || exit 1;
fi

if [ $stage -le 10 ]; then
  diarization/nnet3/xvector/score_plda.sh --cmd "$train_cmd --mem 4G" \
    --nj 20 $nnet_dir/xvectors_callhome2 $nnet_dir/xvectors_callhome1 \
    $nnet_dir/xvectors_callhome1/plda_scores

  diarization/nnet3/xvector/score_plda.sh --cmd "$train_cmd --mem 4G" \
    --nj 20 $nnet_dir/xvectors_callhome1 $nnet_dir/xvectors_callhome2 \
    $nnet_dir/xvectors_callhome2/plda_scores
fi

if [ $stage -le 11 ]; then
  mkdir -p $nnet_dir/tuning
  for dataset in callhome1 callhome2; do
    echo "Tuning clustering threshold for $dataset"
    best_der=100
    best_threshold=0
    utils/filter_scp.pl -f 2 data/$dataset/wav.scp \
      data/callhome/fullref.rttm > data/$dataset/ref.rttm

    for threshold in -0.3 0 0.3; do
      diarization/cluster.sh --cmd "$train_cmd --mem 4G" --nj 20 \
        --threshold $threshold $nnet_dir/xvectors_$dataset/plda_scores \
        $nnet_dir/xvectors_$dataset/plda_scores_t$threshold

      md-eval.pl -1 -c 0.25 -r data/$dataset/ref.rttm \
       -s $nnet_dir/xvectors_$dataset/plda_scores_t$threshold/rttm \
       2> $nnet_dir/tuning/${dataset}_t${threshold}.log \
       > $nnet_dir/tuning/${dataset}_t${threshold}

      der=$(grep -oP 'DIARIZATION\ ERROR\ =\ \K[0-9]+([.][0-9]+)?' \
        $nnet_dir/tuning/${dataset}_t${threshold})
      if [ $(echo $der'<'$best_der | bc -l) -eq 1 ]; then
        best_der=$der
        best_threshold=$threshold
      fi
    done
    echo "$best_threshold" > $nnet_dir/tuning/${dataset}_best
  done

  diarization/cluster.sh --cmd "$train_cmd --mem 4G" --nj 20 \
    --threshold $(cat $nnet_dir/tuning/callhome2_best) \
    $nnet_dir/xvectors_callhome1/plda_scores $nnet_dir/xvectors_callhome1/plda_scores

  diarization/cluster.sh --cmd "$train_cmd --mem 4G" --nj 20 \
    --threshold $(cat $nnet_dir/tuning/callhome1_best) \
    $nnet_dir/xvectors_callhome2/plda_scores $nnet_dir/xvectors_callhome2/plda_scores

  mkdir -p $nnet_dir/results
  cat $nnet_dir/xvectors_callhome1/plda_scores/rttm \
    $nnet_dir/xvectors_callhome2/plda_scores/rttm | md-eval.pl -1 -c 0.25 -r \
    data/callhome/fullref.rttm -s - 2> $nnet_dir/results/threshold.log \
    > $nnet_dir/results/DER_threshold.txt
  der=$(grep -oP 'DIARIZATION\ ERROR\ =\ \K[0-9]+([.][0-9]+)?' \
    $nnet_dir/results/DER_threshold.txt)
  echo "Using supervised calibration, DER: $der%"
fi

if [ $stage -le 12 ]; then
  diarization/cluster.sh --cmd "$train_cmd --mem 4G" \
    --reco2num-spk data/callhome1/reco2num_spk \
    $nnet_dir/xvectors_callhome1/plda_scores $nnet_dir/xvectors_callhome1/plda_scores_num_spk

  diarization/cluster.sh --cmd "$train_cmd --mem 4G" \
    --reco2num-spk data/callhome2/reco2num_spk \
    $nnet_dir/xvectors_callhome2/plda_scores $nnet_dir/xvectors_callhome2/plda_scores_num_spk

  cat $nnet_dir/xvectors_callhome1/plda_scores_num_spk/rttm \
  $nnet_dir/xvectors_callhome2/plda_scores_num_spk/rttm \
    | md-eval.pl -1 -c 0.25 -r data/callhome/fullref.rttm -s - 2> $nnet_dir/results/num_spk.log \
    > $nnet_dir/results/DER_num_spk.txt
  der=$(grep -oP 'DIARIZATION\ ERROR\ =\ \K[0-9]+([.][0-9]+)?' \
    $nnet_dir/results/DER_num_spk.txt)
  echo "Using the oracle number of speakers, DER: $der%"
fi
"""


@pytest.mark.slow
def test_callhome_diarization_in_two_folds(recipe, speech, tmp_path):
    write_conversations(tmp_path, speech)
    said = recipe(CALLHOME)
    exp, data = tmp_path / "exp", tmp_path / "data"
    reference = read_turns(data / "callhome/fullref.rttm")
    best = {}
    for fold in ("callhome1", "callhome2"):
        folder = exp / f"xvectors_{fold}"
        scores = load_as_the_recipe(folder / "plda_scores/scores.scp", tmp_path)
        segments = [line.split() for line in (folder / "plda_scores/segments").read_text().splitlines()]
        clusters = dict(line.split() for line in (folder / "plda_scores_num_spk/labels").read_text().splitlines())
        own = {key: turns for key, turns in reference.items() if key[0] in scores}
        assert sorted(own) == sorted((recording, "0") for recording in scores)
        for recording, matrix in scores.items():
            costs = -matrix.astype(float)
            tree = linkage(costs[np.triu_indices(len(costs), 1)] - costs.min(), "average")
            expected = fcluster(tree, 2, "maxclust")
            found = [int(clusters[name]) for name, name_of_recording, *_ in segments if name_of_recording == recording]
            assert len(set(zip(expected, found))) == len(set(found)) == 2
        rates = {
            threshold: frame_error_rate(own, read_turns(folder / f"plda_scores_t{threshold}/rttm"), 0.25, True)
            for threshold in ("-0.3", "0", "0.3")
        }
        for threshold, rate in rates.items():
            text = (exp / f"tuning/{fold}_t{threshold}").read_text()
            assert printed(text, r"DIARIZATION ERROR = ([\d.]+) percent")[0] == pytest.approx(rate, abs=0.05)
        best[fold] = (exp / f"tuning/{fold}_best").read_text().strip()
        assert rates[best[fold]] == min(rates.values())
    # Each fold is clustered with the other's threshold.
    for fold, other in (("callhome1", "callhome2"), ("callhome2", "callhome1")):
        folder = exp / f"xvectors_{fold}"
        chosen = folder / f"plda_scores_t{best[other]}/rttm"
        assert (folder / "plda_scores/rttm").read_text() == chosen.read_text()
    for name, pattern in (("", r"calibration, DER: ([\d.]+)%"), ("_num_spk", r"speakers, DER: ([\d.]+)%")):
        system = {}
        for fold in ("callhome1", "callhome2"):
            system.update(read_turns(exp / f"xvectors_{fold}/plda_scores{name}/rttm"))
        rate = frame_error_rate(reference, system, 0.25, True)
        assert printed(said, pattern)[0] == pytest.approx(rate, abs=0.05) and rate < 45
