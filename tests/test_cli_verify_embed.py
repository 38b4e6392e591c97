"""``sdpn_k2.load``, ``sdpn-k2 embed`` and ``sdpn-k2 verify`` on a tiny untrained model."""

import json
import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from tiny_training import TINY

import sdpn_k2
from sdpn_k2.cli import main
from sdpn_k2.config import load_config
from sdpn_k2.errors import InputError
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.inference.verification import verify
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.models.checkpoint import Checkpoint, save_checkpoint
from sdpn_k2.scoring.calibration import Calibration, write_calibration


@pytest.fixture(scope="module")
def exp(tmp_path_factory) -> Path:
    """An experiment folder with a checkpoint."""
    folder = tmp_path_factory.mktemp("exp")
    config = load_config(None, TINY)
    torch.manual_seed(0)
    save_checkpoint(folder / "final.pt", Checkpoint(0, config, SDPN(config).state_dict(), {}))
    return folder


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> Path:
    """Noise: a.wav and b.wav at 16 kHz, c.flac at 8 kHz with two channels, and short.wav, which is too short."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for name, rate, shape in (
        ("a.wav", 16000, 12000),
        ("b.wav", 16000, 9000),
        ("c.flac", 8000, (8000, 2)),
        ("short.wav", 16000, 500),
    ):
        soundfile.write(folder / name, 0.1 * rng.standard_normal(shape), rate, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def model(exp):
    return sdpn_k2.load(exp)


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run ``sdpn-k2`` in this process, in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.root.handlers)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sdpn-k2", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return Done(exit_.value.code, *capsys.readouterr())

    yield run
    logging.root.handlers = handlers


def test_importing_the_package_does_not_import_torch():
    code = "import sdpn_k2, sys; sdpn_k2.load; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_embedding_equals_the_encoders_output(exp, audio, model):
    samples, rate = soundfile.read(audio / "a.wav", dtype="float32")
    expected = Extractor.load(exp / "final.pt").embed(samples)
    assert (model.sample_rate, model.dim, expected.shape) == (rate, 8, (8,))
    int16 = soundfile.read(audio / "a.wav", dtype="int16")[0]
    for given in (
        audio / "a.wav",
        str(audio / "a.wav"),
        samples,
        samples.astype(np.float64),
        samples[None],
        torch.from_numpy(samples),
        torch.from_numpy(samples)[None],
        int16,
        torch.from_numpy(int16),
    ):
        embedding = model.embed(given)
        assert embedding.dtype == np.float32
        np.testing.assert_allclose(embedding, expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_waveforms_are_accepted(model):
    samples = torch.rand(8000, generator=torch.Generator().manual_seed(0)).bfloat16()
    np.testing.assert_allclose(model.embed(samples), model.embed(samples.float()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [0, -16000, 16000.5, float("nan"), float("inf"), "16k"])
def test_impossible_rates_are_refused(model, rate):
    with pytest.raises(InputError, match=str(rate)[:5]):
        model.embed(np.ones(16000), rate=rate)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"device": "foo"}, "foo"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"max_duration": 0}, "max_duration.* 0 s.*0.1 s"),
        ({"max_duration": -1}, "max_duration.* -1 s"),
        ({"max_duration": 0.05}, "max_duration.* 0.05 s"),
        ({"max_duration": float("nan")}, "max_duration.* nan s"),
        ({"max_duration": float("inf")}, "max_duration.* inf s"),
    ],
)
def test_impossible_options_of_load_are_refused(exp, options, message):
    with pytest.raises(InputError, match=message):
        sdpn_k2.load(exp, **options)


@pytest.mark.parametrize("frames", [10, 11, 19, 21])
def test_the_shortest_chunks_can_be_embedded(exp, frames):
    model = sdpn_k2.load(exp, max_duration=0.1)
    assert np.isfinite(model.embed(np.random.default_rng(0).standard_normal(frames * 160 + 240))).all()


def test_other_rates_are_resampled_and_the_channel_is_selected(audio, model):
    samples, rate = soundfile.read(audio / "c.flac", dtype="float32")
    for channel in (0, 1):
        np.testing.assert_allclose(
            model.embed(audio / "c.flac", channel=channel), model.embed(samples[:, channel], rate=rate), atol=2e-3
        )
    assert np.abs(model.embed(audio / "c.flac") - model.embed(audio / "c.flac", channel=1)).max() > 0.01


@pytest.mark.parametrize(
    "waveform, message",
    [
        (np.zeros((2, 16000), np.float32), r"shape \(2, 16000\)"),
        (np.zeros(16000, np.int64), "int64"),
        (np.full(16000, np.nan), "NaN"),
        (np.zeros(500), "the waveform: 500 samples"),
        ("nowhere.wav", "nowhere.wav"),
    ],
)
def test_unusable_audio_is_refused(model, waveform, message):
    with pytest.raises(InputError, match=message):
        model.embed(waveform)


def test_an_unfinished_experiment_is_named(tmp_path):
    with pytest.raises(InputError, match="final.pt"):
        sdpn_k2.load(tmp_path)


def test_embed_writes_every_kind(run, exp, audio, model, tmp_path):
    files = [str(audio / "b.wav"), str(audio / "a.wav")]
    expected = np.stack([model.embed(name) for name in files])
    for output in ("x.npy", "x.json", "x.ark", f"ark,scp:{tmp_path}/y.ark,{tmp_path}/y.scp"):
        assert run("embed", "-c", exp, "-o", output, *files).code == 0
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-6)
    archives = [dict(kaldiio.load_ark(str(tmp_path / "x.ark"))), dict(kaldiio.load_scp(str(tmp_path / "y.scp")))]
    for table in (json.loads((tmp_path / "x.json").read_text()), *archives):
        assert list(table) == files
        np.testing.assert_allclose(np.array([table[name] for name in files]), expected, atol=1e-6)


def test_embed_reads_and_writes_pipes(exp, audio, model):
    script = f'sdpn_k2() {{ "{sys.executable}" -m sdpn_k2 "$@"; }}; sdpn_k2 embed <(cat a.wav) - "cat a.wav |" < a.wav'
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=audio,
        capture_output=True,
        check=True,
        env=dict(os.environ, SDPN_K2_CHECKPOINT=str(exp)),
    )
    table = json.loads(done.stdout)
    assert len(table) == 3 and list(table)[1:] == ["-", "cat a.wav |"]
    for vector in table.values():
        np.testing.assert_allclose(vector, model.embed(audio / "a.wav"), atol=1e-6)


def test_bad_files_are_skipped_unless_rows_have_no_names(run, exp, audio, tmp_path):
    files = [audio / "a.wav", audio / "short.wav", tmp_path / "none.wav"]
    done = run("embed", "-c", exp, *files)
    assert done.code == 0 and list(json.loads(done.out)) == [str(audio / "a.wav")]
    assert "short.wav: 500 samples" in done.err and re.search(r"done 1\b.*\b2\b", done.err)
    done = run("embed", "-c", exp, "-o", tmp_path / "x.npy", *files)
    assert done.code == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a.wav", "a.wav"], "a.wav: duplicate"),
        (["short.wav", "none.wav"], "2 files"),
        (["-o", "x.txt", "a.wav"], "x.txt: .*.npy, .json.* .ark"),
        (["-o", "ark:-", "cat a.wav |"], r"'cat a.wav \|': .*key"),
        (["-o", "/nowhere/x.npy", "a.wav"], "/nowhere/x.npy: "),
        (["--channel", "1", "a.wav"], "a.wav: .*channel 1"),
        (["--max-duration", "0", "a.wav"], "max_duration.* 0 s.*0.1 s"),
        (["--device", "foo", "a.wav"], "foo"),
    ],
)
def test_invalid_requests_give_one_line(run, exp, audio, tmp_path, arguments, message):
    for name in ("a.wav", "short.wav"):
        (tmp_path / name).symlink_to(audio / name)
    done = run("embed", "-c", exp, *arguments)
    assert done.code == 1 and done.out == ""
    assert re.search(message, done.err.splitlines()[-1])


@pytest.mark.parametrize("output", ["none/x.npy", "none/x.json", "none/x.ark", "ark,scp:x.ark,none/x.scp"])
def test_an_unwritable_output_is_detected_first(run, exp, audio, monkeypatch, output):
    monkeypatch.setattr(Extractor, "embed", lambda *_: pytest.fail("embedded for nothing"))
    done = run("embed", "-c", exp, "-o", output, audio / "a.wav", audio / "b.wav")
    assert done.code == 1 and "No such file or directory" in done.err


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_verify_is_the_cosine_of_the_mean_of_unit_embeddings(audio, model):
    a, b, c = (model.embed(audio / name).astype(np.float64) for name in ("a.wav", "b.wav", "c.flac"))
    mean = np.linspace(-1, 1, 8)
    assert verify(model, [audio / "a.wav"], audio / "b.wav").score == pytest.approx(unit(a) @ unit(b), abs=1e-6)
    enrolled = unit(unit(a - mean) + unit(b - mean))
    verdict = verify(model, [audio / "a.wav", audio / "b.wav"], audio / "c.flac", mean=mean)
    assert verdict.score == pytest.approx(enrolled @ unit(c - mean), abs=1e-5)
    assert verdict.llr is None and verdict.probability is None


def test_verify_prints_score_and_calibrated_probability(run, exp, audio, model, tmp_path):
    write_calibration(tmp_path / "calibration.json", Calibration([3.0], -1.0, 0.5))
    (tmp_path / "mean.vec").write_text(" [ 0 0 0 0 0 0 0 1 ]\n")
    arguments = [
        "verify",
        "-c",
        exp,
        "--mean",
        tmp_path / "mean.vec",
        "--calibration",
        tmp_path / "calibration.json",
        "--p-target",
        "0.1",
        audio / "a.wav",
        audio / "b.wav",
    ]
    expected = verify(model, [audio / "a.wav"], audio / "b.wav", mean=np.eye(8)[7]).score
    llr = 3.0 * expected - 1.0
    probability = 1 / (1 + math.exp(-llr) * 9)
    lines = run(*arguments).out.splitlines()
    assert lines == [
        f"score        {expected:.4f}",
        f"llr          {llr:.3f}",
        f"probability  {probability:.4f} (prior 0.1)",
    ]
    told = json.loads(run(*arguments, "--json").out)
    assert told == pytest.approx({"score": expected, "llr": llr, "probability": probability, "p_target": 0.1}, abs=1e-6)


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["a.wav"], 2, "argument"),
        (["-", "-"], 2, "standard input"),
        (["a.wav", "none.wav"], 1, "none.wav: "),
        (["--p-target", "2", "--calibration", "calibration", "a.wav", "b.wav"], 1, r"p_target\b.*\b2\b"),
        (["--p-target", "7", "a.wav", "b.wav"], 1, r"p_target\b.*\b7\b"),
        (["--mean", "long.vec", "a.wav", "b.wav"], 1, r"\b8\b.*\b3\b|\b3\b.*\b8\b"),
    ],
)
def test_verify_refuses_in_one_line(run, exp, audio, tmp_path, arguments, code, message):
    write_calibration(tmp_path / "calibration", Calibration([3.0], -1.0, 0.5))
    (tmp_path / "long.vec").write_text(" [ 1 2 3 ]\n")
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).symlink_to(audio / name)
    done = run("verify", "-c", exp, *arguments)
    assert done.code == code and done.out == ""
    assert re.search(message, done.err.splitlines()[-1])


def test_one_file_is_enough_to_enrol(audio, model):
    expected = verify(model, [audio / "a.wav"], audio / "b.wav").score
    for alone in (audio / "a.wav", str(audio / "a.wav")):
        assert verify(model, alone, audio / "b.wav").score == expected
    with pytest.raises(InputError, match="enrol"):
        verify(model, [], audio / "b.wav")
