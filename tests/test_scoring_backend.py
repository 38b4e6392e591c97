"""A back end in memory: against Kaldi's goldens, and against the pipes of the recipe's stage 6."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import sdpn_k2
from sdpn_k2.cli import cli
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi import tools
from sdpn_k2.kaldi.formats.tables import write_object
from sdpn_k2.scoring.backend import SCORINGS, Backend, kind_of_scores
from sdpn_k2.scoring.thresholds import find_threshold, measure_thresholds

ROOT = Path(__file__).resolve().parents[1]


def numbers(path):
    """Return the pairs and the scores of a score file."""
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    return [tuple(line[:2]) for line in lines], np.array([float(line[2]) for line in lines])


@pytest.fixture(scope="module")
def exp(golden, tmp_path_factory):
    """An experiment folder with Kaldi's back end."""
    folder = tmp_path_factory.mktemp("exp")
    (folder / "backend").mkdir()
    for name in ("mean.vec", "transform.mat", "plda"):
        shutil.copy(golden / name, folder / "backend")
    return folder


@pytest.fixture(scope="module")
def vectors(golden):
    return sdpn_k2.read_vectors(f"ark:{golden}/test.ark")


def run(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.mark.parametrize("scoring, file", [("plda", "scores"), ("cosine", "scores_cosine")])
def test_scores_are_kaldis(exp, vectors, golden, tmp_path, scoring, file):
    pairs, expected = numbers(golden / file)
    (tmp_path / "trials").write_text("".join(f"{enroll} {test}\n" for enroll, test in pairs))
    scores = Backend.load(exp, scoring).score_trials(vectors, tmp_path / "trials")
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_speakers_of_several_utterances_are_kaldis(exp, vectors, golden, tmp_path):
    pairs, expected = numbers(golden / "scores_multi")
    lists = [line.split() for line in (golden / "enroll.spk2utt").read_text().splitlines()]
    spk2utt = {speaker: utterances for speaker, *utterances in lists}
    backend = Backend.load(exp)
    for (speaker, test), score in list(zip(pairs, expected))[::50]:
        enrolled = np.stack([vectors[name] for name in spk2utt[speaker]])
        assert backend.compare(enrolled, vectors[test]) == pytest.approx(score, rel=1e-4, abs=1e-4)
    (tmp_path / "trials").write_text("".join(f"{speaker} {test}\n" for speaker, test in pairs))
    options = ["--enroll", golden / "test.ark", "--enroll-spk2utt", golden / "enroll.spk2utt", "--backend", exp]
    done = run("score", *options, "--trials", tmp_path / "trials", tmp_path / "scores")
    assert done.exit_code == 0, done.output
    assert numbers(tmp_path / "scores")[0] == pairs
    np.testing.assert_allclose(numbers(tmp_path / "scores")[1], expected, rtol=1e-4, atol=1e-4)


def stage_6(scoring, exp, vectors, trials, output):
    """Run the command of stage 6 of run.sh that makes the scores of a kind."""
    text = (ROOT / "egs" / "voxceleb" / "run.sh").read_text()
    pipes = dict(re.findall(r'^    (unit|centred|projected)="(.*)"$', text, re.MULTILINE))
    assert len(pipes) == 3
    pipes = {
        name: pipe.replace("$backend", f"{exp}/backend").replace("$xvectors", vectors) for name, pipe in pipes.items()
    }
    pairs = f"cut -d ' ' -f 1,2 '{trials}' |"
    if scoring == "plda":
        side = pipes["projected"]
        plda = f"ivector-copy-plda --smoothing=0.0 {exp}/backend/plda - |"
        arguments = ["ivector-plda-scoring", ["--normalize-length=true", plda, side, side, pairs, str(output)]]
    else:
        side = pipes["unit" if scoring == "cosine" else "centred"]
        arguments = ["ivector-compute-dot-products", [pairs, side, side, str(output)]]
    assert tools.run(*arguments) in (0, None)
    return numbers(output)


@pytest.mark.parametrize("scoring", SCORINGS)
def test_scores_are_those_of_the_recipes_pipes(scoring, exp, vectors, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(ROOT / "utils" / "kaldi-bin"), prepend=":")
    rng = np.random.default_rng(0)
    names = sorted(vectors)[:40]
    sdpn_k2.write_vectors(tmp_path / "x.scp", {name: vectors[name] for name in names})
    trials = tmp_path / "trials"
    trials.write_text("".join(f"{a} {b} target\n" for a, b in rng.choice(names, (200, 2))))
    pairs, expected = stage_6(scoring, exp, f"scp:{tmp_path}/x.scp", trials, tmp_path / "reference")
    scores = Backend.load(exp / "backend", scoring).score_trials(sdpn_k2.read_vectors(tmp_path / "x.scp"), trials)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    options = ["--enroll", tmp_path / "x.scp", "--backend", exp, "--scoring", scoring]
    done = run("score", *options, "--trials", trials, tmp_path / "scores")
    assert done.exit_code == 0 and f"Backend('{scoring}'" in done.output
    assert numbers(tmp_path / "scores")[0] == pairs
    np.testing.assert_allclose(numbers(tmp_path / "scores")[1], expected, rtol=1e-4, atol=1e-4)
    assert run("score", *options, tmp_path / "all.npy").exit_code == 0
    matrix = np.load(tmp_path / "all.npy")
    np.testing.assert_allclose(
        [matrix[names.index(a), names.index(b)] for a, b in pairs], expected, rtol=1e-4, atol=1e-4
    )
    both = np.stack([vectors[name] for name in names])
    np.testing.assert_allclose(Backend.load(exp, scoring).score_matrix(both, both), matrix, rtol=1e-5, atol=1e-5)
    assert run("score", *options, tmp_path / "all").exit_code == 0
    assert len(numbers(tmp_path / "all")[0]) == len(names) ** 2


def test_what_load_finds(exp, golden, tmp_path):
    assert repr(Backend.load(exp)) == f"Backend('plda', dim=48, lda_dim=24, {exp}/backend)"
    (tmp_path / "backend").mkdir()
    shutil.copy(golden / "mean.vec", tmp_path / "backend")
    assert Backend.load(tmp_path).scoring == "cosine_mean"
    assert repr(Backend.load(tmp_path, "cosine")) == "Backend('cosine')"
    (tmp_path / "backend" / "no_plda").write_text("20 training embeddings are too few\n")
    with pytest.raises(InputError, match="transform.mat: no such file; 20 training embeddings are too few"):
        Backend.load(tmp_path, "plda")


def test_broken_back_ends_are_refused(exp, golden, tmp_path):
    shutil.copytree(exp / "backend", tmp_path / "backend")
    for name, value, kind, message in (
        ("mean.vec", np.ones(47), "vector", "does not fit a mean of 47"),
        ("mean.vec", np.full(48, np.nan), "vector", "mean has NaN"),
        ("transform.mat", np.ones((23, 48)), "matrix", "gives 23 dimensions, but the PLDA has 24"),
        ("transform.mat", np.full((24, 48), np.inf), "matrix", "LDA has NaN"),
    ):
        write_object(str(tmp_path / "backend" / name), value, kind)
        with pytest.raises(InputError, match=f"backend: .*{message}"):
            Backend.load(tmp_path)
        shutil.copy(golden / name, tmp_path / "backend")
    with pytest.raises(InputError, match="unknown scoring 'lda'"):
        Backend.load(tmp_path, "lda")
    with pytest.raises(InputError, match="mean.vec: no such file"):
        Backend.load(ROOT)


@pytest.mark.parametrize(
    "enroll, message",
    [
        (np.ones((2, 47)), "47 dimensions, but the mean of .* 48"),
        (np.zeros((2, 48)), "zero norm"),
        (np.full((2, 48), np.nan), "NaN"),
        (np.ones(48), r"\(n, dim\)"),
    ],
)
def test_unusable_embeddings_are_refused(exp, enroll, message):
    with pytest.raises(InputError, match=message):
        Backend.load(exp).score_matrix(enroll, np.ones((1, 48)))


def test_an_embedding_at_the_mean_has_no_cosine(exp):
    backend = Backend.load(exp, "cosine_mean")
    with pytest.raises(InputError, match="equals the mean"):
        backend.score_matrix(backend.mean[None], np.ones((1, 48)))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--scoring", "plda"], "needs --backend"),
        (["--backend", "x", "--mean", "y"], "--backend replaces --mean"),
        (["--backend", "x", "--norm", "s-norm"], "--cohort"),
    ],
)
def test_options_of_score_that_do_not_go_together(options, message):
    done = run("score", "--enroll", "x.ark", *options, "out")
    assert done.exit_code == 2 and message in done.output


