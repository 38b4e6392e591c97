"""``sdpn_k2.load``, ``sdpn-k2 embed`` and ``sdpn-k2 verify`` on a tiny untrained model."""

import dataclasses
import io
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
from lhotse import CutSet, Recording
from tiny_training import TINY

import sdpn_k2
from sdpn_k2.cli import main
from sdpn_k2.config import load_config
from sdpn_k2.errors import InputError
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.models.checkpoint import Checkpoint, save_checkpoint
from sdpn_k2.scoring.backend import Backend
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
        model.embed(np.arange(16000) / 16000, rate=rate)


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
        (np.arange(500) / 500, "the waveform: 500 samples"),
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


def test_bad_files_are_left_out_and_counted(run, exp, audio, tmp_path):
    files = [audio / "a.wav", audio / "short.wav", tmp_path / "none.wav"]
    for options, code in ((["-o", "x.ark"], 1), (["-o", "x.ark", "--skip-bad"], 0), ([], 1)):
        done = run("embed", "-c", exp, *options, *files)
        assert done.code == code
        table = dict(kaldiio.load_ark(str(tmp_path / "x.ark"))) if options else json.loads(done.out)
        assert list(table) == [str(audio / "a.wav")]
        assert "short.wav: 500 samples" in done.err and re.search(r"done 1\b.*\b2\b", done.err)
        assert ("2 of 3 recordings" in done.err.splitlines()[-1]) == (code == 1)
    assert [path.name for path in tmp_path.iterdir()] == ["x.ark"]


def test_rows_without_names_need_every_file(run, exp, audio, tmp_path):
    files = [audio / "a.wav", audio / "short.wav"]
    for options in ([], ["--skip-bad"]):
        assert run("embed", "-c", exp, "-o", "x.npy", *options, *files).code == 1
        assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a.wav", "a.wav"], "a.wav: duplicate"),
        (["short.wav", "none.wav"], "2 of 2 recordings"),
        (["short.wav"], "short.wav: 500 samples"),
        (["--skip-bad", "short.wav"], "short.wav: 500 samples"),
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
    monkeypatch.setattr(Extractor, "embed_fbank", lambda *_: pytest.fail("embedded for nothing"))
    done = run("embed", "-c", exp, "-o", output, audio / "a.wav", audio / "b.wav")
    assert done.code == 1 and "No such file or directory" in done.err


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_verify_is_the_cosine_of_the_mean_of_unit_embeddings(audio, model):
    a, b, c = (model.embed(audio / name).astype(np.float64) for name in ("a.wav", "b.wav", "c.flac"))
    mean = np.linspace(-1, 1, 8)
    assert model.verify([audio / "a.wav"], audio / "b.wav").score == pytest.approx(unit(a) @ unit(b), abs=1e-6)
    enrolled = unit(unit(a - mean) + unit(b - mean))
    verdict = model.verify([audio / "a.wav", audio / "b.wav"], audio / "c.flac", backend=Backend("cosine_mean", mean))
    assert verdict.score == pytest.approx(enrolled @ unit(c - mean), abs=1e-5)
    assert verdict.llr is None and verdict.probability is None and verdict.same_speaker is None


