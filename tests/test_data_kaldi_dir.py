"""Existing Kaldi data directories: pipes, segments, rates and bad input."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from lhotse import MonoCut, RecordingSet, SupervisionSet, validate_recordings_and_supervisions

from sdpn_k2.cli.prepare import prepare
from sdpn_k2.data.corpora.kaldi_dir import prepare_kaldi_dirs
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import read_map, read_segments
from sdpn_k2.kaldi.datadir.data_dir_ops import write_data_dir
from sdpn_k2.kaldi.datadir.validation import validate


def audio(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * 16000))


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Write train with segments, a file, a pipe and a stereo file at another rate, and test without segments."""
    for index in range(3):
        soundfile.write(tmp_path / f"rec{index}.wav", audio(seed=index), 16000)
    soundfile.write(tmp_path / "rec3.flac", np.stack([audio(3, 3), audio(3, 4)], 1)[: 3 * 8000], 8000)
    write_data_dir(
        tmp_path / "in" / "train",
        wav={
            "rec0": f"{tmp_path}/rec0.wav",
            "rec1": f"cat {tmp_path}/rec1.wav |",
            "rec3": f"{tmp_path}/rec3.flac",
        },
        utt2spk={"ann-1": "ann", "ann-2": "ann", "bob-1": "bob", "cy-1": "cy"},
        tables={
            "segments": {
                "ann-1": ("rec0", 0, 0.8),
                "ann-2": ("rec0", 1.2345, -1),
                "bob-1": ("rec1", 0.5, 99),
                "cy-1": ("rec3", 1, 2.5),
            }
        },
    )
    write_data_dir(
        tmp_path / "in" / "test",
        wav={"dan-1": f"{tmp_path}/rec1.wav", "eve-1": f"{tmp_path}/rec2.wav"},
        utt2spk={"dan-1": "dan", "eve-1": "eve"},
    )
    (tmp_path / "in" / "test" / "trials_all").write_text("dan-1 eve-1 nontarget\n")
    return tmp_path / "in"


def load(data: Path, name: str):
    return (
        RecordingSet.from_file(data / "manifests" / f"recordings_{name}.jsonl.gz").to_eager(),
        SupervisionSet.from_file(data / "manifests" / f"supervisions_{name}.jsonl.gz").to_eager(),
    )


def test_segments_pipes_and_rates(corpus, tmp_path):
    data = tmp_path / "data"
    assert prepare_kaldi_dirs(corpus / "train", {"test": corpus / "test"}, data) == ["test"]
    for name in ("train", "test"):
        validate(data / name, feats=False, text=False)
        validate_recordings_and_supervisions(*load(data, name), read_data=True)
    assert (data / "eval_sets").read_text() == "test\n"
    assert (data / "test" / "trials_all").read_text() == "dan-1 eve-1 nontarget\n"
    assert not (data / "test" / "segments").exists()
    # Segments end with their recordings.
    assert read_segments(data / "train" / "segments")["ann-2"] == ("rec0", 1.2345, 2.0)
    assert read_segments(data / "train" / "segments")["bob-1"] == ("rec1", 0.5, 2.0)
    assert read_map(data / "train" / "wav.scp")["rec1"] == f"cat {tmp_path}/rec1.wav |"

    recordings, supervisions = load(data, "train")
    assert {supervision.id: supervision.speaker for supervision in supervisions} == {
        "ann-1": "ann", "ann-2": "ann", "bob-1": "bob", "cy-1": "cy"
    }  # fmt: skip
    assert all(recording.sampling_rate == 16000 for recording in recordings)
    for name, source, start in (("ann-2", 0, 1.2345), ("bob-1", 1, 0.5)):
        supervision = supervisions[name]
        cut = MonoCut(name, supervision.start, supervision.duration, 0, recording=recordings[supervision.recording_id])
        np.testing.assert_allclose(cut.load_audio()[0], audio(seed=source)[round(start * 16000) :], atol=1 / 32768)
    assert supervisions["cy-1"].duration == 1.5


def test_command_at_another_rate_is_converted_in_the_pipe(corpus, tmp_path):
    shutil.rmtree(corpus / "train")
    soundfile.write(tmp_path / "eight.wav", audio(1.0), 8000)
    write_data_dir(corpus / "train", {"ann-1": f"cat {tmp_path}/eight.wav |"}, {"ann-1": "ann"})
    prepare_kaldi_dirs(corpus / "train", {}, tmp_path / "data")
    command = read_map(tmp_path / "data" / "train" / "wav.scp")["ann-1"]
    output = subprocess.run(command.rstrip("|"), shell=True, stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / "out.wav").write_bytes(output)
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.frames, info.subtype) == (16000, 32000, "PCM_16")
    assert load(tmp_path / "data", "train")[0]["ann-1"].num_samples == 32000