# Normalised scores


def statistics(scores, top_n):
    """Mean and standard deviation of the highest ``top_n`` scores of each row."""
    top = np.sort(scores, axis=1)[:, -(top_n or scores.shape[1]) :]
    return top.mean(axis=1, keepdims=True), top.std(axis=1, keepdims=True)


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("method, top_n", [("as-norm", 15), ("s-norm", None), ("z-norm", None), ("t-norm", 9)])
def test_scores_are_normalised_by_the_definition(exp, vectors, tmp_path, scoring, method, top_n):
    names = list(vectors)
    enroll, test, cohort = names[:6], names[6:20], names[20:60]
    for part, ids in (("enroll", enroll), ("test", test), ("cohort", cohort)):
        sdpn_k2.write_vectors(tmp_path / f"{part}.ark", {name: vectors[name] for name in ids})
    options = [f"--{part}={tmp_path}/{part}.ark" for part in ("enroll", "test", "cohort")]
    options += ["--backend", exp, "--scoring", scoring, "--norm", method, *(["--top-n", top_n] if top_n else [])]
    for output in ("scores.npy", "scores"):
        done = run("score", *options, tmp_path / output)
        assert done.exit_code == 0, done.output

    backend = Backend.load(exp, scoring)
    of_enroll, of_test, of_cohort = (np.stack([vectors[name] for name in ids]) for ids in (enroll, test, cohort))
    raw = backend.score_matrix(of_enroll, of_test)
    mean_e, std_e = statistics(backend.score_matrix(of_enroll, of_cohort), top_n)
    mean_t, std_t = statistics(backend.score_matrix(of_cohort, of_test).T, top_n)
    by_enroll, by_test = (raw - mean_e) / std_e, (raw - mean_t.T) / std_t.T
    expected = {"z-norm": by_enroll, "t-norm": by_test}.get(method, (by_enroll + by_test) / 2)
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, rtol=1e-4, atol=1e-4)
    pairs, scores = numbers(tmp_path / "scores")
    assert pairs == [(a, b) for a in enroll for b in test]
    np.testing.assert_allclose(scores, expected.ravel(), rtol=1e-4, atol=1e-4)


