"""``sdpn-k2 score``, ``calibrate`` and ``apply-calibration`` from files to files."""

import json
import weakref

import numpy as np
import pytest
from click.testing import CliRunner
from operation_count import count_calls

from sdpn_k2.cli.apply_calibration import apply_calibration
from sdpn_k2.cli.calibrate import calibrate
from sdpn_k2.cli.evaluate import evaluate
from sdpn_k2.cli.plda_labels import plda_labels
from sdpn_k2.cli.score import score
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend import trials as reader
from sdpn_k2.kaldi.formats.tables import TableWriter
from sdpn_k2.scoring import cosine, metrics, normalization, trial_arrays
from sdpn_k2.scoring.trial_arrays import match_scores, read_scores, read_trials
from sdpn_k2.scoring.vector_files import read_embeddings


def run(command, *arguments, **options):
    done = CliRunner().invoke(command, [str(argument) for argument in arguments], **options)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def corpus(tmp_path):
    """Twelve speakers of six utterances around a common mean, and a cohort."""
    rng = np.random.default_rng(0)

    def table(name, n_speakers):
        centres = rng.standard_normal((n_speakers, 10))
        with TableWriter(f"ark,scp:{tmp_path / name}.ark,{tmp_path / name}.scp", "vector") as writer:
            for s in range(n_speakers):
                for u in range(6):
                    vector = centres[s] + 0.7 * rng.standard_normal(10) + 1
                    writer.write(f"{name}{s:02d}-{u}", vector.astype(np.float32))

    table("test", 12)
    table("train", 40)
    ids = [f"test{s:02d}-{u}" for s in range(12) for u in range(6)]
    (tmp_path / "trials").write_text(
        "".join(f"{a} {b} {'target' if a[:6] == b[:6] else 'nontarget'}\n" for i, a in enumerate(ids) for b in ids[:i])
    )
    return tmp_path


def read_values(corpus, name):
    return match_scores(read_scores(corpus / name), read_trials(corpus / "trials"))


def test_scores_of_a_trial_list(corpus):
    run(score, "--enroll", corpus / "test.scp", "--trials", corpus / "trials", corpus / "out")
    embeddings = read_embeddings(f"{corpus}/test.ark")
    unit = embeddings.vectors / np.linalg.norm(embeddings.vectors, axis=1)[:, None]
    i, j = np.tril_indices(len(unit), -1)
    np.testing.assert_allclose(read_values(corpus, "out"), (unit @ unit.T)[i, j], atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        ["--norm", "as-norm", "--top-n", 30],
        ["--norm", "s-norm", "--cohort-clusters", 20],
        ["--whiten", "train.scp"],
    ],
)
def test_normalisation_and_whitening_change_the_scores_and_keep_the_order_useful(corpus, options):
    cohort = ["--cohort", corpus / "train.scp"] if "--norm" in options else []
    options = [corpus / o if o == "train.scp" else o for o in options]
    run(score, "--enroll", corpus / "test.scp", "--trials", corpus / "trials", *cohort, *options, corpus / "out")
    run(score, "--enroll", corpus / "test.scp", "--trials", corpus / "trials", corpus / "plain")
    trials = read_trials(corpus / "trials")
    eer, plain = (
        metrics.eer(metrics.ErrorRates.from_scores(read_values(corpus, name), trials.is_target)).value
        for name in ("out", "plain")
    )
    assert 0.0 < eer < plain


def test_pipes_and_unlabelled_trials(corpus):
    done = run(score, "--enroll", corpus / "test.scp", "--trials", "-", "-", input="test00-0 test00-1\n")
    line = next(line for line in done.output.splitlines() if line.startswith("test00-0 "))
    assert -1.0 <= float(line.split()[2]) <= 1.0


@pytest.fixture
def blocks(monkeypatch):
    """Read 64 bytes and score 100 trials at a time; return the sizes of the blocks that are scored."""
    monkeypatch.setattr(reader, "BLOCK_BYTES", 64)
    for module in (trial_arrays, cosine):
        monkeypatch.setattr(module, "BLOCK_TRIALS", 100)
    sizes, alive = [], weakref.WeakSet()
    score_trials = cosine.score_trials

    def record(enroll, test, trials):
        sizes.append(len(trials))
        alive.add(trials)
        assert len(alive) <= 2, "earlier blocks are still in memory"
        return score_trials(enroll, test, trials)

    monkeypatch.setattr(cosine, "score_trials", record)
    monkeypatch.setattr(normalization, "score_trials", record)
    return sizes


