"""Galleries of voices: against float64 cosines, Kaldi's PLDA scores, and Kaldi's tools on the folder."""

import dataclasses
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from tiny_models import write_model

import sdpn_k2
from sdpn_k2.cli import cli
from sdpn_k2.errors import InputError
from sdpn_k2.inference.gallery import Gallery
from sdpn_k2.inference.gallery_folder import FILES, read_voices
from sdpn_k2.kaldi import tools
from sdpn_k2.scoring.backend import Backend
from sdpn_k2.scoring.calibration import Calibration, write_calibration

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def exp(golden, tmp_path_factory):
    """An experiment of a random model with Kaldi's back end."""
    folder = tmp_path_factory.mktemp("exp")
    (folder / "backend").mkdir()
    for name in ("mean.vec", "transform.mat", "plda"):
        shutil.copy(golden / name, folder / "backend")
    write_model(folder / "final.pt", embedding_dim=48)
    return folder


@pytest.fixture(scope="module")
def model(exp):
    return sdpn_k2.load(exp, device="cpu")


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Noise of five "speakers", each with a spectrum of its own: 0a.wav, 0b.wav, … 4b.wav; and short.wav."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for speaker in range(5):
        shape = rng.standard_normal(64)
        for take in "ab":
            noise = np.convolve(rng.standard_normal(9000), shape, "same")
            soundfile.write(folder / f"{speaker}{take}.wav", 0.02 * noise, 16000, subtype="PCM_16")
    soundfile.write(folder / "short.wav", 0.1 * np.sin(np.arange(500)), 16000)
    return folder


@pytest.fixture(scope="module")
def vectors(golden):
    return sdpn_k2.read_vectors(f"ark:{golden}/test.ark")


@pytest.fixture(scope="module")
def enrolled(golden, vectors, model, tmp_path_factory):
    """A gallery of the speakers that Kaldi enrolled from several utterances each."""
    lists = [line.split() for line in (golden / "enroll.spk2utt").read_text().splitlines()]
    gallery = Gallery.create(tmp_path_factory.mktemp("enrolled") / "voices", model)
    gallery.enroll_embeddings({name: np.stack([vectors[key] for key in keys]) for name, *keys in lists})
    return gallery


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def scores_of(answer):
    return {candidate.name: candidate.score for candidate in answer.best}


# Scores


@pytest.mark.parametrize("others", [0, 1], ids=["of equal size", "of several sizes"])
def test_plda_scores_are_kaldis(golden, vectors, enrolled, model, tmp_path, others):
    pairs = [line.split() for line in (golden / "scores_multi").read_text().splitlines()]
    expected = {(name, test): float(score) for name, test, score in pairs}
    shutil.copytree(enrolled.folder, tmp_path / "voices")
    gallery = Gallery.open(tmp_path / "voices", model)
    gallery.enroll_embeddings({f"other{number}": vectors[sorted(vectors)[number]] for number in range(others)})
    assert len(set(gallery.num_utts.values())) == 1 + others and len(gallery) == len(enrolled) + others
    for test in sorted({test for _, test, _ in pairs})[::20]:
        answer = gallery.identify_embedding(vectors[test], best=1000, threshold=0.0)
        found = scores_of(answer)
        assert len(found) == len(gallery) == answer.num_voices and [*found.values()] == sorted(found.values())[::-1]
        trials = {name: expected[name, test] for name in found if (name, test) in expected}
        assert trials and {name: found[name] for name in trials} == pytest.approx(trials, rel=1e-4, abs=1e-4)
        assert answer.name == (answer.best[0].name if answer.best[0].score >= 0 else None)
        assert scores_of(gallery.identify_embedding(vectors[test], best=2)) == pytest.approx(
            dict(list(found.items())[:2])
        )


@pytest.mark.parametrize("scoring", ["cosine", "cosine_mean"])
def test_cosines_are_those_of_double_precision(scoring, exp, vectors, enrolled):
    mean = {"cosine": 0.0, "cosine_mean": kaldiio.load_mat(str(exp / "backend" / "mean.vec")).astype(np.float64)}[
        scoring
    ]

    def unit(vector):
        return vector / np.linalg.norm(vector)

    test = vectors[sorted(vectors)[3]].astype(np.float64)
    voices = read_voices(enrolled.folder)
    expected = {
        name: unit(sum(unit(voices.vectors[row].astype(np.float64) - mean) for row in rows)) @ unit(test - mean)
        for name, rows in voices.rows.items()
    }
    found = scores_of(enrolled.identify_embedding(test, best=7, scoring=scoring))
    assert list(found) == sorted(expected, key=lambda name: -expected[name])[:7]
    assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-12)


