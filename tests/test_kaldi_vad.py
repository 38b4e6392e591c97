"""Voice activity detection and feature tools: against Kaldi's files and the definition, frame by frame."""

import shutil

import numpy as np
import pytest
from golden_features import DIMS, read_tables, run_line, write_table
from kaldi_support import load, refuse, shell, succeed, write_ark

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.energy_vad import energy_vad


@pytest.fixture(scope="module")
def kaldis(golden):
    return read_tables(golden / "normalised_features.npz")


@pytest.mark.parametrize(
    "part, names",
    [("--vad-energy-threshold=5.5", ["vad.txt"]), ("ark:vad_default.ark", ["vad_default.ark", "vad_ctx5.txt"])],
)
def test_compute_vad_decides_as_kaldi(part, names, golden, kaldis, tmp_path):
    write_table(tmp_path, "mfcc30", kaldis["mfcc30"])
    run_line(golden, tmp_path, part)
    for name in names:
        assert (tmp_path / name).read_bytes() == (golden / name).read_bytes()


def test_select_voiced_frames_selects_as_kaldi(golden, kaldis, tmp_path):
    write_table(tmp_path, "mfcc30", kaldis["mfcc30"])
    shutil.copy(golden / "vad.txt", tmp_path)
    run_line(golden, tmp_path, "select-voiced-frames")
    for name in ("mfcc30_voiced.ark", "mfcc30_voiced.scp"):
        ours = load(tmp_path / name)
        assert list(ours) == list(kaldis["mfcc30_voiced"])
        for key, expected in kaldis["mfcc30_voiced"].items():
            np.testing.assert_array_equal(ours[key], expected)


def test_lengths_and_dimensions_equal_kaldis(golden, kaldis, tmp_path):
    write_table(tmp_path, "fbank80", kaldis["fbank80"])
    run_line(golden, tmp_path, "feat-to-len")
    lengths = (golden / "fbank80.len").read_text().splitlines(True)
    expected = "".join(line for line in lengths if line.split()[0] in kaldis["fbank80"])
    assert (tmp_path / "fbank80.len").read_text() == expected
    assert (tmp_path / "fbank80.dim").read_text() == "".join(f"{key} {DIMS} \n" for key in kaldis["fbank80"])


def by_definition(log_energy, threshold, scale, context, proportion):
    threshold += scale * log_energy.mean()
    decisions = []
    for t in range(len(log_energy)):
        around = log_energy[max(0, t - context) : t + context + 1]
        decisions.append((around > threshold).sum() >= len(around) * proportion)
    return np.array(decisions)


@pytest.mark.parametrize("context", [0, 1, 2, 5, 100])
@pytest.mark.parametrize("threshold, scale, proportion", [(5.0, 0.5, 0.6), (9.0, 0.0, 0.12), (-3.0, 1.5, 0.99)])
def test_decisions_follow_the_definition(context, threshold, scale, proportion):
    features = np.random.default_rng(context).normal(10, 3, (60, 4)).astype(np.float32)
    expected = by_definition(features[:, 0].astype(np.float64), threshold, scale, context, proportion)
    np.testing.assert_array_equal(energy_vad(features, threshold, scale, context, proportion), expected)
    np.testing.assert_array_equal(energy_vad(features[:, 0], threshold, scale, context, proportion), expected)


def test_frames_at_the_threshold_and_shares_at_the_proportion():
    assert energy_vad(np.array([5.0, 5.5]), 5.0, 0.0).tolist() == [False, True]
    loud = np.array([9.0, 0.0, 9.0, 0.0])
    assert energy_vad(loud, 5.0, 0.0, frames_context=1, proportion_threshold=0.5).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    "settings",
    [{"energy_mean_scale": -1}, {"frames_context": -1}, {"proportion_threshold": 0}, {"proportion_threshold": 1}],
)
def test_impossible_parameters_are_refused(settings):
    with pytest.raises(InputError):
        energy_vad(np.zeros((10, 1)), **settings)


def test_no_frames():
    assert energy_vad(np.zeros((0, 3))).shape == (0,)