def test_a_cohort_of_clusters_and_speakers_of_several_utterances(exp, vectors, golden, tmp_path):
    sdpn_k2.write_vectors(tmp_path / "cohort.ark", {name: vectors[name] for name in list(vectors)[:40]})
    options = ["--enroll", golden / "test.ark", "--enroll-spk2utt", golden / "enroll.spk2utt", "--backend", exp]
    options += ["--norm", "as-norm", "--cohort", tmp_path / "cohort.ark", "--top-n", "4"]
    for name, more in (("members", []), ("clusters", ["--cohort-clusters", "8"]), ("all", ["--cohort-clusters", "40"])):
        done = run("score", *options, *more, tmp_path / f"{name}.npy")
        assert done.exit_code == 0, done.output
    scores = {name: np.load(tmp_path / f"{name}.npy") for name in ("members", "clusters", "all")}
    assert scores["members"].shape[1] == len(vectors) and np.isfinite(scores["clusters"]).all()
    # Clusters of one member each are the members.
    np.testing.assert_allclose(scores["all"], scores["members"], rtol=1e-3, atol=1e-3)
    assert np.abs(scores["clusters"] - scores["members"]).max() > 0.1


# Thresholds


def test_thresholds_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    rates = sdpn_k2.ErrorRates.from_split(rng.normal(3, 1, 400), rng.normal(0, 1, 4000))
    found = measure_thresholds(rates)
    assert list(found) == ["eer", "0.01", "0.05", "0.1", "0.5"]
    assert rates.miss_rate(found["eer"]) == pytest.approx(rates.false_alarm_rate(found["eer"]), abs=0.01)
    for prior in (0.01, 0.05, 0.1, 0.5):  # of N(3, 1) and N(0, 1): llr = 3 s - 4.5
        assert found[f"{prior:g}"] == pytest.approx((np.log((1 - prior) / prior) + 4.5) / 3, abs=0.4)
    assert "0.01" not in measure_thresholds(sdpn_k2.ErrorRates.from_split([0.0, 1.0], [2.0, 0.5]))