def test_the_best_of_many_are_found(model, tmp_path):
    """Among 3,000 voices whose scores differ in the seventh digit, the order is that of double precision."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal(48)
    voices = (centre + 3e-3 * rng.standard_normal((3000, 48))).astype(np.float32)
    gallery = Gallery.create(tmp_path / "voices", model)
    gallery.enroll_embeddings({f"v{row}": vector for row, vector in enumerate(voices)})
    unit = voices / np.linalg.norm(voices.astype(np.float64), axis=1, keepdims=True)
    best = np.argsort(-(unit @ (centre / np.linalg.norm(centre))))[:3]
    assert list(scores_of(gallery.identify_embedding(centre, best=3, scoring="cosine"))) == [f"v{row}" for row in best]


def test_identify_and_verify_agree(model, audio, tmp_path):
    gallery = Gallery.create(tmp_path / "voices", model)
    for speaker in range(4):
        gallery.enroll(f"s{speaker}", audio / f"{speaker}a.wav")
    assert gallery.enroll("s2", [audio / "2a.wav", audio / "2b.wav"]) == 2 and gallery.num_utts == {
        "s0": 1,
        "s1": 1,
        "s2": 2,
        "s3": 1,
    }
    for options in ({}, {"scoring": "cosine_mean"}, {"backend": Backend()}):
        answer = gallery.identify(audio / "4a.wav", **options)
        for candidate in answer.best:
            takes = [audio / f"{candidate.name[1]}{take}.wav" for take in ("ab" if candidate.name == "s2" else "a")]
            verdict = model.verify(takes, audio / "4a.wav", **options)
            assert candidate.score == pytest.approx(verdict.score, rel=1e-4, abs=1e-4)
            assert (verdict.scoring, verdict.backend) == (answer.verdict.scoring, answer.verdict.backend)
    assert repr(gallery) == f"Gallery('{tmp_path}/voices', 4 voices, model {model.extractor.digest[:12]})"


def test_calibration_and_threshold_decide(model, audio, tmp_path):
    gallery = Gallery.create(tmp_path / "voices", model)
    gallery.enroll("alice", audio / "0a.wav")
    gallery.enroll("bob", audio / "1a.wav")
    options = {"scoring": "cosine", "calibration": Calibration([3.0], -1.0, 0.5, ["cosine"])}
    answer = gallery.identify(audio / "0b.wav", p_target=0.1, **options)
    first = answer.best[0]
    assert first.llr == pytest.approx(3 * first.score - 1) and first.llr == answer.verdict.llr
    assert first.probability == pytest.approx(1 / (1 + 9 * np.exp(-first.llr)))
    assert answer.name is None and answer.verdict.threshold == pytest.approx((np.log(9) + 1) / 3)
    assert str(answer).splitlines()[0] == "unknown"
    for threshold, name in ((first.score - 0.01, first.name), (first.score + 0.01, None)):
        answer = gallery.identify(audio / "0b.wav", threshold=threshold, scoring="cosine")
        assert answer.name == name and answer.verdict.threshold_source == "as given"
    answer = gallery.identify(audio / "0b.wav")
    assert answer.name is None and answer.verdict.same_speaker is None and str(answer).startswith("no decision\n")


# The folder


def test_kaldis_tools_read_the_folder(golden, enrolled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    voices = enrolled.folder
    arguments = [f"ark:{voices}/spk2utt", f"scp:{voices}/xvector.scp", "ark,t:mean.ark", "ark,t:counts.ark"]
    assert tools.run("ivector-mean", arguments) in (0, None)
    assert (tmp_path / "counts.ark").read_text() == (voices / "num_utts.ark").read_text()
    by_script, by_archive = (
        dict(kaldiio.load_scp(f"{voices}/spk_xvector.scp")),
        dict(kaldiio.load_ark(f"{voices}/spk_xvector.ark")),
    )
    for references in (golden / "enroll_mean.ark", tmp_path / "mean.ark"):
        expected = dict(kaldiio.load_ark(str(references)))
        for found in (by_script, by_archive):
            assert found.keys() == expected.keys()
            for name, mean in expected.items():
                np.testing.assert_allclose(found[name], mean, rtol=1e-5, atol=1e-5)
    for script in ("xvector.scp", "spk_xvector.scp", "spk2utt", "num_utts.ark"):
        keys = [line.split()[0].encode() for line in (voices / script).read_text().splitlines()]
        assert keys == sorted(keys)
    assert sorted(path.name for path in voices.iterdir() if path.name != ".lock") == sorted(FILES)


def test_kaldis_plda_scoring_of_the_folder_agrees(exp, vectors, enrolled, model, tmp_path, monkeypatch):
    """Voices of 3 and 4 recordings, scored by the tools with ``--num-utts``, and by ``identify``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(ROOT / "utils" / "kaldi-bin"), prepend=":")
    shutil.copytree(enrolled.folder, "voices")
    gallery = Gallery.open("voices", model)
    names, tests = list(gallery.num_utts)[:6], sorted(vectors)[-3:]
    gallery.enroll_embeddings({name: vectors[test] for name, test in zip(names[:2], tests)})
    assert sorted(set(gallery.num_utts.values())) == [3, 4]
    sdpn_k2.write_vectors("tests.scp", {test: vectors[test] for test in tests})
    Path("trials").write_text("".join(f"{name} {test}\n" for test in tests for name in names))
    sides = [
        f"ark:ivector-subtract-global-mean {exp}/backend/mean.vec scp:{script} ark:- | transform-vec "
        f"{exp}/backend/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |"
        for script in ("voices/spk_xvector.scp", "tests.scp")
    ]
    options = ["--normalize-length=true", "--num-utts=ark:voices/num_utts.ark"]
    assert tools.run("ivector-plda-scoring", [*options, f"{exp}/backend/plda", *sides, "trials", "scores"]) in (0, None)
    lines = [line.split() for line in Path("scores").read_text().splitlines()]
    assert len(lines) == len(names) * len(tests)
    found = {test: scores_of(gallery.identify_embedding(vectors[test], best=1000)) for test in tests}
    for name, test, score in lines:
        assert found[test][name] == pytest.approx(float(score), rel=1e-4, abs=1e-4)


