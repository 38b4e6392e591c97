"""Offline augmentation as recipes call it: make_musan.sh, augment_data_dir.py and reverberate_data_dir.py."""

import re
import shutil
import subprocess
from pathlib import Path

import kaldi_native_io
import numpy as np
import pytest
import soundfile
from kaldi_support import speech_like, succeed

from sdpn_k2.kaldi.datadir import data_dir, data_dir_ops, validation
from sdpn_k2.kaldi.features.wave import Wave, encode_wave, to_wav_command

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests/data/offline_augmentation"
RATE = 16000


@pytest.fixture
def call(tmp_path):
    def run(name, *arguments):
        command = [str(ROOT / "steps/data" / name), *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


def said(result):
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def refused(result):
    """Return the line with which a script ended."""
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def write_wave(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_wave(Wave(np.asarray(samples, np.float32)[None], RATE)))


@pytest.fixture
def corpus(tmp_path):
    """Two speakers with two utterances each; the first is a command."""
    wav, durations = {}, {}
    for index, name in enumerate(("s1-u1", "s1-u2", "s2-u1", "s2-u2")):
        seconds = 1 + index / 8
        write_wave(tmp_path / f"{name}.wav", speech_like(index, seconds))
        wav[name], durations[name] = f"{name}.wav", seconds
    wav["s1-u1"] = "cat s1-u1.wav |"
    data_dir_ops.write_data_dir(
        tmp_path / "train",
        wav,
        {name: name[:2] for name in wav},
        {
            "reco2dur": durations,
            "utt2num_frames": dict.fromkeys(wav, 98),
            "spk2gender": {"s1": "f", "s2": "m"},
            "vad.scp": {name: f"vad.ark:{index}" for index, name in enumerate(wav)},
        },
    )
    for kind in ("noise", "babble"):
        noises = {f"{kind}{index}": f"{kind}{index}.wav" for index in range(4)}
        for index, name in enumerate(noises):
            write_wave(tmp_path / noises[name], speech_like(100 + index, 0.25 + index / 8))
        data_dir_ops.write_data_dir(
            tmp_path / kind,
            noises,
            {name: name for name in noises},
            {"reco2dur": {name: 0.25 + index / 8 for index, name in enumerate(noises)}},
        )
    return tmp_path


def entries(folder):
    return (folder / "wav.scp").read_text()


def golden(name):
    return (GOLDEN / name).read_text()


def waves(folder, scp):
    """Return what our tools read from a wav.scp: key → samples."""
    succeed(f"wav-copy scp:{scp} ark:{folder / 'waves.ark'}", folder)
    with kaldi_native_io.SequentialWaveReader(f"ark:{folder / 'waves.ark'}") as reader:
        return {key: np.array(wave.data.numpy(), float)[0] for key, wave in reader}


def test_foreground_noise(call, corpus):
    """The entries are Kaldi's, the sums those of the definition of an SNR, and the tables those of the clean speech."""
    options = ["--utt-suffix", "noise", "--fg-interval", 1, "--fg-snrs", "15:10:5:0", "--fg-noise-dir", "noise"]
    assert "4 utterances" in said(call("augment_data_dir.py", *options, "train", "train_noise"))
    folder = corpus / "train_noise"
    assert entries(folder) == golden("noise.scp")
    assert validation.validate(folder, feats=False, text=False) == 4
    clean = {name: f"{name}-noise" for name in ("s1-u1", "s1-u2", "s2-u1", "s2-u2")}
    assert data_dir.read_map(folder / "utt2uniq") == {noisy: name for name, noisy in clean.items()}
    assert data_dir.read_map(folder / "utt2spk") == {noisy: name[:2] for name, noisy in clean.items()}
    for table in ("vad.scp", "reco2dur", "utt2num_frames"):
        expected = data_dir.read_map(corpus / "train" / table)
        assert data_dir.read_map(folder / table) == {clean[name]: value for name, value in expected.items()}
    assert (folder / "spk2gender").read_text() == (corpus / "train/spk2gender").read_text()

    found = waves(corpus, "train_noise/wav.scp")
    for index, (name, noisy) in enumerate(clean.items()):
        entry = data_dir.read_map(folder / "wav.scp")[noisy]
        signal = speech_like(index, 1 + index / 8).astype(float)
        power, mixed = np.mean(signal**2), signal.copy()
        names, starts, snrs = (
            re.search(f"--{option}='(.*?)'", entry).group(1).split(",")
            for option in ("additive-signals", "start-times", "snrs")
        )
        for noise_name, start, snr in zip(names, map(float, starts), map(float, snrs)):
            number = int(re.search(r"noise(\d)", noise_name).group(1))
            noise = speech_like(100 + number, 0.25 + number / 8).astype(float)
            noise *= np.sqrt(power / np.mean(noise**2) / 10 ** (snr / 10))
            first = int(start * RATE)
            part = noise[: len(signal) - first]
            mixed[first : first + len(part)] += part
        mixed *= np.sqrt(power / np.mean(mixed**2))
        np.testing.assert_allclose(found[noisy], mixed, rtol=0, atol=1.5, err_msg=name)


def test_babble(call, corpus):
    options = ["--utt-prefix", "babble", "--bg-snrs", "20:17:15:13", "--num-bg-noise", "3:4:5:6:7", "--random-seed=5"]
    options += ["--bg-noise-dir", "babble", "--modify-spk-id", "true"]
    said(call("augment_data_dir.py", *options, "train", "train_babble"))
    assert entries(corpus / "train_babble") == golden("babble.scp")
    assert list(data_dir.read_map(corpus / "train_babble/spk2utt")) == ["babble-s1", "babble-s2"]
    assert list(data_dir.read_map(corpus / "train_babble/spk2gender")) == ["babble-s1", "babble-s2"]
    # With segments, recordings and utterances are renamed; utt2uniq is kept where there is one.
    shutil.move(corpus / "train/utt2spk", corpus / "train/old")
    data_dir.write_map(corpus / "train/segments", {"s1-a": "s1-u1 0 0.5", "s2-b": "s2-u1 0.25 1.25"})
    data_dir.write_map(corpus / "train/utt2spk", {"s1-a": "s1", "s2-b": "s2"})
    data_dir.write_map(corpus / "train/utt2uniq", {"s1-a": "first", "s2-b": "second"})
    for name in ("vad.scp", "utt2num_frames"):
        (corpus / "train" / name).unlink()
    said(call("augment_data_dir.py", "--utt-suffix", "x", "--bg-noise-dir", "noise", "train", "train_x"))
    assert (corpus / "train_x/segments").read_text() == "s1-a-x s1-u1-x 0 0.5\ns2-b-x s2-u1-x 0.25 1.25\n"
    assert (corpus / "train_x/utt2uniq").read_text() == "s1-a-x first\ns2-b-x second\n"


def write_responses(corpus):
    for name in ("rirs0", "rirs1", "noises"):
        shutil.copy(GOLDEN / name, corpus)
    generator = np.random.default_rng(2)
    for room in range(2):
        for index in range(4):
            response = generator.normal(size=400) * np.exp(-np.arange(400) / 60) * 2000
            response[10] = 20000
            write_wave(corpus / f"r{room}{index}.wav", response)


def test_reverberation_with_noise(call, corpus):
    write_responses(corpus)
    options = [
        "--rir-set-parameters",
        "0.5, rirs0",
        "--rir-set-parameters",
        "rirs1",
        "--noise-set-parameters",
        "noises",
    ]
    options += ["--num-replications", 2, "--include-original-data", "true", "--max-noises-per-minute", 180]
    options += ["--speech-rvb-probability", 0.8, "--pointsource-noise-addition-probability", 0.9]
    options += ["--isotropic-noise-addition-probability", 0.9]
    (corpus / "train/reco2dur").unlink()
    text = said(call("reverberate_data_dir.py", *options, "train", "train_reverb"))
    assert "8 impulse responses in 4 rooms" in text and "2 noises from one direction, 1 from all" in text
    folder = corpus / "train_reverb"
    assert entries(folder) == golden("reverb.scp")
    assert list(data_dir.read_map(folder / "spk2utt")) == [f"rvb{copy}-s{s}" for copy in range(3) for s in (1, 2)]
    uniq = data_dir.read_map(folder / "utt2uniq")
    assert len(uniq) == 12 and uniq["rvb2-s2-u1"] == "s2-u1"
    assert sorted(path.name for path in folder.iterdir()) == ["spk2utt", "utt2spk", "utt2uniq", "vad.scp", "wav.scp"]
    lengths = {name: len(signal) for name, signal in waves(corpus, "train_reverb/wav.scp").items()}
    clean = ["s1-u1", "s1-u2", "s2-u1", "s2-u2"]
    assert lengths == {name: RATE + clean.index(uniq[name]) * RATE // 8 for name in uniq}


def test_telephone_speech(call, corpus):
    """Impulse responses of 16 kHz for recordings of 8 kHz: the entries convert them."""
    write_responses(corpus)
    for path in corpus.glob("s?-u?.wav"):
        succeed(f"sox {path} -r 8000 -t wav {path}.8k && mv {path}.8k {path}", corpus)
    options = ["--rir-set-parameters", "0.5, rirs0", "--rir-set-parameters", "0.5, rirs1", "--random-seed", 3]
    options += ["--pointsource-noise-addition-probability", 0, "--isotropic-noise-addition-probability", 0]
    said(call("reverberate_data_dir.py", *options, "--source-sampling-rate", 8000, "train", "train_reverb"))
    assert entries(corpus / "train_reverb") == golden("telephone.scp")
    lengths = {name: len(signal) for name, signal in waves(corpus, "train_reverb/wav.scp").items()}
    assert lengths == {"s1-u1": 8000, "s1-u2": 9000, "s2-u1": 10000, "s2-u2": 11000}


def test_musan(call, tmp_path):
    for kind in ("music", "speech", "noise"):
        for index in range(3):
            name = f"{kind}-x-{index:04d}.wav"
            write_wave(tmp_path / "musan" / kind / "x" / name, speech_like(index, 0.1 * (index + 1)))
    annotations = tmp_path / "musan/music/x/ANNOTATIONS"
    annotations.write_text("music-x-0000 pop Y A B\nmusic-x-0001 jazz N C\nmusic-x-0009 jazz N C\n")
    text = said(call("make_musan.sh", "--use-vocals", "false", "musan", "data"))
    assert "music: 1 files; 1 listed files do not exist" in text
    assert data_dir.read_numbers(tmp_path / "data/musan_music/reco2dur") == {"music-x-0001": 0.2}
    assert (tmp_path / "data/musan_music/wav.scp").read_text() == "music-x-0001 musan/music/x/music-x-0001.wav\n"
    for kind in ("speech", "noise"):
        assert len(data_dir.read_map(tmp_path / f"data/musan_{kind}/reco2dur")) == 3
    assert len(data_dir.read_map(tmp_path / "data/musan/wav.scp")) == 7
    said(call("make_musan.py", "--sampling-rate", 8000, "musan", "data/8k"))
    wav = data_dir.read_map(tmp_path / "data/8k/wav.scp")
    assert wav["music-x-0000"] == "sox -t wav musan/music/x/music-x-0000.wav -r 8000 -t wav - |"
    annotations.write_text("music-x-0000 pop\n")
    assert "ANNOTATIONS:1" in refused(call("make_musan.py", "musan", "data/bad"))
    shutil.rmtree(tmp_path / "musan/noise")
    assert "musan/noise" in refused(call("make_musan.py", "musan", "data/bad"))
    assert not (tmp_path / "data/bad").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "background.*foreground"),
        (["--bg-noise-dir", "nowhere"], "nowhere/wav.scp"),
        (["--bg-noise-dir", "noise", "--bg-snrs", "5:loud"], "--bg-snrs .*5:loud"),
        (["--bg-noise-dir", "noise", "--num-bg-noises", "-1"], "-1"),
        (["--bg-noise-dir", "noise", "--utt-suffix", "a", "--utt-prefix", "b"], "prefix.*suffix"),
        (["--bg-noise-dir", "noise", "--modify-spk-id", "maybe"], "--modify-spk-id.*maybe"),
        (["--bg-noise-dir", "odd"], "odd/wav.scp: noise 'n'.*\""),
        (["--bg-noise-dir", "short"], "short/reco2dur: recording 'n' lasts 0 s"),
        (["--bg-noise-dir", "unknown"], "unknown/reco2dur: no such file.*get_reco2dur.sh unknown"),
        (["--b", "noise"], "--b "),
    ],
)
def test_bad_noise(call, corpus, options, message):
    for name, entry, seconds in (("odd", 'cat "n.wav" |', "1"), ("short", "n.wav", "0"), ("unknown", "n.wav", None)):
        (corpus / name).mkdir()
        (corpus / name / "wav.scp").write_text(f"n {entry}\n")
        if seconds is not None:
            (corpus / name / "reco2dur").write_text(f"n {seconds}\n")
    assert re.search(message, refused(call("augment_data_dir.py", *options, "train", "out")))
    assert not (corpus / "out").exists()


