"""Mean and variance normalisation: against Kaldi's files and against the definition, window by window."""

import shutil

import numpy as np
import pytest
from golden_features import read_tables, run_line, write_table
from kaldi_support import load, refuse, shell, succeed, write_ark

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.cmvn import accumulate, apply_cmvn, skip_dims, sliding_cmvn


@pytest.fixture(scope="module")
def kaldis(golden):
    """Kaldi's features, their statistics, and the features that Kaldi normalised."""
    return read_tables(golden / "normalised_features.npz")


def read_text_matrix(path):
    return np.array([line.strip(" ]\n").split() for line in path.read_text().splitlines()[1:]], float)


def assert_equal(ours, kaldis, tone_bound=1e-5):
    assert list(ours) == list(kaldis)
    for key, expected in kaldis.items():
        assert abs(ours[key] - expected).max() <= (tone_bound if key == "tone" else 1e-5)


def test_sliding_normalisation_equals_kaldis(golden, kaldis, tmp_path):
    write_table(tmp_path, "fbank80", kaldis["fbank80"])
    run_line(golden, tmp_path, "ark,scp:fbank80_cmn.ark")
    assert_equal(load(tmp_path / "fbank80_cmn.scp"), kaldis["fbank80_cmn"])
    run_line(golden, tmp_path, "ark:fbank80_scmvn.ark")
    for name in ("fbank80_scmvn", "fbank80_scmvn_left"):
        # The bins of a steady tone hardly vary: there Kaldi's variance, E[x²] - E[x]², is half rounding noise.
        assert_equal(load(tmp_path / f"{name}.ark"), kaldis[name], tone_bound=2e-3)


def test_statistics_equal_kaldis(golden, kaldis, tmp_path):
    for name in ("fbank80", "mfcc30"):
        write_table(tmp_path, name, kaldis[name])
    shutil.copy(golden / "vad.txt", tmp_path)
    run_line(golden, tmp_path, "compute-cmvn-stats")
    ours = load(tmp_path / "cmvn.scp")
    assert list(ours) == list(kaldis["cmvn"])
    for key, expected in kaldis["cmvn"].items():
        assert ours[key].dtype == np.float64
        np.testing.assert_allclose(ours[key], expected, rtol=1e-9, atol=1e-6)
    expected = sum(kaldis["cmvn"].values())
    np.testing.assert_allclose(read_text_matrix(tmp_path / "cmvn_global.txt"), expected, rtol=1e-6)
    ours = load(tmp_path / "cmvn_weighted.txt")
    assert list(ours) == list(kaldis["cmvn_weighted"])
    for key, expected in kaldis["cmvn_weighted"].items():
        np.testing.assert_allclose(ours[key], expected, rtol=1e-6, atol=1e-3)


def test_applying_statistics_equals_kaldis(golden, kaldis, tmp_path):
    for name in ("fbank80", "cmvn"):
        write_table(tmp_path, name, kaldis[name])
    rows = "".join(f"  {' '.join(map(str, row))}\n" for row in kaldis["cmvn_global"][""])
    (tmp_path / "cmvn_global.txt").write_text(f" [\n{rows[:-1]} ]\n")
    run_line(golden, tmp_path, "apply-cmvn scp:cmvn.scp")
    for name in ("fbank80_acmn", "fbank80_gcmvn"):
        assert_equal(load(tmp_path / f"{name}.ark"), kaldis[name])


def by_definition(features, window, min_window, center, norm_vars):
    """Kaldi's rules, one frame at a time, in double precision."""
    features = features.astype(np.float64)
    count, result = len(features), []
    for t in range(count):
        start, end = (t - window // 2, t - window // 2 + window) if center else (t - window, t + 1)
        if start < 0:
            start, end = 0, end - start
        if not center and end > t:
            end = max(t + 1, min_window)
        if end > count:
            start, end = max(0, start - (end - count)), count
        part = features[start:end]
        normalised = features[t] - part.mean(axis=0)
        if norm_vars:
            normalised = normalised / np.sqrt(np.maximum(part.var(axis=0), 1e-10)) if len(part) > 1 else 0 * normalised
        result.append(normalised)
    return np.array(result)


@pytest.mark.parametrize("norm_vars", [False, True])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("count", [1, 2, 9, 20, 21, 150])
@pytest.mark.parametrize("window, min_window", [(20, 5), (21, 21), (1, 1), (300, 100)])
def test_sliding_window_follows_the_definition(window, min_window, count, center, norm_vars):
    features = np.random.default_rng(count).normal(15, 3, (count, 3)).astype(np.float32)
    found = sliding_cmvn(features, window, min_window, center, norm_vars)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_definition(features, window, min_window, center, norm_vars), atol=1e-5)


def test_long_files_lose_no_precision():
    features = np.random.default_rng(0).normal(20, 1, (200000, 1)).astype(np.float32)
    found = sliding_cmvn(features, window=300, center=True, norm_vars=True)[-500:]
    expected = by_definition(features[-1200:], 300, 100, True, True)[-500:]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_constant_features_become_zero():
    np.testing.assert_array_equal(sliding_cmvn(np.full((50, 2), 7.3), window=10, min_window=5, norm_vars=True), 0)


@pytest.mark.parametrize("settings", [{"window": 0}, {"window": 10, "min_window": 20, "center": True}])
def test_impossible_windows_are_refused(settings):
    with pytest.raises(InputError, match="cmn-window"):
        sliding_cmvn(np.zeros((10, 2)), **settings)