def test_old_scripts_fit_new_archives(model, tmp_path):
    """A program that has opened a script file gets the right vectors while voices are added."""
    rng = np.random.default_rng(0)
    gallery = Gallery.create(tmp_path / "voices", model)
    gallery.enroll_embeddings({"b": rng.standard_normal((2, 48)), "c": rng.standard_normal(48)})
    scripts = {name: (gallery.folder / name).read_text() for name in ("xvector.scp", "spk_xvector.scp")}
    gallery.enroll_embeddings({"a": rng.standard_normal(48), "b": rng.standard_normal(48)})
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        before, after = (dict(kaldiio.load_scp(str(path / name))) for path in (tmp_path, gallery.folder))
        assert before.keys() < after.keys()
        for key, vector in before.items():
            np.testing.assert_array_equal(vector, after[key])


def test_the_same_recording_counts_once(model, tmp_path):
    rng = np.random.default_rng(0)
    gallery = Gallery.create(tmp_path / "voices", model)
    first, second = rng.standard_normal((2, 48))
    gallery.enroll_embeddings({"a": np.stack([first, first, second])})
    gallery.enroll_embeddings({"a": first * (1 + 1e-6), "b": first})
    gallery.enroll_embeddings({"a": first + 1e-2})
    assert gallery.num_utts == {"a": 3, "b": 1}