@pytest.mark.parametrize(
    "lists, message",
    [
        ({}, "--rir-set-parameters"),
        ({"rirs": "--rir-id 1 r.wav\n"}, "rirs:1: --room-id"),
        ({"rirs": "--rir-id 1 --room-id 1 --probability x r.wav\n"}, "rirs:1: 'x'"),
        ({"rirs": "--rir-id 1 --room-id 1 --wall 3 r.wav\n"}, "rirs:1: .*--wall"),
        ({"rirs": "--rir-id 1 --room-id 1\n"}, "rirs:1: .*one location"),
        ({"rirs": "\n"}, "empty"),
        (
            {"rirs": "--rir-id 1 --room-id 1 r.wav\n", "noises": "--noise-id 1 --noise-type loud n.wav\n"},
            "noises:1: .*loud",
        ),
        (
            {"rirs": "--rir-id 1 --room-id 1 r.wav\n", "noises": "--noise-id 1 --noise-type isotropic n.wav\n"},
            "noises:1: .*--room-linkage",
        ),
    ],
)
def test_bad_lists(call, corpus, lists, message):
    options = []
    for name, text in lists.items():
        (corpus / name).write_text(text)
        options += ["--rir-set-parameters" if name == "rirs" else "--noise-set-parameters", name]
    assert re.search(message, call("reverberate_data_dir.py", *options, "train", "out").stderr)
    assert not (corpus / "out").exists()


def test_noises_of_other_formats_need_no_process(tmp_path):
    """A noise or impulse response may be the command that our tools read themselves, even where commands are off."""
    noise, speech = speech_like(1, 0.5), speech_like(2, 0.5)
    soundfile.write(tmp_path / "n.flac", noise, RATE)
    write_wave(tmp_path / "n.wav", noise)
    write_wave(tmp_path / "s.wav", speech)
    options = "--start-times=0 --snrs=10 s.wav"
    for name, out in ((to_wav_command("n.flac"), "a.wav"), ("n.wav", "b.wav")):
        command = f"wav-reverberate --additive-signals='{name}' {options} {out}"
        succeed(command, tmp_path, SDPN_K2_ALLOW_PIPES="false")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