def test_statistics_and_their_inverse():
    rng = np.random.default_rng(1)
    features = rng.normal(3, 2, (400, 5)).astype(np.float32)
    stats = accumulate(features)
    normalised = apply_cmvn(features, stats, norm_vars=True)
    np.testing.assert_allclose(normalised.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(apply_cmvn(normalised, stats, norm_vars=True, reverse=True), features, atol=1e-5)
    np.testing.assert_allclose(apply_cmvn(apply_cmvn(features, stats), stats, reverse=True), features, atol=1e-5)
    skipped = apply_cmvn(features, skip_dims(stats, [1, 4]), norm_vars=True)
    np.testing.assert_array_equal(skipped[:, [1, 4]], features[:, [1, 4]])
    np.testing.assert_array_equal(skipped[:, [0, 2, 3]], normalised[:, [0, 2, 3]])


def test_weights_count_frames():
    features = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(accumulate(features, [0, 1, 0, 2]), accumulate(features[[1, 3, 3]]))


@pytest.mark.parametrize("stats", [np.zeros((2, 4)), np.ones((2, 5)), np.ones((3, 4)), np.full((2, 4), np.nan)])
def test_unusable_statistics_are_refused(stats):
    with pytest.raises(InputError):
        apply_cmvn(np.zeros((5, 3)), stats)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(2)
    write_ark(tmp_path / "f.ark", {key: rng.normal(5, 2, (30, 4)) for key in ("a1", "a2", "b1", "c1")})
    (tmp_path / "spk2utt").write_text("a a1 a2\nb b1 missing\nd missing2\n")
    (tmp_path / "utt2spk").write_text("a1 a\na2 a\nb1 b\n")
    return tmp_path


def test_statistics_per_speaker(folder):
    log = succeed("compute-cmvn-stats --spk2utt=ark:spk2utt ark:f.ark ark:cmvn.ark", folder)
    features, stats = load(folder / "f.ark"), load(folder / "cmvn.ark")
    assert list(stats) == ["a", "b"]
    np.testing.assert_allclose(stats["a"], accumulate(np.vstack([features["a1"], features["a2"]])), rtol=1e-12)
    assert "Did not find features for utterance missing2" in log and "No stats accumulated for speaker d" in log
    assert "3 utterances; 2 had errors" in log
    log = succeed("apply-cmvn --utt2spk=ark:utt2spk --norm-vars=true ark:cmvn.ark ark:f.ark ark:n.ark", folder)
    normalised = load(folder / "n.ark")
    assert list(normalised) == ["a1", "a2", "b1"] and "available for key c1" in log
    np.testing.assert_allclose(np.vstack([normalised["a1"], normalised["a2"]]).std(axis=0), 1, atol=1e-5)
    succeed("apply-cmvn --utt2spk=ark:utt2spk --norm-vars=true --reverse=true ark:cmvn.ark ark:n.ark ark:r.ark", folder)
    np.testing.assert_allclose(load(folder / "r.ark")["a2"], features["a2"], atol=1e-5)
    succeed("apply-cmvn --norm-means=false ark:cmvn.ark ark:f.ark ark:same.ark", folder)
    np.testing.assert_array_equal(load(folder / "same.ark")["c1"], features["c1"])


def test_weights_that_do_not_fit_are_counted(folder):
    (folder / "w").write_text("a1 [ {} ]\na2 [ 1 ]\n".format("1 0 " * 15))
    log = succeed("compute-cmvn-stats --weights=ark:w ark:f.ark ark:cmvn.ark", folder)
    assert list(load(folder / "cmvn.ark")) == ["a1"]
    assert "No weights available for utterance c1" in log and "wrong dimension 1 vs. 30" in log
    assert shell("compute-cmvn-stats --weights=ark:/dev/null ark:f.ark ark:cmvn.ark", folder).returncode == 1


def test_bad_input_gives_one_line(folder):
    write_ark(folder / "mixed.ark", {"a": np.ones((3, 2)), "b": np.ones((3, 5))})
    write_ark(folder / "inf.ark", {"a": [[1.0, np.inf]]})
    (folder / "one").write_text("spk a\n")
    (folder / "nan").write_text("a1 [ {} nan ]\n".format("1 " * 29))
    (folder / "nan.stats").write_text(" [\n 1 nan 1 1 30\n 1 2 3 4 0 ]\n")
    succeed("compute-cmvn-stats ark:f.ark stats", folder)
    for command, words in (
        ("compute-cmvn-stats ark:mixed.ark new", "dimensions"),
        ("compute-cmvn-stats ark:/dev/null new", "no features"),
        ("compute-cmvn-stats ark:inf.ark ark:new", "features of a"),
        ("compute-cmvn-stats --spk2utt=ark:one ark:inf.ark ark:new", "features of a"),
        ("apply-cmvn-sliding ark:inf.ark ark:new", "features of a"),
        ("apply-cmvn stats ark:inf.ark ark:new", "features of a"),
        ("compute-cmvn-stats --spk2utt=ark:spk2utt ark:f.ark new", "ark:"),
        ("apply-cmvn stats ark:mixed.ark ark:new", "utterance a"),
        ("apply-cmvn --skip-dims=0:9 stats ark:f.ark ark:new", "skip-dims"),
        ("apply-cmvn --skip-dims=x stats ark:f.ark ark:new", "skip-dims"),
        ("apply-cmvn --norm-means=false --norm-vars=true stats ark:f.ark ark:new", "variance"),
        ("apply-cmvn --utt2spk=ark:utt2spk stats ark:f.ark ark:new", "utt2spk"),
        ("apply-cmvn-sliding --cmn-window=0 ark:f.ark ark:new", "cmn-window"),
        ("compute-cmvn-stats --weights=ark:nan ark:f.ark ark:new", "weights of a1"),
        ("apply-cmvn nan.stats ark:f.ark ark:new", "nan.stats: utterance a1: "),
    ):
        assert words in refuse(command, folder)
        assert not (folder / "new").exists()