def test_command_line(corpus, tmp_path):
    options = ["--eval-dir", str(corpus / "test"), "--noise-dir", str(tmp_path), "--nj", "1"]
    result = CliRunner().invoke(prepare, ["kaldi-dir", str(corpus / "train"), str(tmp_path / "data"), *options])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "data" / "eval_sets").read_text() == "test\n"
    assert len(RecordingSet.from_file(tmp_path / "data/manifests/recordings_noise.jsonl.gz")) == 4
    twice = ["--eval-dir", str(corpus / "test"), "--eval-dir", str(tmp_path / "other" / "test")]
    result = CliRunner().invoke(prepare, ["kaldi-dir", str(corpus / "train"), str(tmp_path / "data"), *twice])
    assert result.exit_code == 2 and "different names" in result.output


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_missing_files_and_failing_pipes_in_wav_scp(corpus, tmp_path, caplog):
    data = tmp_path / "data"
    replace(corpus / "train" / "wav.scp", "rec0.wav", "gone.wav")
    with pytest.raises(InputError, match="train: 1 of 3 .*'rec0': .*gone.wav"):
        prepare_kaldi_dirs(corpus / "train", {"test": corpus / "test"}, data)
    replace(corpus / "train" / "wav.scp", "cat ", "cat --no-such-option ")
    prepare_kaldi_dirs(corpus / "train", {"test": corpus / "test"}, data, max_bad=70)
    assert read_map(data / "train" / "utt2spk") == {"cy-1": "cy"}
    assert list(read_map(data / "train" / "wav.scp")) == ["rec3"]
    skipped = read_map(data / "manifests" / "skipped_train")
    assert list(skipped) == ["ann-1", "ann-2", "bob-1"] and "command failed with status 1" in skipped["bob-1"]
    assert "train: skipped 2 of 3 audio files" in caplog.messages


@pytest.mark.parametrize(
    "segment, reason",
    [
        ("2.5 2.8", "0 s from 2.5 s of recording 'rec0', which lasts 2 s; at least 0.065 s"),
        ("0.5 0.56", "0.06 s from 0.5 s of recording 'rec0'"),
    ],
)
def test_segments_beyond_their_recording_or_too_short(corpus, tmp_path, caplog, segment, reason):
    replace(corpus / "train" / "segments", "ann-1 rec0 0 0.8", f"ann-1 rec0 {segment}")
    prepare_kaldi_dirs(corpus / "train", {}, tmp_path / "data")
    assert "ann-1" not in read_map(tmp_path / "data" / "train" / "utt2spk")
    assert any("'ann-1'" in message and reason in message for message in caplog.messages)
    assert reason in read_map(tmp_path / "data" / "manifests" / "skipped_train")["ann-1"]


@pytest.mark.parametrize(
    "file, old, new, message",
    [
        ("utt2spk", "ann-1 ann\n", "", "segments: .*'ann-1' .*/utt2spk"),
        ("utt2spk", "cy-1 cy\n", "cy-1 cy\ncy-2 cy\n", "utt2spk: .*'cy-2' .*/segments"),
        ("utt2spk", "cy-1 cy\n", "cy-1 cy\ncy-1 cy\n", "utt2spk:5: .*'cy-1'"),
        ("segments", "rec1", "rec9", "segments:3: .*'rec9' .*wav.scp"),
        ("segments", "0.8", "zero", "segments:1: .*'ann-1'.*'zero'"),
        ("segments", "0.5 99", "0.5 0.2", "segments:3: .*'bob-1' .*0.5 .*0.2"),
        ("wav.scp", "rec0 ", "rec1 ", "wav.scp:2: .*'rec1'"),
    ],
)
def test_inconsistent_tables(corpus, tmp_path, file, old, new, message):
    replace(corpus / "train" / file, old, new)
    with pytest.raises(InputError, match=message):
        prepare_kaldi_dirs(corpus / "train", {"test": corpus / "test"}, tmp_path / "data")
    assert not (tmp_path / "data" / "eval_sets").exists()


def test_missing_pieces(corpus, tmp_path):
    data = tmp_path / "data"
    with pytest.raises(InputError, match="nowhere/wav.scp: "):
        prepare_kaldi_dirs(tmp_path / "nowhere", {}, data)
    with pytest.raises(InputError, match="train: .*trials_<name>"):
        prepare_kaldi_dirs(corpus / "train", {"dev": corpus / "train"}, data)
    with pytest.raises(InputError, match="test: .* train"):
        prepare_kaldi_dirs(corpus / "train", {"train": corpus / "test"}, data)
    with pytest.raises(InputError, match="in/train: .*data folder"):
        prepare_kaldi_dirs(corpus / "train", {"test": corpus / "test"}, corpus)
    assert (corpus / "train" / "segments").exists()
    (corpus / "test" / "trials_all").write_text("dan-1 fay-1 target\n")
    with pytest.raises(InputError, match="trials_all: 1 ids .*: fay-1"):
        prepare_kaldi_dirs(corpus / "train", {"test": corpus / "test"}, data)