@pytest.mark.parametrize("norm", [[], ["--norm", "as-norm", "--top-n", 30], ["--norm", "s-norm"]])
@pytest.mark.parametrize("listed", [True, False])
def test_long_lists_are_scored_in_blocks(corpus, norm, listed, request):
    options = ["--enroll", corpus / "test.scp", *(["--trials", corpus / "trials"] if listed else []), *norm]
    options += ["--cohort", corpus / "train.scp"] if norm else []
    run(score, *options, corpus / "whole")
    sizes = request.getfixturevalue("blocks")
    run(score, *options, corpus / "out")
    n = len((corpus / "whole").read_text().splitlines())
    assert n == (72 * 71 // 2 if listed else 72 * 72)
    assert sum(sizes) == n and max(sizes) < 110
    whole, out = (read_scores(corpus / name) for name in ("whole", "out"))
    assert [out.trials.pair(i) for i in range(n)] == [whole.trials.pair(i) for i in range(n)]
    np.testing.assert_allclose(out.values, whole.values, rtol=1e-4, atol=1e-5)


def test_a_trial_far_down_a_list_is_named_by_its_number(corpus, blocks):
    with (corpus / "trials").open("a") as stream:
        stream.write("nobody test00-0 nontarget\n")
    with pytest.raises(InputError, match=r"trials: trial 2557: nobody .*; 1 of \d+ trials \(lines \d+ to 2557\)"):
        run(score, "--enroll", corpus / "test.scp", "--trials", corpus / "trials", corpus / "out")
    assert len(blocks) > 10 and not (corpus / "out").exists()


def test_score_matrix(corpus):
    run(score, "--enroll", corpus / "test.scp", "--test", corpus / "train.scp", corpus / "matrix.npy")
    matrix = np.load(corpus / "matrix.npy")
    assert matrix.shape == (72, 240) and matrix.dtype == np.float32
    run(score, "--enroll", corpus / "test.scp", "--test", corpus / "train.scp", corpus / "lines")
    np.testing.assert_allclose(read_scores(corpus / "lines").values, matrix.ravel(), atol=1e-6)
    cohort = ["--norm", "as-norm", "--cohort", corpus / "train.scp", "--top-n", 20]
    for output in ("normalised.npy", "lines"):
        run(score, "--enroll", corpus / "test.scp", "--test", corpus / "train.scp", *cohort, corpus / output)
    np.testing.assert_allclose(
        read_scores(corpus / "lines").values, np.load(corpus / "normalised.npy").ravel(), rtol=1e-6
    )
    with pytest.raises(InputError, match="matrix.npy"):
        run(score, "--enroll", corpus / "test.scp", "--trials", corpus / "trials", corpus / "matrix.npy")


def test_enrolment_from_several_utterances(corpus):
    (corpus / "spk2utt").write_text("test00 test00-0 test00-1\ntest01 test01-0\n")
    (corpus / "models").write_text("test00 test00-2 target\ntest01 test00-2 nontarget\n")
    run(
        score,
        "--enroll",
        corpus / "test.scp",
        "--test",
        corpus / "test.scp",
        "--enroll-spk2utt",
        corpus / "spk2utt",
        "--trials",
        corpus / "models",
        corpus / "out",
    )
    vectors = dict(zip(*[(e := read_embeddings(f"{corpus}/test.ark")).ids, e.vectors]))
    unit = {name: vector / np.linalg.norm(vector) for name, vector in vectors.items()}
    model = unit["test00-0"] + unit["test00-1"]
    expected = [model @ unit["test00-2"] / np.linalg.norm(model), unit["test01-0"] @ unit["test00-2"]]
    np.testing.assert_allclose(read_scores(corpus / "out").values, expected, atol=1e-6)


def test_labels_of_twice_the_embeddings_need_at_most_2_2_times_the_operations(tmp_path):
    counts = []
    for n in (2000, 4000):
        vectors = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
        with TableWriter(f"ark,scp:{tmp_path}/{n}.ark,{tmp_path}/{n}.scp", "vector") as writer:
            for i, vector in enumerate(vectors):
                writer.write(f"u{i:04d}", vector)
        arguments = f"scp:{tmp_path}/{n}.scp", tmp_path / f"utt2spk{n}", None, 0
        counts.append(count_calls(lambda arguments=arguments: plda_labels.callback(*arguments)))
    assert counts[1] <= 2.2 * counts[0]


def test_options_that_do_not_go_together(corpus):
    for options in (
        ["--norm", "as-norm"],
        ["--cohort", corpus / "train.scp"],
        ["--top-n", "3"],
        ["--norm", "s-norm", "--cohort", corpus / "train.scp", "--top-n", "3"],
    ):
        done = CliRunner().invoke(score, ["--enroll", "x", *map(str, options), "out"])
        assert done.exit_code == 2 and "Usage" in done.output


def test_bad_input_leaves_no_output(corpus):
    (corpus / "trials_bad").write_text("test00-0 nobody target\n")
    with pytest.raises(InputError, match="trials_bad: .*nobody.* 1 of 1 "):
        run(score, "--enroll", corpus / "test.scp", "--trials", corpus / "trials_bad", corpus / "out")
    with pytest.raises(InputError, match="train.scp.* 240 .*300"):
        run(
            score,
            "--enroll",
            corpus / "test.scp",
            "--trials",
            corpus / "trials",
            "--norm",
            "as-norm",
            "--cohort",
            corpus / "train.scp",
            corpus / "out",
        )
    assert not (corpus / "out").exists()


def test_calibration_and_fusion(corpus):
    run(score, "--enroll", corpus / "test.scp", "--trials", corpus / "trials", corpus / "one")
    run(
        score,
        "--enroll",
        corpus / "test.scp",
        "--trials",
        corpus / "trials",
        "--whiten",
        corpus / "train.scp",
        corpus / "two",
    )
    run(calibrate, corpus / "trials", corpus / "one", corpus / "two", corpus / "fusion.json")
    run(apply_calibration, corpus / "fusion.json", corpus / "one", corpus / "two", corpus / "fused")
    trials = read_trials(corpus / "trials")
    rates = metrics.ErrorRates.from_scores(read_values(corpus, "fused"), trials.is_target)
    best_single = min(
        metrics.min_cllr(metrics.ErrorRates.from_scores(read_values(corpus, name), trials.is_target))
        for name in ("one", "two")
    )
    assert metrics.cllr(rates) < best_single + 0.02
    assert metrics.cllr(rates) < 1.1 * metrics.min_cllr(rates)


def test_calibration_refuses_a_pair_with_both_labels(tmp_path):
    (tmp_path / "trials").write_text("a x target\nb x nontarget\na x nontarget\n")
    (tmp_path / "scores").write_text("a x 1\nb x 0\n")
    with pytest.raises(InputError, match="trials: a x "):
        run(calibrate, tmp_path / "trials", tmp_path / "scores", tmp_path / "calibration.json")
    assert not (tmp_path / "calibration.json").exists()


def test_json_has_no_infinity(tmp_path):
    """Where rejecting everything costs least."""
    (tmp_path / "trials").write_text("a x target\nb x nontarget\n")
    (tmp_path / "scores").write_text("a x 0\nb x 1\n")

    def refuse(constant):
        raise AssertionError(constant)

    told = json.loads(run(evaluate, tmp_path / "scores", tmp_path / "trials", "--json").output, parse_constant=refuse)
    assert told["costs"][0]["min_dcf"] == 1.0 and told["costs"][0]["threshold"] is None


def test_eval_with_intervals(corpus):
    run(score, "--enroll", corpus / "test.scp", "--trials", corpus / "trials", corpus / "out")
    (corpus / "utt2spk").write_text("".join(f"test{s:02d}-{u} test{s:02d}\n" for s in range(12) for u in range(6)))
    done = run(evaluate, corpus / "out", corpus / "trials", "--utt2spk", corpus / "utt2spk", "--nist", "sre16")
    for name in (
        "EER % (95 %, 12 speakers)",
        "minDCF (p_target 0.01; 95 %, 12 speakers)",
        "actDCF (p_target 0.05; 95 %, 12 speakers)",
        "sre16 act (95 %, 12 speakers)",
        "Cllr (95 %, 12 speakers)",
    ):
        assert name in done.output