def test_thresholds_are_found_in_the_results(tmp_path):
    path = tmp_path / "results.json"
    assert find_threshold(path, "plda") is None
    rows = [
        {"set": name, "trials": "trials", "backend": "plda", "eer": 0.1, "thresholds": {"eer": value, "0.01": 9.0}}
        for name, value in (("big", 1.0), ("dev", 2.0))
    ]
    path.write_text(json.dumps({"results": [{"backend": "cosine", "set": "big"}, *rows]}))
    assert find_threshold(path, "cosine") is None
    assert find_threshold(path, "plda") == (2.0, f"EER 10.00 % of dev/trials, {path}")
    assert find_threshold(path, "plda", 0.01) == (9.0, f"minDCF(0.01) of dev/trials, {path}")
    with pytest.raises(InputError, match="prior 0.3.*0.01"):
        find_threshold(path, "plda", 0.3)
    path.write_text("[]")
    with pytest.raises(InputError, match="results.json: not the results"):
        find_threshold(path, "plda")


def test_thresholds_of_another_back_end_are_refused(exp, golden, vectors, tmp_path):
    other = tmp_path / "exp"
    shutil.copytree(exp / "backend", other / "backend")
    names = list(vectors)[:12]
    (tmp_path / "data" / "test").mkdir(parents=True)
    pairs = [(a, b) for a in names for b in names if a < b]
    lines = [f"{a} {b} {'target' if i % 3 else 'nontarget'}\n" for i, (a, b) in enumerate(pairs)]
    (tmp_path / "data" / "test" / "trials").write_text("".join(lines))
    (other / "scores" / "test").mkdir(parents=True)
    for scoring in SCORINGS:
        scores = Backend.load(other, scoring).score_trials(vectors, tmp_path / "data" / "test" / "trials")
        text = "".join(f"{a} {b} {score}\n" for (a, b), score in zip(pairs, scores))
        (other / "scores" / "test" / f"trials.{scoring}").write_text(text)
    assert run("results", tmp_path / "data", other).exit_code == 0
    for scoring in SCORINGS:
        assert Backend.load(other, scoring).threshold() is not None
    # A mean of other training embeddings: cosines stay as they were.
    write_object(str(other / "backend" / "mean.vec"), np.full(len(vectors[names[0]]), 0.1, np.float32), "vector")
    assert Backend.load(other, "cosine").threshold() is not None
    for scoring in ("cosine_mean", "plda"):
        with pytest.raises(InputError, match=f"^{other}/results.json: .* {scoring} [0-9a-f]+ .* {scoring} [0-9a-f]+ "):
            Backend.load(other, scoring).threshold()