def test_verify_prints_the_decision_and_the_calibrated_probability(run, exp, audio, model, tmp_path):
    backend = Backend("cosine_mean", np.eye(8, dtype=np.float32)[7])
    write_calibration(tmp_path / "calibration.json", Calibration([3.0], -1.0, 0.5, [backend.kind]))
    (tmp_path / "mean.vec").write_text(" [ 0 0 0 0 0 0 0 1 ]\n")
    files = [audio / "a.wav", audio / "b.wav"]
    options = ["--mean", "mean.vec", "--calibration", "calibration.json", "--p-target", "0.1"]
    expected = model.verify(*files, backend=backend).score
    llr = 3.0 * expected - 1.0
    threshold = (math.log(9) + 1.0) / 3.0
    probability = 1 / (1 + math.exp(-llr) * 9)
    decision = "same speaker" if probability >= 0.5 else "different speakers"
    assert run("verify", "-c", exp, *options, *files).out.splitlines() == [
        decision,
        f"score        {expected:.4f} (cosine_mean)",
        f"threshold    {threshold:.4f} (probability 0.5 at prior 0.1, calibration.json)",
        f"llr          {llr:.3f}",
        f"probability  {probability:.4f} (prior 0.1)",
    ]
    told = json.loads(run("verify", "-c", exp, *options, "--json", *files).out)
    assert told["same_speaker"] == (decision == "same speaker") and told["scoring"] == "cosine_mean"
    assert (told["score"], told["llr"], told["probability"]) == pytest.approx((expected, llr, probability), abs=1e-6)


def test_a_threshold_decides(run, exp, audio, model):
    files = [audio / "a.wav", audio / "b.wav"]
    score = model.verify(*files).score
    for threshold, decision in ((score - 0.01, "same speaker"), (score + 0.01, "different speakers")):
        lines = run("verify", "-c", exp, "--threshold", threshold, *files).out.splitlines()
        assert lines[0] == decision and lines[2] == f"threshold    {threshold:.4f} (as given)"
    assert run("verify", "-c", exp, *files).out.splitlines()[0] == "no decision"


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["a.wav"], 2, "argument"),
        (["-", "-"], 2, "standard input"),
        (["a.wav", "none.wav"], 1, "none.wav: "),
        (["--p-target", "2", "--calibration", "calibration", "a.wav", "b.wav"], 1, r"p_target\b.*\b2\b"),
        (["--p-target", "7", "a.wav", "b.wav"], 1, r"p_target\b.*\b7\b"),
        (["--mean", "long.vec", "a.wav", "b.wav"], 1, r"\b8\b.*\b3\b|\b3\b.*\b8\b"),
        (["--mean", "long.vec", "--scoring", "cosine", "a.wav", "b.wav"], 2, "--mean"),
        (["--scoring", "plda", "a.wav", "b.wav"], 1, "mean.vec: no such file"),
        (["--backend", "nowhere", "a.wav", "b.wav"], 1, "nowhere: no such folder"),
        (["--threshold", "nan", "a.wav", "b.wav"], 1, "threshold is nan"),
        (["--calibration", "unknown", "a.wav", "b.wav"], 1, "unknown: .*--scoring cosine"),
        (["--calibration", "plda", "a.wav", "b.wav"], 1, "plda: .*trained on plda 0123 scores.*a cosine score"),
        (["--calibration", "fusion", "a.wav", "b.wav"], 1, "fusion: .*2 systems"),
        (["--calibration", "falling", "a.wav", "b.wav"], 1, "falling: .*-3.*positive"),
    ],
)
def test_verify_refuses_in_one_line(run, exp, audio, tmp_path, arguments, code, message):
    for name, weights, kinds in (
        ("calibration", [3.0], ["cosine"]),
        ("unknown", [3.0], []),
        ("plda", [3.0], ["plda 0123"]),
        ("fusion", [3.0, 1.0], ["cosine", None]),
        ("falling", [-3.0], ["cosine"]),
    ):
        write_calibration(tmp_path / name, Calibration(weights, -1.0, 0.5, kinds))
    (tmp_path / "long.vec").write_text(" [ 1 2 3 ]\n")
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).symlink_to(audio / name)
    done = run("verify", "-c", exp, *arguments)
    assert done.code == code and done.out == ""
    assert re.search(message, done.err.splitlines()[-1])


def test_one_recording_is_enough_to_enrol(audio, model):
    expected = model.verify([audio / "a.wav"], audio / "b.wav").score
    for alone in (audio / "a.wav", str(audio / "a.wav"), soundfile.read(audio / "a.wav")[0]):
        assert model.verify(alone, audio / "b.wav").score == pytest.approx(expected, abs=1e-6)
    with pytest.raises(InputError, match="enrol"):
        model.verify([], audio / "b.wav")


