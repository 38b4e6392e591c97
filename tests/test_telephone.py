"""Speech at 8 kHz: the recipe on telephone sources, features in three forms, models of one rate on audio of another."""

import io
import itertools
import json
import logging
import subprocess
import sys

import kaldi_native_fbank as knf
import numpy as np
import pytest
import soundfile
import torch
from lhotse import RecordingSet
from run_recipe import TINY, run
from tiny_models import write_data, write_model

from sdpn_k2.config import FeaturesConfig, load_config
from sdpn_k2.data.audio_check import scan_audio
from sdpn_k2.data.banks import Banks
from sdpn_k2.data.manifest_files import load_manifest
from sdpn_k2.data.recordings import make_recording, wav_scp_entry
from sdpn_k2.errors import InputError, Skipped
from sdpn_k2.inference.embedder import Embedder
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.datadir.utterances import read_utterances
from sdpn_k2.kaldi.features.fbank_mfcc import FbankOptions, fbank
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.wave import read_audio, to_wav_command
from sdpn_k2.kaldi.formats.tables import read_table
from sdpn_k2.signal.augment import Augment
from sdpn_k2.signal.convolution import ConvolvedFrontEnd
from sdpn_k2.signal.fbank import Fbank
from sdpn_k2.signal.telephone import band_limit, telephone, through_a_law, through_mu_law

RATE = 8000
SOURCES = (("sph", "NIST", "PCM_16"), ("sph", "NIST", "ULAW"), ("wav", "WAV", "ULAW"), ("wav", "WAV", "ALAW"))