# Calibrations of one kind of scores


def test_a_calibration_refuses_scores_of_another_kind(exp, tmp_path):
    """Calibrate scores of the recipe and of other places, and apply the calibration to each kind."""
    experiment = tmp_path / "exp"
    scores = experiment / "scores" / "test"
    scores.mkdir(parents=True)
    shutil.copytree(exp / "backend", experiment / "backend")
    (tmp_path / "trials").write_text("a x target\nb y target\na y nontarget\nb x nontarget\n")
    for name in ("trials.cosine", "trials.cosine_mean", "trials.plda"):
        (scores / name).write_text("a x 3\nb y 1\na y 2\nb x -1\n")
    shutil.copy(scores / "trials.plda", tmp_path / "scores")
    kinds = {name: Backend.load(exp, name).kind for name in SCORINGS}
    assert len(set(kinds.values())) == 3 and kinds["cosine"] == "cosine"
    assert {name: kind_of_scores(scores / f"trials.{name}") for name in SCORINGS} == kinds
    assert kind_of_scores(tmp_path / "scores") is None and kind_of_scores("-") is None

    calibration = tmp_path / "calibration"
    assert run("calibrate", tmp_path / "trials", scores / "trials.plda", calibration).exit_code == 0
    assert json.loads(calibration.read_text())["kinds"] == [kinds["plda"]]
    assert run("apply-calibration", calibration, scores / "trials.plda", tmp_path / "llr").exit_code == 0
    assert run("apply-calibration", calibration, tmp_path / "scores", tmp_path / "llr").exit_code == 0  # unknown
    done = run("apply-calibration", calibration, scores / "trials.cosine", tmp_path / "llr")
    assert isinstance(done.exception, InputError)
    assert str(done.exception).endswith(f"cosine scores, but the calibration was trained on {kinds['plda']} scores")

    for options, kind in (
        ([], None),
        (["--scoring", "cosine"], "cosine"),
        (["--backend", experiment], kinds["plda"]),
        (["--backend", experiment, "--scoring", "cosine_mean"], kinds["cosine_mean"]),
    ):
        assert run("calibrate", *options, tmp_path / "trials", tmp_path / "scores", calibration).exit_code == 0
        assert json.loads(calibration.read_text())["kinds"] == [kind]
    for options in (["--scoring", "plda"], ["--scoring", "cosine", tmp_path / "trials"]):
        done = run("calibrate", *options, tmp_path / "scores", tmp_path / "scores", calibration)
        assert done.exit_code == 2


# Files of vectors


@pytest.mark.parametrize("name", ["x.ark", "x.scp", "x.json", "ark,t:x.txt"])
def test_what_is_written_is_read(vectors, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    some = dict(list(vectors.items())[:5])
    sdpn_k2.write_vectors(name, some)
    found = sdpn_k2.read_vectors(name.replace("ark,t:", "ark:"))
    assert list(found) == list(some)
    np.testing.assert_allclose([*found.values()], [*some.values()], rtol=1e-6)
    assert all(vector.dtype == np.float32 for vector in found.values())


def test_a_folder_of_extract_is_read(vectors, tmp_path):
    sdpn_k2.write_vectors(tmp_path / "xvector.scp", vectors)
    assert list(sdpn_k2.read_vectors(tmp_path)) == list(vectors)


@pytest.mark.parametrize(
    "content, message",
    [
        ("[1]", "JSON object"),
        ("{}", "at least one"),
        ('{"a": [1], "b": [1, 2]}', "one dimension"),
        ("{", "JSON object"),
    ],
)
def test_other_json_is_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=f"x.json: .*{message}"):
        sdpn_k2.read_vectors(tmp_path / "x.json")
    with pytest.raises(InputError, match="no names"):
        sdpn_k2.read_vectors("x.npy")