def test_voices_are_removed_and_renamed(model, audio, tmp_path):
    rng = np.random.default_rng(0)
    gallery = Gallery.create(tmp_path / "voices", model)
    given = {name: rng.standard_normal((2, 48)).astype(np.float32) for name in ("ann", "bo-2", "cy")}
    gallery.enroll_embeddings(given)
    done = run("voices", gallery.folder)
    assert (done.exit_code, done.output) == (0, "ann 2\nbo-2 2\ncy 2\n")
    assert run("voices", "--remove", "ann", gallery.folder).output == "bo-2 2\ncy 2\n"
    assert run("voices", "--rename", "cy", "al", gallery.folder).output == "al 2\nbo-2 2\n"
    assert len(gallery) == 2 and list(gallery.num_utts) == ["bo-2", "al"]
    content = b"".join((gallery.folder / name).read_bytes() for name in FILES)
    assert given["ann"][0].tobytes() not in content and b"ann" not in content.replace(bytes(gallery.folder), b"")
    means = dict(kaldiio.load_scp(str(gallery.folder / "spk_xvector.scp")))
    np.testing.assert_allclose(means["al"], given["cy"].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(means["bo-2"], given["bo-2"].mean(axis=0), rtol=1e-5)
    gallery.rename("al", "cy")
    gallery.remove("bo-2")
    assert gallery.num_utts == {"cy": 2}
    for change, message in (
        (lambda: gallery.remove("bo-2"), "no voice bo-2"),
        (lambda: gallery.rename("bo-2", "x"), "no voice bo-2"),
        (lambda: gallery.rename("cy", "a b"), "'a b' cannot be"),
    ):
        with pytest.raises(InputError, match=message):
            change()
    assert gallery.num_utts == {"cy": 2}


def test_the_first_enrolment_makes_the_gallery(model, tmp_path):
    gallery = Gallery.open(tmp_path / "a" / "voices", model, missing_ok=True)
    assert len(gallery) == 0 and "0 voices" in repr(gallery) and not gallery.folder.exists()
    with pytest.raises(InputError, match="no voices"):
        gallery.identify_embedding(np.ones(48))
    gallery.enroll_embeddings({"alice": np.ones(48)})
    assert len(gallery) == 1
    with pytest.raises(InputError, match="not a gallery"):
        Gallery.open(tmp_path / "a", model)


def test_other_processes_voices_are_seen(model, vectors, tmp_path):
    names = sorted(vectors)[:3]
    first = Gallery.create(tmp_path / "voices", model)
    second = Gallery.open(tmp_path / "voices", model)
    first.enroll_embeddings({names[0]: vectors[names[0]]})
    assert second.identify_embedding(vectors[names[1]]).best[0].name == names[0]
    first.enroll_embeddings({names[1]: vectors[names[1]]})
    assert second.identify_embedding(vectors[names[1]]).best[0].name == names[1] and len(second) == 2


# Two processes, a killed one, a full disk

ENROLL_MANY = """
import sys
from pathlib import Path

import numpy as np
from sdpn_k2.inference.gallery_folder import GalleryModel, update

folder, name, count, dim = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = np.random.default_rng(ord(name))
for number in range(count):
    added = {f"{name}{number}": rng.standard_normal((1, dim)), "both": rng.standard_normal((1, dim))}
    update(folder, lambda voices: voices.with_added(added), GalleryModel("0" * 64, dim, ""))
    print(number, flush=True)
"""


def start(folder, name, count, dim=4):
    command = [sys.executable, "-c", ENROLL_MANY, str(folder), name, str(count), str(dim)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def consistent(folder):
    """Check that the script files point at what they name, and return the number of recordings of each voice."""
    counts = {name: int(count) for name, count in (line.split() for line in open(folder / "num_utts.ark"))}
    vectors, means = (dict(kaldiio.load_scp(str(folder / f"{name}.scp"))) for name in ("xvector", "spk_xvector"))
    lists = {name: keys for name, *keys in (line.split() for line in open(folder / "spk2utt"))}
    assert counts == {name: len(keys) for name, keys in lists.items()} and means.keys() == lists.keys()
    for name, keys in lists.items():
        np.testing.assert_allclose(means[name], np.mean([vectors[key] for key in keys], axis=0), rtol=1e-5, atol=1e-6)
    return counts


def test_processes_that_enrol_at_once_lose_nothing(tmp_path):
    folder = tmp_path / "voices"
    processes = [start(folder, name, 12) for name in "ab"]
    assert [process.wait(120) for process in processes] == [0, 0]
    expected = {f"{name}{number}": 1 for name in "ab" for number in range(12)}
    assert consistent(folder) == {**expected, "both": 24}


def test_a_process_that_is_killed_leaves_a_whole_gallery(tmp_path):
    folder = tmp_path / "voices"
    for round_ in range(3):
        process = start(folder, "abc"[round_], 10000, dim=500)
        for _ in range(3):
            process.stdout.readline()
        time.sleep(0.003 * round_)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        voices = read_voices(folder)
        assert {f"{'abc'[round_]}{number}" for number in range(3)} <= voices.rows.keys()
    finishing = start(folder, "d", 1, dim=500)
    assert finishing.wait(60) == 0
    counts = consistent(folder)
    assert counts["d0"] == 1 and counts == read_voices(folder).num_utts
    assert sorted(path.name for path in folder.iterdir()) == sorted([".lock", *FILES])


@pytest.mark.parametrize("limit", [0, 100, 3000, 6000])
def test_a_full_disk_keeps_the_gallery(model, tmp_path, limit):
    rng = np.random.default_rng(0)
    gallery = Gallery.create(tmp_path / "voices", model)
    gallery.enroll_embeddings({name: rng.standard_normal((10, 48)) for name in "abc"})
    before = {path.name: path.read_bytes() for path in gallery.folder.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(InputError, match=f"^{gallery.folder}/.*: cannot write: "):
            gallery.enroll_embeddings({"d": rng.standard_normal(48)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in gallery.folder.iterdir()} == before
    assert len(gallery) == 3
    gallery.enroll_embeddings({"d": rng.standard_normal(48)})
    assert consistent(gallery.folder) == {"a": 10, "b": 10, "c": 10, "d": 1}


# The commands


def test_enroll_and_identify(exp, model, audio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDPN_K2_CHECKPOINT", str(exp))
    done = run("enroll", "voices", "alice", audio / "0a.wav", audio / "0b.wav")
    assert done.exit_code == 0 and "recordings of alice: 2; voices in voices: 1" in done.output
    assert run("enroll", "voices", "bob", audio / "1a.wav").exit_code == 0
    assert run("enroll", "voices", "bob", audio / "1a.wav").exit_code == 0  # again
    assert (tmp_path / "voices" / "num_utts.ark").read_text() == "alice 2 \nbob 1 \n"

    expected = Gallery.open("voices", model).identify(audio / "0a.wav", threshold=-1000.0)
    lines = run("identify", "--threshold", "-1000", "voices", audio / "0a.wav").output.splitlines()
    assert lines == str(expected).splitlines() and lines[0] == expected.best[0].name
    assert lines[1] == f"score        {expected.best[0].score:.4f} (plda, {exp}/backend)"
    assert lines[2] == "threshold    -1000.0000 (as given)"
    assert re.fullmatch(r"best of 2    (alice|bob) -?[\d.]+, (alice|bob) -?[\d.]+", lines[3])
    options = ["--threshold", "1000", "--best", "1", "--json"]
    told = run("identify", *options, "voices", audio / "0a.wav", audio / "1a.wav").output.splitlines()
    for name, line in zip(("0a.wav", "1a.wav"), map(json.loads, told)):
        assert line["recording"].endswith(name) and line["name"] is None and not line["verdict"]["same_speaker"]
        (candidate,) = line["best"]
        assert candidate["score"] == line["verdict"]["score"] and line["num_voices"] == 2
    both = run("identify", "--threshold", "1000", "voices", audio / "0a.wav", audio / "1a.wav").output.splitlines()
    assert both[0] == f"{audio}/0a.wav: unknown" and both[4] == f"{audio}/1a.wav: unknown"


def test_the_experiments_threshold_decides(exp, audio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exp, "exp")
    row = {"set": "dev", "trials": "trials", "backend": "plda", "eer": 0.05, "thresholds": {"eer": -500, "0.01": 500}}
    Path("exp/results.json").write_text(json.dumps({"results": [row]}))
    assert run("enroll", "-c", "exp", "voices", "alice", audio / "0a.wav").exit_code == 0
    for options, name, threshold in (
        ([], "alice", "-500.0000 (EER 5.00 % of dev/trials, exp/results.json)"),
        (["--p-target", "0.01"], "unknown", "500.0000 (minDCF(0.01) of dev/trials, exp/results.json)"),
    ):
        lines = run("identify", "-c", "exp", *options, "voices", audio / "0b.wav").output.splitlines()
        assert (lines[0], lines[2]) == (name, f"threshold    {threshold}")
    write_calibration("calibration", Calibration([2.0], 5000.0, 0.5, [Backend.load("exp").kind]))
    lines = run("identify", "-c", "exp", "--calibration", "calibration", "voices", audio / "0b.wav").output.splitlines()
    assert lines[0] == "alice" and lines[2].endswith("(probability 0.5 at prior 0.5, calibration)")
    assert [line.split()[0] for line in lines[3:]] == ["llr", "probability", "best"]


def test_bad_recordings_are_left_out_and_counted(exp, audio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [audio / "0a.wav", audio / "short.wav", "none.wav"]
    done = run("enroll", "-c", exp, "voices", "alice", *files)
    assert done.exit_code == 1 and re.search(r"2 of 3 recordings.*short.wav: 500 samples", str(done.exception))
    assert run("enroll", "-c", exp, "--skip-bad", "voices", "alice", *files).exit_code == 0
    assert run("voices", "voices").output == "alice 1\n"
    done = run("identify", "-c", exp, "voices", *files)
    assert done.exit_code == 1 and done.output.splitlines()[0] == f"{audio}/0a.wav: no decision"
    assert "2 of 3 recordings" in str(done.exception)
    assert run("identify", "-c", exp, "--skip-bad", "voices", *files).exit_code == 0


def test_another_models_gallery_is_refused_with_both_digests(exp, model, audio, tmp_path):
    other = write_model(tmp_path / "other.pt", embedding_dim=40)
    assert run("enroll", "-c", exp, tmp_path / "voices", "alice", audio / "0a.wav").exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "voices").iterdir()}
    digests = [each.extractor.digest[:12] for each in (model, sdpn_k2.load(other, device="cpu"))]
    for arguments in (
        ["enroll", "-c", other, tmp_path / "voices", "bob"],
        ["identify", "-c", other, tmp_path / "voices"],
    ):
        done = run(*arguments, audio / "0a.wav")
        assert done.exit_code == 1 and isinstance(done.exception, InputError)
        assert re.search(f"voices: .*{digests[0]} .*final.pt.*{digests[1]} .*other.pt", str(done.exception))
    assert {path.name: path.read_bytes() for path in (tmp_path / "voices").iterdir()} == before


def test_the_digest_is_of_weights_and_front_end(exp, model, tmp_path):
    shutil.copy(exp / "final.pt", tmp_path / "copy.pt")
    assert sdpn_k2.load(tmp_path / "copy.pt", "cpu", 30).extractor.digest == model.extractor.digest
    features = dataclasses.replace(sdpn_k2.load(exp, "cpu").extractor.features, high_freq=-400.0)
    other = write_model(tmp_path / "other.pt", features, 48)
    assert sdpn_k2.load(other, "cpu").extractor.digest != model.extractor.digest


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["enroll", "voices", "a b", "0a.wav"], 1, "'a b' cannot be the name"),
        (["enroll", "voices", "unknown", "0a.wav"], 1, "'unknown' cannot be the name"),
        (["enroll", "voices", "bob", "none.wav"], 1, "none.wav: no such file"),
        (["enroll", "voices", "bob", "0a.wav", "0a.wav"], 1, "0a.wav: duplicate"),
        (["enroll", "full", "bob", "0a.wav"], 1, "full: not a gallery, and not empty .*notes"),
        (["enroll", "file", "bob", "0a.wav"], 1, "file"),
        (["enroll", "voices", "bob"], 2, "AUDIO"),
        (["identify", "none", "0a.wav"], 1, "none: not a gallery"),
        (["identify", "full", "0a.wav"], 1, "full: not a gallery"),
        (["identify", "empty", "0a.wav"], 1, "empty: no voices"),
        (["identify", "voices", "short.wav"], 1, "short.wav: 500 samples"),
        (["identify", "--p-target", "2", "voices", "0a.wav"], 1, "p_target"),
        (["identify", "--backend", "none", "voices", "0a.wav"], 1, "none: no such folder"),
        (["identify", "--best", "0", "voices", "0a.wav"], 2, "best"),
        (["voices", "full"], 1, "full: not a gallery"),
        (["voices", "--remove", "x", "voices"], 1, "no voice x"),
        (["voices", "--remove", "x", "full"], 1, "full: not a gallery"),
        (["voices", "--remove", "x", "--rename", "x", "y", "voices"], 2, "exclude"),
    ],
)
def test_requests_that_are_refused(exp, model, audio, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDPN_K2_CHECKPOINT", str(exp))
    for name in ("0a.wav", "short.wav"):
        Path(name).symlink_to(audio / name)
    Path("file").write_text("")
    Path("full").mkdir()
    Path("full/notes").write_text("")
    Gallery.create("empty", model)
    Gallery.create("voices", model).enroll_embeddings({"alice": np.ones(48)})
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    done = run(*arguments)
    assert done.exit_code == code
    assert re.search(message, str(done.exception) if code == 1 else done.output)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("gallery.json", "{", "gallery.json: not the gallery.json"),
        ("gallery.json", '{"format": "x"}', "gallery.json: not the gallery.json"),
        ("gallery.json", None, "not a gallery"),
        ("xvector.ark", None, "xvector.ark: no such file, but"),
        ("xvector.ark", "alice-00001  [ 1 2 ]\n", "xvector.ark: vectors of 2 dimensions, in a gallery of 48"),
        ("xvector.ark", "alice  [ 1 2 ]\n", "xvector.ark: the key alice"),
        ("xvector.ark", "a-1  [ 1 ]\na-1  [ 1 ]\n", "xvector.ark: duplicate"),
        ("xvector.ark", "a-1 [ 1", "xvector.ark"),
    ],
)
def test_broken_galleries_are_refused(model, tmp_path, name, content, message):
    gallery = Gallery.create(tmp_path / "voices", model)
    gallery.enroll_embeddings({"alice": np.ones(48)})
    if content is None:
        (gallery.folder / name).unlink()
    else:
        (gallery.folder / name).write_text(content)
    before = {path: path.read_bytes() for path in gallery.folder.iterdir()}
    with pytest.raises(InputError, match=message):
        Gallery.open(gallery.folder, model).identify_embedding(np.ones(48))
    with pytest.raises(InputError):
        gallery.enroll_embeddings({"bob": np.ones(48)})
    assert {path: path.read_bytes() for path in gallery.folder.iterdir()} == before