def test_only_the_final_checkpoint_has_the_experiments_back_end(exp, tmp_path):
    (tmp_path / "best.pt").symlink_to(exp / "final.pt")
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "mean.vec").write_text(" [ 0 0 0 0 0 0 0 1 ]\n")
    model = sdpn_k2.load(tmp_path / "best.pt")
    assert model.backend().scoring == "cosine"
    with pytest.raises(InputError, match="best.pt: cosine_mean needs a back end"):
        model.backend("cosine_mean")
    (tmp_path / "best.pt").rename(tmp_path / "final.pt")
    assert sdpn_k2.load(tmp_path).backend().scoring == "cosine_mean"


# What is not a file


def test_bytes_and_open_files_are_embedded(audio, model):
    expected = model.embed(audio / "c.flac", channel=1)
    content = (audio / "c.flac").read_bytes()
    finished = io.BytesIO()
    finished.write(content)  # stands at its end
    for given in (content, io.BytesIO(content), finished, open(audio / "c.flac", "rb")):
        np.testing.assert_allclose(model.embed(given, channel=1), expected, atol=1e-6)
    for bad, message in ((b"RIFF", "the audio: cannot read audio"), (open(audio / "c.flac"), "open as text")):
        with pytest.raises(InputError, match=message):
            model.embed(bad)


def test_recordings_and_cuts_of_lhotse_are_embedded(audio, model):
    recording = Recording.from_file(audio / "a.wav")
    samples, rate = soundfile.read(audio / "a.wav", dtype="float32")
    cut = recording.to_cut()
    longer = cut.append(Recording.from_file(audio / "b.wav").to_cut()).pad(2.0)
    other = np.concatenate([samples, soundfile.read(audio / "b.wav", dtype="float32")[0]])
    for given, expected in (
        (recording, samples),
        (cut.truncate(offset=0.25, duration=0.25), samples[4000:8000]),
        (longer, np.pad(other, (0, 2 * rate - len(other)))),
    ):
        np.testing.assert_allclose(model.embed(given), model.embed(expected), rtol=1e-5, atol=1e-5)
    two = Recording.from_file(audio / "c.flac")
    np.testing.assert_allclose(
        model.embed(two, channel=1), model.embed(audio / "c.flac", channel=1), rtol=1e-3, atol=2e-3
    )
    with pytest.raises(InputError, match="c: there is no channel 2"):
        model.embed(two, channel=2)
    gone = dataclasses.replace(recording, sources=[dataclasses.replace(recording.sources[0], source="gone.wav")])
    with pytest.raises(InputError, match="a: cannot read audio"):
        model.embed(gone)


def test_segments_are_embedded(audio, model):
    samples = soundfile.read(audio / "a.wav", dtype="float32")[0]
    expected = model.embed(samples[4000:8000])
    for given in (audio / "a.wav", samples, Recording.from_file(audio / "a.wav")):
        np.testing.assert_allclose(model.embed(given, segment=(0.25, 0.5)), expected, atol=1e-6)
    np.testing.assert_allclose(model.embed(samples, segment=(0.25, 0.755)), model.embed(samples[4000:]), atol=1e-6)
    for segment in ((0.5, 0.25), (-1, 0.5), (0.5, float("nan")), (0.5, 0.8), 3, ("a", "b")):
        with pytest.raises(InputError, match="a.wav: (the|a) segment"):
            model.embed(audio / "a.wav", segment=segment)


# Many


