"""Folders of audio: ids, tables, manifests, trials and bad input."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from lhotse import CutSet, MonoCut, RecordingSet, SupervisionSet, validate

from sdpn_k2.cli.prepare import prepare
from sdpn_k2.data.audio_check import check_audio
from sdpn_k2.data.corpora.audio_dir import prepare_audio_dir
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.datadir.validation import validate as validate_data_dir


def noise(seconds: float = 0.5, rate: int = 16000, channels: int = 1, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (int(seconds * rate), channels))
    return samples[:, 0] if channels == 1 else samples


def write(path: Path, samples: np.ndarray, rate: int = 16000, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """Two sets; files of several formats, rates and channel counts; odd but legal names."""
    root = tmp_path / "audio"
    for index, speaker in enumerate(("s1", "s10", "Åsa")):
        for take in range(2):
            write(root / "train" / speaker / f"take{take}.wav", noise(seed=10 * index + take))
    write(root / "test" / "bob" / "bob-1.wav", noise(seed=1))
    write(root / "test" / "bob" / "phone.flac", noise(rate=8000, seed=2), 8000)
    write(root / "test" / "eve" / "day 1" / "x.wav", noise(rate=44100, channels=2, seed=3), 44100)
    write(root / "test" / "eve" / "float.wav", noise(seed=4), subtype="FLOAT")
    trials = "bob-1 phone target\nbob-1 eve/float.wav nontarget\neve-day_1-x float target\n"
    (root / "test" / "trials").write_text(trials)
    write(root / "noise" / "street" / "cars.wav", noise(1.0, seed=5))
    write(root / "rir" / "hall.wav", noise(0.01, seed=6))
    (root / "notes").mkdir()
    return root


def load(data: Path, name: str) -> tuple:
    recordings = RecordingSet.from_file(data / "manifests" / f"recordings_{name}.jsonl.gz")
    supervisions = SupervisionSet.from_file(data / "manifests" / f"supervisions_{name}.jsonl.gz")
    return recordings.to_eager(), supervisions.to_eager()


def test_whole_folder(root, tmp_path):
    data = tmp_path / "data"
    assert prepare_audio_dir(root, data, num_jobs=2) == ["test"]
    assert (data / "eval_sets").read_text() == "test\n"
    for name in ("train", "test"):
        validate_data_dir(data / name, feats=False, text=False)
        recordings, supervisions = load(data, name)
        validate(CutSet.from_manifests(recordings=recordings, supervisions=supervisions).subset(first=1))
        assert {s.id: s.speaker for s in supervisions} == read_map(data / name / "utt2spk")
        assert all(recording.sampling_rate == 16000 for recording in recordings)
    assert list(read_map(data / "train" / "utt2spk")) == [
        "s1-take0", "s1-take1", "s10-take0", "s10-take1", "Åsa-take0", "Åsa-take1",
    ]  # fmt: skip
    wav = read_map(data / "test" / "wav.scp")
    assert wav["bob-1"] == str(root / "test/bob/bob-1.wav")
    assert wav["bob-phone"] == f"sdpn-k2 to-wav --rate 16000 --channel 0 {root}/test/bob/phone.flac |"
    assert wav["eve-day_1-x"].endswith(f"'{root}/test/eve/day 1/x.wav' |")
    assert set(read_map(data / "test" / "utt2dur").values()) == {"0.5"}
    assert (data / "test" / "trials").read_text() == (
        "bob-1 bob-phone target\nbob-1 eve-float nontarget\neve-day_1-x eve-float target\n"
    )
    assert [r.id for r in RecordingSet.from_file(data / "manifests/recordings_noise.jsonl.gz")] == ["street-cars"]
    assert [r.id for r in RecordingSet.from_file(data / "manifests/recordings_rir.jsonl.gz")] == ["hall"]
    assert not (data / "manifests/recordings_music.jsonl.gz").exists()


def test_recordings_are_at_16_khz_and_use_the_chosen_channel(root, tmp_path):
    stereo = np.stack([noise(1.0, seed=1), 0.1 * noise(1.0, seed=2)], axis=1)
    for path in (root / "train").rglob("*.wav"):
        write(path, stereo)
    data = tmp_path / "data"
    (root / "test" / "trials").unlink()
    assert prepare_audio_dir(root, data, channel=1) == []
    recordings, supervisions = load(data, "train")
    supervision = supervisions["s1-take0"]
    cut = MonoCut("c", 0.0, supervision.duration, supervision.channel, recording=recordings["s1-take0"])
    np.testing.assert_allclose(cut.load_audio()[0], stereo[:, 1], atol=2 / 32768)
    assert "--channel 1 " in read_map(data / "train" / "wav.scp")["s1-take0"]


def test_other_folders_and_stale_files(root, tmp_path):
    data = tmp_path / "data"
    prepare_audio_dir(root, data)
    for name in ("feats.scp", "utt2num_frames", "trials_old"):
        (data / "test" / name).write_text("someone 1\n")
    other = write(tmp_path / "elsewhere" / "zoe" / "a.wav", noise()).parents[1]
    options = ["--train-dir", str(other), "--noise-dir", str(root / "train" / "s1"), "--nj", "1"]
    result = CliRunner().invoke(prepare, ["audio-dir", str(root), str(data), *options])
    assert result.exit_code == 0, result.output
    assert read_map(data / "train" / "utt2spk") == {"zoe-a": "zoe"}
    assert len(RecordingSet.from_file(data / "manifests/recordings_noise.jsonl.gz")) == 2
    assert {path.name for path in (data / "test").iterdir()} == {"spk2utt", "trials", "utt2dur", "utt2spk", "wav.scp"}


def test_backups_and_folders_are_not_trial_lists(root, tmp_path):
    (root / "test" / "trials_old").mkdir()
    (root / "notes" / "trials.bak").write_text("")
    for name in ("trials~", "trials.bak", "trials_b.orig"):
        (root / "test" / name).write_text("someone else entirely\n")
    (root / "test" / "trials_b-2").write_text("bob-1 phone target\n")
    assert prepare_audio_dir(root, tmp_path / "data") == ["test"]
    assert sorted(path.name for path in (tmp_path / "data" / "test").glob("trials*")) == ["trials", "trials_b-2"]


def test_utterances_are_sorted_by_speaker_for_any_folder_names(root, tmp_path):
    for folder in ("anna", "anna-maria", "anna(2)", "anna+b", "anna 3"):
        for take in "azA":
            write(root / "test" / folder / f"{take}.wav", noise())
    write(root / "test" / "anna-maria" / "anna-maria-9.wav", noise())
    (root / "test" / "trials").write_text("anna-a anna-maria-z nontarget\nanna-maria-9 anna-maria/a target\n")
    prepare_audio_dir(root, tmp_path / "data")
    validate_data_dir(tmp_path / "data" / "test", feats=False, text=False)
    speakers = set(read_map(tmp_path / "data" / "test" / "utt2spk").values())
    assert speakers == {"anna", "anna_maria", "anna_2_", "anna_b", "anna_3", "bob", "eve"}
    assert (tmp_path / "data" / "test" / "trials").read_text() == (
        "anna-a anna_maria-z nontarget\nanna_maria-9 anna_maria-a target\n"
    )
    write(root / "test" / "anna maria" / "b.wav", noise())
    fails(root, tmp_path / "data", "'anna maria' and 'anna-maria' .*'anna_maria'")


def test_manifests_are_reproducible_to_the_byte(root, tmp_path):
    for name in ("a", "b"):
        prepare_audio_dir(root, tmp_path / name)
    for path in (tmp_path / "a" / "manifests").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "manifests" / path.name).read_bytes()
    with gzip.open(tmp_path / "a" / "manifests" / "supervisions_train.jsonl.gz", "rt") as stream:
        assert json.loads(stream.readline())["speaker"] == "s1"


def truncated_wav(path):
    write(path, noise())
    path.write_bytes(path.read_bytes()[:4000])


def truncated_flac(path):
    flac = write(path.with_suffix(".flac"), noise(3.0))
    path.write_bytes(flac.read_bytes()[:20000])
    flac.unlink()


BAD = {
    "no samples": (lambda path: write(path, np.zeros(0)), "0 samples"),
    "too short": (lambda path: write(path, noise(0.06)), "960 samples, at least 0.065 s"),
    "empty file": (lambda path: path.write_bytes(b""), "the file is empty"),
    "not audio": (lambda path: path.write_text("hello, this is not audio"), "cannot read audio"),
    "header only": (lambda path: path.write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt "), "cannot read audio"),
    "truncated wav": (truncated_wav, "truncated"),
    "truncated flac": (truncated_flac, "cannot read audio"),
    "silent": (lambda path: write(path, np.zeros(8000)), "silent: every sample is 0"),
    "constant": (lambda path: write(path, np.full(8000, 0.25)), "silent: every sample is 0.25"),
    "nan": (lambda path: write(path, np.where(noise() > 0.49, np.nan, noise()), subtype="FLOAT"), "NaN or infinite"),
    "infinite": (lambda path: write(path, np.append(noise(), np.inf), subtype="FLOAT"), "NaN or infinite"),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_utterance_is_skipped_counted_and_reported(kind, root, tmp_path, caplog):
    make, reason = BAD[kind]
    for take in range(2, 30):
        write(root / "train" / "s1" / f"take{take}.wav", noise(0.1, seed=take))
    make(root / "train" / "s10" / "broken.wav")
    data = tmp_path / "data"
    prepare_audio_dir(root, data)
    assert "s10-broken" not in read_map(data / "train" / "utt2spk")
    assert len(read_map(data / "train" / "utt2spk")) == 34
    assert "s10-broken" not in load(data, "train")[0].ids
    skipped = read_map(data / "manifests" / "skipped_train")
    assert list(skipped) == ["s10-broken"] and reason in skipped["s10-broken"]
    assert any("skipping 's10-broken'" in message and reason in message for message in caplog.messages)
    assert "train: skipped 1 of 35 audio files" in caplog.messages
    (root / "train" / "s10" / "broken.wav").unlink()
    prepare_audio_dir(root, data)
    assert not (data / "manifests" / "skipped_train").exists()


def test_streamed_wav_without_length_in_its_header_is_usable(tmp_path):
    path = write(tmp_path / "a.wav", noise())
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 4 + content[8:40] + b"\xff" * 4 + content[44:])
    assert check_audio(str(path)).num_samples == 8000


def test_commands(tmp_path):
    path = write(tmp_path / "a.wav", noise())
    audio = check_audio(f"cat {path} |")
    assert audio.num_samples == 8000 and not audio.is_plain
    for command, message in {
        "echo oh no >&2; exit 3 |": "status 3: .*: oh no",
        "true |": "true",
        "echo hello |": "echo hello",
    }.items():
        with pytest.raises(InputError, match=message):
            check_audio(command)


def test_trials_of_skipped_audio_are_dropped(root, tmp_path, caplog):
    write(root / "test" / "bob" / "phone.flac", np.zeros(8000), 8000)
    prepare_audio_dir(root, tmp_path / "data", max_bad=30)
    assert len((tmp_path / "data" / "test" / "trials").read_text().splitlines()) == 2
    assert any("dropped 1 trials" in message for message in caplog.messages)


def fails(root: Path, data: Path, message: str, **options) -> None:
    with pytest.raises(InputError, match=message) as error:
        prepare_audio_dir(root, data, **options)
    assert "\n" not in str(error.value)
    assert not (data / "eval_sets").exists()


def test_missing_and_empty_roots(root, tmp_path):
    data = tmp_path / "data"
    fails(tmp_path / "nowhere", data, "nowhere: ")
    (tmp_path / "void").mkdir()
    fails(tmp_path / "void", data, "void/train: ")
    (tmp_path / "void" / "train").mkdir()
    fails(tmp_path / "void", data, "void/train: .*.flac")
    fails(root, data, "elsewhere: ", folders={"train": tmp_path / "elsewhere"})


def test_audio_outside_a_speaker(root, tmp_path):
    write(root / "train" / "stray.wav", noise())
    fails(root, tmp_path / "data", "stray.wav: .*<speaker>/stray.wav")


def test_file_name_that_is_not_utf8(root, tmp_path, caplog):
    write(root / "train" / "s1" / "x.wav", noise()).rename(os.fsdecode(os.fsencode(root / "train/s1") + b"/\xff.wav"))
    prepare_audio_dir(root, tmp_path / "data")
    assert any("train: left out 1 files" in message and "UTF-8" in message for message in caplog.messages)


def test_duplicate_id(root, tmp_path):
    write(root / "train" / "s1" / "take0.flac", noise())
    fails(root, tmp_path / "data", "'s1-take0': .*take0.flac and .*take0.wav")


def test_too_much_bad_audio(root, tmp_path):
    write(root / "train" / "s1" / "take0.wav", np.zeros(8000))
    fails(root, tmp_path / "data", "train: 1 of 6 .*5 %, see --max-bad.*'s1-take0': .*silent")
    for path in (root / "train").rglob("*.wav"):
        write(path, np.zeros(8000))
    fails(root, tmp_path / "data", "train: 6 of 6 ", max_bad=100)


def test_a_failed_preparation_does_not_look_complete(root, tmp_path):
    prepare_audio_dir(root, tmp_path / "data")
    write(root / "test" / "bob" / "bob-1.wav", np.zeros(8000))
    fails(root, tmp_path / "data", "test: 1 of 4 .*'bob-1'")


def test_missing_channel(root, tmp_path):
    fails(root, tmp_path / "data", "take0.wav: channel 1 .*1 channel", channel=1)


@pytest.mark.parametrize(
    "trials, message",
    {
        "bob-1 phone\n": "trials:1: .*target.nontarget",
        "bob-1 phone target\nbob-1 phone yes\n": "trials:2: ",
        "bob-1 alice target\ncarol dave nontarget\nz y target\n": "trials: 5 ids .*: alice, carol, dave, …",
        "bob-1 alice target\n": "trials: 1 ids .*: alice$",
        "": "test/trials: ",
    }.items(),
)
def test_bad_trials(root, tmp_path, trials, message):
    (root / "test" / "trials").write_text(trials)
    fails(root, tmp_path / "data", message)
    assert not (tmp_path / "data" / "test" / "trials").exists()


def test_ambiguous_name_in_trials(root, tmp_path):
    write(root / "test" / "eve" / "phone.wav", noise())
    fails(root, tmp_path / "data", "test/trials: 'phone' .*<speaker>/phone")


def test_corpus_and_data_in_the_same_folder(root):
    before = sorted(root.rglob("*"))
    fails(root, root, f"{root}/train: .*data folder")
    assert sorted(root.rglob("*")) == before


def test_demo_corpus(speech, tmp_path):
    assert prepare_audio_dir(speech, tmp_path) == ["test"]
    assert len(read_map(tmp_path / "train" / "utt2spk")) == 16
    assert (tmp_path / "test" / "trials").read_text() == (speech / "test" / "trials").read_text()
    recordings, supervisions = load(tmp_path, "test")
    assert len(recordings) == len(supervisions) == 16
    assert all(recording.sources[0].source.startswith(str(speech / "test")) for recording in recordings)