def test_a_later_version_is_refused(model, tmp_path):
    path = Gallery.create(tmp_path / "voices", model).folder / "gallery.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(InputError, match="gallery.json: gallery version 2"):
        Gallery.open(tmp_path / "voices", model)
    with pytest.raises(InputError, match="exists already"):
        Gallery.create(tmp_path / "voices", model)


@pytest.mark.parametrize(
    "given, message",
    [
        (np.ones(47), r"\(48,\).*\(47,\)"),
        (np.ones((2, 3, 48)), r"\(2, 3, 48\)"),
        (np.ones((0, 48)), r"\(0, 48\)"),
        (np.zeros(48), "zero norm"),
        (np.full((2, 48), np.nan), "NaN"),
    ],
)
def test_unusable_embeddings_are_refused(model, tmp_path, given, message):
    gallery = Gallery.create(tmp_path / "voices", model)
    with pytest.raises(InputError, match=message):
        gallery.enroll_embeddings({"alice": np.ones(48), "bob": given})
    assert not len(gallery)
    gallery.enroll_embeddings({"alice": np.ones(48)})
    if given.ndim == 1:
        with pytest.raises(InputError):
            gallery.identify_embedding(given)


def test_a_gallery_can_be_read_where_nothing_can_be_written(model, vectors, tmp_path):
    gallery = Gallery.create(tmp_path / "voices", model)
    gallery.enroll_embeddings({name: vectors[name] for name in sorted(vectors)[:3]})
    os.remove(gallery.folder / ".lock")
    gallery.folder.chmod(0o555)
    try:
        assert len(Gallery.open(gallery.folder, model).identify_embedding(vectors[sorted(vectors)[0]]).best) == 3
        assert not (gallery.folder / ".lock").exists()
    finally:
        gallery.folder.chmod(0o755)