def test_embed_many_equals_embed(audio, model, tmp_path, monkeypatch):
    monkeypatch.chdir(audio)
    names = ["b.wav", "a.wav", "c.flac"]
    expected = {name: model.embed(name) for name in names}
    (tmp_path / "list").write_text("".join(f"{name}\n" for name in names))
    (tmp_path / "wav.scp").write_text("".join(f"{name} cat {name} |\n" for name in names))
    arrays = {name: soundfile.read(name, always_2d=True)[0][:, 0] for name in names[:2]}
    for recordings in (names, tmp_path / "list", str(tmp_path / "wav.scp"), {name: Path(name) for name in names}):
        found = model.embed_many(recordings)
        assert list(found) == names
        np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-5, atol=1e-5)
    assert list(model.embed_many(list(arrays.values()))) == ["0", "1"]
    cuts = CutSet.from_cuts(Recording.from_file(name).to_cut() for name in names)
    assert [*model.embed_many(cuts)] == [cut.id for cut in cuts]
    for recordings, message in (("a.wav", "a.wav: not a list of files"), ([], "no recordings")):
        with pytest.raises(InputError, match=message):
            model.embed_many(recordings)


def test_failures_among_many_are_raised_at_the_end(audio, model, tmp_path):
    files = [audio / "short.wav", audio / "a.wav"]
    with pytest.raises(ValueError, match="1 of 2 recordings.*short.wav: 500"):
        model.embed_many(files, tmp_path / "x.json")
    assert list(sdpn_k2.read_vectors(tmp_path / "x.json")) == [str(audio / "a.wav")]
    assert len(model.embed_many(files, skip_bad=True)) == 1


@pytest.mark.parametrize("output", ["x.scp", "x.json", "x.npy"])
def test_a_stopped_run_goes_on(audio, model, tmp_path, monkeypatch, output):
    samples = soundfile.read(audio / "a.wav", dtype="float32")[0]
    separator = "-" if output == "x.scp" else " "
    recordings = {f"piece{separator}{i}": samples[: 4000 + 800 * i] for i in range(5)}
    monkeypatch.setattr("sdpn_k2.inference.embedder.BLOCK_RECORDINGS", 2)
    embed, calls = Extractor.embed_fbank, []

    def stop_later(self, utterances):
        calls.append(len(utterances))
        if sum(calls) > 4:
            raise KeyboardInterrupt
        return embed(self, utterances)

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "embed_fbank", stop_later)
        with pytest.raises(KeyboardInterrupt):
            model.embed_many(recordings, tmp_path / output)
        (part,) = tmp_path.iterdir()
        with open(part, "ab") as stream:
            stream.write(part.read_bytes()[:20])  # cut short in the middle of an entry
        calls.clear()
        found = model.embed_many(recordings, tmp_path / output)
    assert calls == [1]
    expected = model.embed_many(recordings)
    assert list(found) == list(expected)
    np.testing.assert_allclose([*found.values()], [*expected.values()], atol=1e-6)
    assert not list(tmp_path.glob(".*"))
    if output == "x.npy":
        np.testing.assert_allclose(np.load(tmp_path / output), [*expected.values()], atol=1e-6)
    else:
        np.testing.assert_allclose([*sdpn_k2.read_vectors(tmp_path / output).values()], [*expected.values()], atol=1e-6)


def test_another_model_does_not_take_up_a_stopped_run(exp, audio, model, tmp_path, monkeypatch):
    monkeypatch.setattr("sdpn_k2.inference.embedder.BLOCK_RECORDINGS", 1)
    files = [audio / "a.wav", audio / "none.wav"]
    with pytest.raises(InputError):
        model.embed_many(files, tmp_path / "x.npy")
    assert len(list(tmp_path.glob(".x.npy.*.part"))) == 1
    other = sdpn_k2.load(exp, max_duration=0.3)
    np.testing.assert_allclose(
        other.embed_many(files[:1], tmp_path / "x.npy")[str(files[0])], other.embed(files[0]), atol=1e-6
    )


def test_a_model_describes_itself(exp, model):
    assert repr(model) == f"Embedder({str(exp / 'final.pt')!r}, dim=8, sample_rate=16000, device='cpu')"