@pytest.fixture
def folder(tmp_path):
    """Features of a loud, an empty, a quiet and a third loud utterance."""
    loud = np.tile([[20.0, 1.0], [0.0, 2.0]], (3, 1))
    quiet, none = -9 * np.ones((4, 2)), np.zeros((0, 0))
    write_ark(tmp_path / "f.ark", {"loud": loud, "none": none, "quiet": quiet, "zz": loud[:3]})
    return tmp_path


def test_empty_and_unvoiced_utterances_are_counted(folder):
    log = succeed("compute-vad --vad-energy-mean-scale=0 ark:f.ark ark,t:vad.txt", folder)
    assert (folder / "vad.txt").read_text() == "loud  [ 1 0 1 0 1 0 ]\nquiet  [ 0 0 0 0 ]\nzz  [ 1 0 1 ]\n"
    assert "Empty feature matrix for utterance none" in log
    assert "processed 2 utterances successfully; 1 had empty features, and 1 were completely unvoiced." in log
    assert "Proportion of voiced frames was 0.384615 over 13 frames." in log
    succeed("compute-vad --vad-energy-mean-scale=0 --omit-unvoiced-utts=true ark:f.ark ark:v.ark", folder)
    assert list(load(folder / "v.ark")) == ["loud", "zz"]
    assert shell("compute-vad --vad-energy-threshold=99 ark:f.ark ark:v.ark", folder).returncode == 1


def test_utterances_without_fitting_decisions_are_left_out(folder):
    (folder / "vad.txt").write_text("loud [ 1 0 0 0 0 1 ]\nquiet [ 0 0 0 0 ]\nzz [ 1 1 ]\n")
    log = succeed("select-voiced-frames ark:f.ark ark:vad.txt ark:out.ark", folder)
    selected = load(folder / "out.ark")
    assert list(selected) == ["loud"]
    np.testing.assert_array_equal(selected["loud"], [[20, 1], [0, 2]])
    for words in ("Empty feature", "No features were judged", "Mismatch in number for frames 3", "1 utterances, 3"):
        assert words in log
    (folder / "vad.txt").write_text("loud [ 1 0 0.5 0 0 1 ]\n")
    assert "loud" in refuse("select-voiced-frames ark:f.ark ark:vad.txt ark:new.ark", folder)
    assert not (folder / "new.ark").exists()


def test_nan_is_refused_and_named(folder):
    write_ark(folder / "n.ark", {"good": 9 * np.ones((3, 2)), "bad": [[1.0, np.nan]]})
    (folder / "vad.txt").write_text("good [ 1 1 1 ]\nbad [ 1 ]\n")
    for command in ("compute-vad ark:n.ark", "select-voiced-frames ark:n.ark ark:vad.txt"):
        assert "features of bad" in refuse(f"{command} ark:new.ark", folder)
        assert not (folder / "new.ark").exists()
    assert "features of bad" in succeed("compute-vad --vad-energy-threshold=1 ark,p:n.ark ark:v.ark", folder)
    assert list(load(folder / "v.ark")) == ["good"]


def test_subsets(folder):
    (folder / "list").write_text("zz ignored\nloud\n")

    def keys(options):
        succeed(f"subset-feats {options} ark:f.ark ark:out.ark", folder)
        return list(load(folder / "out.ark"))

    assert keys("") == ["loud", "none", "quiet", "zz"]
    assert keys("--n=2") == ["loud", "none"]
    assert keys("--include=list") == ["loud", "zz"]
    assert keys("--exclude=list") == ["none", "quiet"]
    for options in ("--n=0", "--n=3 --include=list", "--include=list --exclude=list", "--include=missing"):
        refuse(f"subset-feats {options} ark:f.ark ark:out.ark", folder)


def test_length_and_dimension_of_all(folder):
    assert shell("feat-to-len ark:f.ark", folder).stdout == "13\n"
    assert shell("feat-to-dim ark:f.ark -", folder).stdout == "2\n"
    assert "empty" in refuse("feat-to-dim ark:/dev/null -", folder)