def write_telephone(path, samples, kind):
    """Write samples in ±1 at 8 kHz as one of SOURCES; return the path."""
    suffix, container, codec = SOURCES[kind % len(SOURCES)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.with_suffix(f".{suffix}")
    soundfile.write(path, samples, RATE, format=container, subtype=codec)
    return path


@pytest.fixture(scope="module")
def calls(speech, tmp_path_factory):
    """The fixture ``speech`` at 8 kHz in telephone formats; a test speaker, the noises and the rooms stay at 16 kHz."""
    root = tmp_path_factory.mktemp("calls")
    for name in ("noise", "rir"):
        (root / name).symlink_to(speech / name)
    wide = sorted((speech / "test").glob("*/"))[0]
    for number, path in enumerate(sorted([*speech.glob("train/*/*.wav"), *speech.glob("test/*/*.wav")])):
        target = root / path.relative_to(speech)
        if path.parent == wide:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
        else:
            write_telephone(target, resample(soundfile.read(path)[0], 16000, RATE), number)
    (root / "test" / "trials").write_text((speech / "test" / "trials").read_text())
    return root


@pytest.fixture(scope="module")
def experiment(calls, tmp_path_factory):
    """Run every stage at 8 kHz; return (data, exp, standard output, standard error)."""
    folder = tmp_path_factory.mktemp("recipe")
    data, exp = folder / "data", folder / "exp"
    options = {
        "--sample-rate": RATE,
        "--corpus": "audio-dir",
        "--audio-root": calls,
        "--data": data,
        "--exp": exp,
        "--config-set": f"{TINY} augment.telephone_prob=0.5".replace("steps=3", "steps=2"),
    }
    done = run(*itertools.chain(*options.items()))
    return data, exp, done.stdout, done.stderr


@pytest.mark.slow
def test_the_recipe_at_8_khz(experiment):
    data, exp, said, _ = experiment
    assert all(f"Stage {number}:" in said for number in range(8))
    config = load_config(exp / "config.yaml")
    assert config.features.sample_rate == RATE and config.augment.telephone_prob == 0.5
    assert json.loads((exp / "results.json").read_text())["results"]
    for name in ("train", "test"):
        durations = read_map(data / name / "utt2dur")
        frames = read_map(data / name / "utt2num_frames")
        assert frames.keys() == durations.keys()
        for utterance, seconds in durations.items():
            samples = round(float(seconds) * RATE)
            assert abs(int(frames[utterance]) - (1 + (samples - 200) // 80)) <= 1
        recordings = list(load_manifest(data / "manifests" / f"recordings_{name}.jsonl.gz", RecordingSet))
        assert {recording.sampling_rate for recording in recordings} == {RATE}
        assert (data / name / "vad.scp").stat().st_size


@pytest.mark.slow
def test_stored_features_are_kaldis_at_8_khz(experiment):
    data, _, _, _ = experiment
    entries = read_map(data / "train" / "wav.scp")
    for number, (key, stored) in enumerate(read_table(f"scp:{data}/train/feats.scp", "matrix")):
        path = entries[key].split()[-2]
        expected = native_fbank(read_audio(path, RATE))
        # Compressed on storage
        assert np.abs(stored - expected).max() < 0.15 and np.abs(stored - expected).mean() < 0.03
        if number == 3:
            break


@pytest.mark.slow
def test_sources_at_other_rates_are_counted(experiment):
    _, _, _, logged = experiment
    lines = [line for line in logged.splitlines() if "resampling" in line]
    assert len(lines) == 3  # the four wide-band recordings, noise and rooms, but not the telephone recordings
    assert lines[0].startswith("test: resampling 4 of 16 audio files to 8000 Hz (4 at 16000 Hz)")
    assert not any("upsampled" in line for line in lines)


def test_upsampled_sources_are_named(tmp_path, caplog):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    locations = {"sph": str(write_telephone(tmp_path / "a", noise, 0)), "wide": str(tmp_path / "b.wav")}
    soundfile.write(locations["wide"], noise, 16000)
    with caplog.at_level(logging.INFO):
        scan_audio(locations, "train")
    (record,) = [record for record in caplog.records if "resampling" in record.message]
    assert record.levelno == logging.WARNING
    assert all(part in record.message for part in ("1 of 2", "16000 Hz", "1 at 8000 Hz", "4000 Hz", "--sample-rate"))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        scan_audio({"sph": locations["sph"]}, "train", rate=RATE)
    assert not caplog.records


@pytest.mark.parametrize("kind", range(len(SOURCES)))
def test_telephone_files_are_read_by_kaldi_and_by_training(tmp_path, kind):
    """wav.scp and lhotse's manifest give the samples that libsndfile decodes, without sph2pipe."""
    path = write_telephone(tmp_path / "call", np.random.default_rng(kind).uniform(-0.5, 0.5, 8000), kind)
    expected = soundfile.read(path, dtype="int16")[0]
    (audio,) = scan_audio({"call": str(path)}, "calls", rate=RATE).good.values()
    assert wav_scp_entry(audio) == to_wav_command(str(path), RATE)
    np.testing.assert_array_equal(read_audio(str(path), RATE), expected)
    recording = make_recording("call", audio)
    np.testing.assert_array_equal(recording.load_audio()[0] * 32768, expected)
    np.testing.assert_array_equal(recording.load_audio(offset=0.25, duration=0.5)[0] * 32768, expected[2000:6000])
    cut = recording.to_cut().truncate(offset=0.5)
    np.testing.assert_array_equal(cut.load_audio()[0] * 32768, expected[4000:])


def test_to_wav_says_that_it_upsamples(tmp_path):
    path = str(write_telephone(tmp_path / "call", np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 2))
    command = [sys.executable, "-m", "sdpn_k2", "to-wav", "--rate"]
    done = subprocess.run([*command, "16000", path], capture_output=True, check=True)
    line = done.stderr.decode()
    assert line.count("\n") == 1 and all(part in line for part in (path, "8000", "16000"))
    assert subprocess.run([*command, "8000", path], capture_output=True, check=True).stderr == b""


# Features


def native_fbank(samples, rate=RATE):
    """kaldi-native-fbank of samples at int16 scale."""
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = rate
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(rate, samples.tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(index) for index in range(computer.num_frames_ready)])


@pytest.fixture(scope="module")
def call(calls):
    """A recording at 8 kHz, at int16 scale."""
    return read_audio(str(next(iter(sorted(calls.glob("train/*/*"))))), RATE)


def close(features, expected):
    """Whether features agree, up to the rounding of bins that are far quieter than the rest of their frame."""
    error = np.abs(features - expected)
    return features.shape == expected.shape and np.quantile(error, 0.99) < 2e-3 and error.max() < 0.1


def test_numpy_and_torch_agree_with_kaldi_native_fbank(call):
    expected = native_fbank(call)
    features = FeaturesConfig(sample_rate=RATE)
    waveform = torch.from_numpy(call / 32768)[None]
    assert close(fbank(call, FbankOptions(sample_frequency=RATE, num_mel_bins=80, dither=0.0)), expected)
    assert close(Fbank(features)(waveform)[0].numpy(), expected)
    assert close(ConvolvedFrontEnd(Fbank(features))(waveform)[0].numpy(), expected)


@pytest.mark.slow
def test_onnx_agrees_with_kaldi_native_fbank(call, tmp_path):
    if torch.__version__ < "2.5":
        pytest.skip("ONNX export needs torch 2.5")
    onnxruntime = pytest.importorskip("onnxruntime")
    front_end = ConvolvedFrontEnd(Fbank(FeaturesConfig(sample_rate=RATE))).eval()
    path = str(tmp_path / "fbank.onnx")
    waveform = (call / 32768).astype(np.float32)[None]
    torch.onnx.export(front_end, (torch.from_numpy(waveform),), path, dynamo=True, verbose=False, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (features,) = session.run(None, {session.get_inputs()[0].name: waveform})
    assert close(features[0], native_fbank(call))


# Models of one rate, audio of another


def test_wide_band_files_are_embedded_by_an_8_khz_model(speech, tmp_path, caplog):
    model = Embedder.load(write_model(tmp_path / "m.pt", FeaturesConfig(sample_rate=RATE)))
    path = next(iter(sorted(speech.glob("test/*/*.wav"))))
    wide = soundfile.read(path)[0]
    expected = model.extractor.embed(read_audio(str(path), RATE) / 32768)
    np.testing.assert_array_equal(model.embed(path), expected)
    np.testing.assert_allclose(model.embed(wide, rate=16000), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert not caplog.records
    # So are those of a data directory, whether wav.scp converts them or not.
    data = write_data(tmp_path / "data", speech, 1, 1)
    (name,) = read_map(data / "wav.scp")
    samples = {}
    for entry in (str(path), to_wav_command(str(path), RATE)):
        (data / "wav.scp").write_text(f"{name} {entry}\n")
        ((_, samples[entry]),) = read_utterances(data, RATE)
    first, second = samples.values()
    np.testing.assert_array_equal(first, second)


def test_telephone_files_and_a_wide_band_model(calls, tmp_path, caplog):
    model = Embedder.load(write_model(tmp_path / "m.pt"))
    narrow = sorted(calls.glob("train/*/*"))[:2]
    wide = next(path for path in sorted(calls.glob("test/*/*.wav")) if soundfile.info(str(path)).samplerate == 16000)
    model.embed_many([*narrow, wide])
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert all(part in record.message for part in ("2 of 3", "16000 Hz", "8000 Hz"))
    caplog.clear()
    model.embed(narrow[0])
    assert len(caplog.records) == 1 and "1 of 1" in caplog.text
    # A data directory must say that it is upsampled.
    (tmp_path / "wav.scp").write_text(f"a {write_telephone_wav(tmp_path / 'a.wav')}\n")
    (item,) = read_utterances(tmp_path, 16000)
    assert isinstance(item, Skipped) and "8000 Hz" in item.reason and "to-wav --rate 16000" in item.reason


def write_telephone_wav(path):
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 8000), RATE, subtype="PCM_16")
    return path


@pytest.mark.parametrize("folder", ["", "split2utt/1"])
def test_stored_features_of_another_rate_are_refused(speech, tmp_path, folder):
    from sdpn_k2.inference.utterance_features import read_features

    data = tmp_path / "data"
    (data / folder).mkdir(parents=True)
    (data / "conf").mkdir()
    (data / folder / "feats.scp").write_text("a x.ark:2\n")
    features = FeaturesConfig(sample_rate=RATE)
    assert read_features(data / folder, features, Fbank(features))[0] == 1
    for rate, fits in ((RATE, True), (16000, False)):
        (data / "conf" / "fbank.conf").write_text(f"--sample-frequency={rate}\n--num-mel-bins=80\n")
        if fits:
            assert read_features(data / folder, features, Fbank(features))[0] == 1
        else:
            with pytest.raises(InputError, match="feats.scp: .*16000 Hz.*8000 Hz"):
                read_features(data / folder, features, Fbank(features))


# Augmentation


@pytest.mark.parametrize("codec, function", [("ULAW", through_mu_law), ("ALAW", through_a_law)])
def test_codecs_equal_libsndfile_for_every_sample(codec, function):
    samples = np.arange(-32768, 32768).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype=codec)
    file.seek(0)
    expected = soundfile.read(file, dtype="int16")[0]
    found = function(torch.from_numpy(samples / np.float32(32768))) * 32768
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_the_band_of_a_telephone(rate):
    """Tones within 300 to 3400 Hz pass unchanged, and those outside 150 to 3900 Hz vanish; the ends of a crop aside."""
    time = np.arange(rate) / rate
    for frequency, gain in ((60, 0), (140, 0), (320, 1), (1000, 1), (3380, 1), (3950, 0), (225, 0.5), (3650, 0.5)):
        tone = torch.from_numpy(np.sin(2 * np.pi * frequency * time)).float()
        middle = slice(rate // 4, 3 * rate // 4)
        np.testing.assert_allclose(band_limit(tone, rate)[middle], gain * tone[middle], atol=2e-3)
    batch = torch.randn(2, 3, 1000)
    torch.testing.assert_close(band_limit(batch, rate)[1, 2], band_limit(batch[1, 2], rate))


def test_telephones_are_drawn_and_leave_other_crops_alone():
    views, utterances = 4, 500
    crops = torch.randn(views * utterances, 800) / 10
    for probability in (0.0, 0.3, 1.0):
        others = ["augment.clean_prob=1", "augment.single_prob=0"]
        config = load_config(None, [f"augment.telephone_prob={probability}", *others])
        augment = Augment(config.augment, torch.nn.ModuleDict(), None, RATE)
        plan = augment.draw(views, utterances, np.random.default_rng(1))
        assert len(plan.telephone_rows) == pytest.approx(probability * len(crops), abs=70)
        output = augment(crops, plan)
        others = np.setdiff1d(np.arange(len(crops)), plan.telephone_rows)
        assert torch.equal(output[others], crops[others])
        if probability:
            assert plan.telephone_a_law.mean() == pytest.approx(0.5, abs=0.07)
            expected = telephone(crops[plan.telephone_rows], torch.from_numpy(plan.telephone_a_law), RATE)
            torch.testing.assert_close(output[plan.telephone_rows], expected)
    # The option does not change the other draws of a step.
    first, second = (
        Augment(load_config(None, [f"augment.telephone_prob={probability}"]).augment, torch.nn.ModuleDict()).draw(
            4, 8, np.random.default_rng(2)
        )
        for probability in (0, 0.9)
    )
    np.testing.assert_array_equal(first.time_mask, second.time_mask)
    np.testing.assert_array_equal(first.reverb_index, second.reverb_index)


def test_silence_stays_silent_on_the_telephone():
    for a_law in (True, False):
        heard = telephone(torch.zeros(1, 8000), torch.tensor([a_law]), RATE)
        # A-law has no code for 0; what it sends instead is a constant, which the band does not contain.
        assert heard.abs().max() < 8 / 32768 and heard[0, 1000:-1000].abs().max() < 1e-6


def test_telephones_need_waveforms():
    with pytest.raises(InputError, match="augment.telephone_prob.*input=waveform"):
        load_config(None, ["input=fbank", "augment.telephone_prob=0.1"])


def test_banks_pass_the_sample_rate_on(tmp_path):
    config = load_config(None, ["features.sample_rate=8000"])
    assert Banks(tmp_path, config, torch.device("cpu")).augment.sample_rate == RATE
