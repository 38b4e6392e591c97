"""The data directory scripts of utils/ and utils/data/, called as recipes call them."""

import os
import re
import subprocess
import wave
from pathlib import Path

import pytest

from sdpn_k2.kaldi.datadir import data_dir, data_dir_ops, validation

UTILS = Path(__file__).resolve().parents[1] / "utils"


@pytest.fixture
def call(tmp_path):
    def run(name, *arguments):
        return subprocess.run([str(UTILS / name), *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True)

    return run


def said(result):
    """Return the output of a script, which must have succeeded."""
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def keys(path):
    return list(data_dir.read_map(path))


@pytest.fixture
def data(tmp_path):
    """Three speakers with 5, 3 and 2 utterances."""
    names = [f"s{speaker}-u{number}" for speaker, total in ((1, 5), (2, 3), (3, 2)) for number in range(total)]
    data_dir_ops.write_data_dir(
        tmp_path / "data",
        {name: f"/audio/{name}.wav" for name in names},
        {name: name[:2] for name in names},
        {
            "feats.scp": {name: f"/f.ark:{index}" for index, name in enumerate(names)},
            "utt2num_frames": {name: 100 - 7 * index for index, name in enumerate(names)},
        },
    )
    return tmp_path / "data"


def test_validate(call, data):
    assert said(call("validate_data_dir.sh", "--no-text", "data")) == (
        "validate_data_dir.sh: Successfully validated data-directory data (10 utterances)\n"
    )
    result = call("validate_data_dir.sh", "data")
    assert result.returncode == 1 and result.stderr.startswith("validate_data_dir.sh: data/text: ")
    (data / "feats.scp").unlink()
    assert call("validate_data_dir.sh", "--no-text", "data").returncode == 1
    assert call("validate_data_dir.sh", "--no-text", "--no-feats", "--non-print", "data").returncode == 0
    (data / "wav.scp").unlink()
    assert call("validate_data_dir.sh", "--no-text", "--no-feats", "--no-wav", "data").returncode == 0
    data_dir.write_map(data / "utt2spk", {"a": "t", "b": "s"})
    data_dir.write_map(data / "spk2utt", {"t": "a", "s": "b"})
    (data / "utt2num_frames").unlink()
    assert call("validate_data_dir.sh", "--no-text", "--no-feats", "--no-wav", "data").returncode == 1
    assert call("validate_data_dir.sh", "--no-text", "--no-feats", "--no-wav", "--no-spk-sort", "data").returncode == 0


def test_fix(call, data):
    (data / "feats.scp").write_text("s2-u1 /f:2\ns1-u0 /f:1\n")
    assert re.fullmatch("fix_data_dir.sh: .*2 utterances .*10.*data/.backup\n", said(call("fix_data_dir.sh", "data")))
    assert call("validate_data_dir.sh", "--no-text", "data").returncode == 0
    (data / "trials").write_text("s2-u1 x\ns1-u1 y\ns1-u0 z\n")
    (data / "spk2age").write_text("s3 8\ns2 9\n")
    options = ["--utt-extra-files", "trials nosuch", "--spk_extra_files=spk2age"]
    said(call("fix_data_dir.sh", *options, "data"))
    assert (data / "trials").read_text() == "s1-u0 z\ns2-u1 x\n"
    assert (data / "spk2age").read_text() == "s2 9\n"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["data", "4"], "s1-u1 s1-u4 s2-u1 s3-u1"),
        (["--first", "data", "2"], "s1-u0 s1-u1"),
        (["--last", "data", "2"], "s3-u0 s3-u1"),
        (["--shortest", "data", "2"], "s3-u0 s3-u1"),
        (["--per-spk", "data", "2"], "s1-u0 s1-u2 s2-u0 s2-u1 s3-u0 s3-u1"),
        (["--per-spk", "data", "3"], "s1-u0 s1-u1 s1-u2 s2-u0 s2-u1 s2-u2 s3-u0 s3-u1"),
        (["--utt-list", "utterances", "data"], "s1-u3 s2-u0"),
        (["--spk-list", "speakers", "data"], "s1-u0 s1-u1 s1-u2 s1-u3 s1-u4 s3-u0 s3-u1"),
    ],
)
def test_subset(call, data, tmp_path, arguments, expected):
    (tmp_path / "utterances").write_text("s2-u0 x\ns1-u3\n")
    (tmp_path / "speakers").write_text("s3\ns1\n")
    number = len(expected.split())
    report = said(call("subset_data_dir.sh", *arguments, "out"))
    assert re.fullmatch(f"subset_data_dir.sh: out .*{number} utterances .*data\n", report)
    assert " ".join(keys(tmp_path / "out/utt2spk")) == expected
    assert keys(tmp_path / "out/feats.scp") == expected.split()
    assert call("validate_data_dir.sh", "--no-text", "out").returncode == 0


def test_subset_of_whole_speakers(call, data, tmp_path):
    said(call("subset_data_dir.sh", "--speakers", "data", 6, "out"))
    kept = data_dir.read_lists(tmp_path / "out/spk2utt")
    everything = data_dir.read_lists(data / "spk2utt")
    assert all(everything[speaker] == utterances for speaker, utterances in kept.items())
    # The last speaker chosen brings the total to six.
    total = sum(map(len, kept.values()))
    assert total >= 6 and any(total - len(utterances) < 6 for utterances in kept.values())


@pytest.mark.parametrize(
    "arguments, lines",
    [
        (["data", "11", "out"], [".*data.* 10 .* 11"]),
        (["data", "0", "out"], [".*N .*'0'"]),
        (["data", "out"], [".* N .*--help.*"]),
        (["--utt-list", "none", "data", "out"], ["warning: 1 .*none .*data.*'x'", "out: .*"]),
    ],
)
def test_subset_refuses(call, data, tmp_path, arguments, lines):
    (tmp_path / "none").write_text("x\n")
    result = call("subset_data_dir.sh", *arguments)
    assert result.returncode == 1 and not (tmp_path / "out").exists()
    assert re.fullmatch("".join(f"subset_data_dir.sh: {line}\n" for line in lines), result.stderr)


def test_split(call, data):
    assert said(call("split_data.sh", "data", 3)) == ""
    assert [len(keys(data / f"split3/{job}/utt2spk")) for job in (1, 2, 3)] == [5, 3, 2]
    assert said(call("split_data.sh", "--per-utt", "data", 4)) == ""
    assert [len(keys(data / f"split4utt/{job}/feats.scp")) for job in (1, 2, 3, 4)] == [3, 3, 2, 2]
    result = call("split_data.sh", "data", 4)
    assert re.fullmatch("split_data.sh: data/utt2spk .*3 speakers.* 4 parts.*--per-utt\n", result.stderr)


def test_copy_and_combine(call, data, tmp_path):
    # A suffix that begins with a dash is the usual one.
    report = said(call("copy_data_dir.sh", "--utt-suffix", "-noise", "data", "noise"))
    assert re.fullmatch("copy_data_dir.sh: .*10 utterances .*data .*noise\n", report)
    assert keys(tmp_path / "noise/utt2spk")[0] == "s1-u0-noise"
    result = call("combine_data.sh", "--extra-files", "utt2num_frames", "both", "data", "noise")
    assert re.fullmatch("combine_data.sh: .*20 utterances\n", said(result))
    assert call("validate_data_dir.sh", "--no-text", "both").returncode == 0
    # Speaker prefixes without utterance prefixes are not in order any more.
    options = ["--spk-prefix", "x", "--validate-opts", "--no-spk-sort"]
    assert said(call("copy_data_dir.sh", *options, "data", "renamed")) != ""
    assert call("copy_data_dir.sh", "--validate-opts", "--no-such", "data", "renamed").returncode == 1
    (tmp_path / "noise/feats.scp").write_text("s1-u0-noise /f:1\n")
    said(call("combine_data.sh", "both", "data", "noise"))
    assert len(keys(tmp_path / "both/utt2spk")) == 11
    said(call("combine_data.sh", "--skip_fix", "true", "both", "data", "noise"))
    assert len(keys(tmp_path / "both/utt2spk")) == 20


def test_subsegment(call, data, tmp_path):
    (tmp_path / "cuts").write_text("s1-u0-a s1-u0 0 0.5\ns1-u0-b s1-u0 0.5 0.9\n")
    (tmp_path / "words").write_text("s1-u0-a one\ns1-u0-b two\n")
    report = said(call("data/subsegment_data_dir.sh", "data", "cuts", "words", "out"))
    assert re.fullmatch("subsegment_data_dir.sh: out .*2 .*data\n", report)
    assert call("validate_data_dir.sh", "out").returncode == 0
    assert data_dir.read_map(tmp_path / "out/feats.scp")["s1-u0-b"] == "/f.ark:0[50:89]"
    data_dir.write_map(data / "vad.scp", dict.fromkeys(keys(data / "utt2spk"), "/v.ark:7"))
    data_dir.write_map(data / "utt2uniq", dict.fromkeys(keys(data / "utt2spk"), "x"))
    options = ["--segment-end-padding", "0.015", "--cmd", "run.pl", "--nj", "4"]
    said(call("data/subsegment_data_dir.sh", *options, "data", "cuts", "out"))
    assert data_dir.read_map(tmp_path / "out/segments")["s1-u0-b"] == "s1-u0 0.500 0.915"
    assert data_dir.read_map(tmp_path / "out/vad.scp")["s1-u0-b"] == "/v.ark:7[50:89]"
    assert data_dir.read_map(tmp_path / "out/utt2uniq") == {"s1-u0-a": "x", "s1-u0-b": "x"}
    result = call("data/subsegment_data_dir.sh", "--segment-end-padding", "x", "data", "cuts", "out")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)


def test_scripts_also_lie_in_utils_data():
    for name in ("combine_data", "copy_data_dir", "fix_data_dir", "split_data", "subset_data_dir", "validate_data_dir"):
        assert (UTILS / f"data/{name}.sh").resolve() == UTILS / f"{name}.sh"


# Durations and lengths


@pytest.fixture
def audio(tmp_path):
    """Five recordings of 0.5, 0.6 … 0.9 s."""
    (tmp_path / "audio").mkdir()
    paths = {}
    for index in range(5):
        paths[f"s{index}"] = str(tmp_path / f"audio/{index}.wav")
        with wave.open(paths[f"s{index}"], "wb") as stream:
            stream.setparams((1, 2, 16000, 0, "NONE", "none"))
            stream.writeframes(bytes(2 * (8000 + 1600 * index)))
    data_dir_ops.write_data_dir(tmp_path / "rec", paths, {name: name for name in paths})
    return tmp_path / "rec"


DURATIONS = {f"s{index}": 0.5 + 0.1 * index for index in range(5)}


@pytest.mark.parametrize("options", [["--nj", "2"], ["--nj", "20"], ["--read-entire-file", "true"]])
def test_durations_from_audio(call, audio, options):
    assert re.search("rec/utt2dur .*5 utterances", said(call("data/get_utt2dur.sh", *options, "rec")))
    for name in ("utt2dur", "reco2dur"):
        assert data_dir.read_numbers(audio / name) == pytest.approx(DURATIONS)
    before = (audio / "utt2dur").stat().st_mtime_ns
    assert "rec/utt2dur" in said(call("data/get_utt2dur.sh", *options, "rec"))
    assert "rec/reco2dur" in said(call("data/get_reco2dur.sh", "--frame-shift", "0.01", *options, "rec"))
    assert (audio / "utt2dur").stat().st_mtime_ns == before
    assert validation.validate(audio, feats=False, text=False) == 5


def test_frames_from_durations(call, audio):
    said(call("data/get_utt2num_frames.sh", "rec"))
    # Frames of 25 ms every 10 ms.
    assert data_dir.read_numbers(audio / "utt2num_frames") == {f"s{index}": 48 + 10 * index for index in range(5)}


def test_durations_from_segments(call, audio):
    data_dir.write_map(audio / "utt2spk", {"s0-a": "s0", "s0-b": "s0", "s1-a": "s1"})
    data_dir.write_map(audio / "segments", {"s0-a": "s0 0.1 0.25", "s0-b": "s0 0.3 -1", "s1-a": "s1 0 0.5"})
    said(call("data/get_utt2dur.sh", "rec"))
    assert data_dir.read_numbers(audio / "utt2dur") == pytest.approx({"s0-a": 0.15, "s0-b": 0.2, "s1-a": 0.5})


def test_lengths_from_features(call, data, tmp_path):
    frames = {name: 90 + index for index, name in enumerate(keys(data / "utt2spk"))}
    archive = "".join(f"{name}  [\n" + "  1 2\n" * number + " ]\n" for name, number in frames.items())
    (tmp_path / "f.txt").write_text(archive)
    for name in ("wav.scp", "utt2num_frames", "feats.scp"):
        (data / name).unlink()
    offsets = {name: archive.index(f"{name}  [") + len(name) + 1 for name in frames}
    data_dir.write_map(data / "feats.scp", {name: f"{tmp_path}/f.txt:{offset}" for name, offset in offsets.items()})
    (data / "frame_shift").write_text("0.0125\n")
    said(call("data/get_utt2dur.sh", "--nj", 3, "--frame-shift", 0.1, "data"))  # the file counts for more, as in Kaldi
    assert data_dir.read_numbers(data / "utt2num_frames") == frames
    expected = {name: 0.0125 * (number + 1.5) for name, number in frames.items()}
    assert data_dir.read_numbers(data / "utt2dur") == pytest.approx(expected, abs=1e-5)
    for name in ("utt2dur", "frame_shift"):
        (data / name).unlink()
    said(call("data/get_utt2dur.sh", "--frame-shift", 0.1, "data"))
    assert (data / "utt2dur").read_text().startswith("s1-u0 9.15\ns1-u1 9.25\n")


def test_durations_from_frames_come_before_audio(call, audio):
    (audio / "frame_shift").write_text("0.01\n")
    data_dir.write_map(audio / "utt2num_frames", {f"s{index}": 48 + 10 * index for index in range(5)})
    (audio.parent / "audio/3.wav").unlink()
    said(call("data/get_utt2dur.sh", "rec"))
    assert (audio / "utt2dur").read_text() == "s0 0.495\ns1 0.595\ns2 0.695\ns3 0.795\ns4 0.895\n"


def test_few_durations_are_a_failure(call, audio):
    for index in (1, 3, 4):
        (audio.parent / f"audio/{index}.wav").unlink()
    result = call("data/get_utt2dur.sh", "--nj", 1, "rec")
    assert result.returncode == 1 and "less than half" in result.stderr


def test_unreadable_recordings_are_counted(call, audio):
    (audio.parent / "audio/3.wav").write_bytes(b"no wave file")
    result = call("data/get_reco2dur.sh", "--nj", 1, "rec")
    assert re.search(r"warning: 1 of 5 recordings .* rec/log/get_reco2dur\.\*\.log", said(result))
    assert keys(audio / "reco2dur") == ["s0", "s1", "s2", "s4"]


@pytest.mark.parametrize("name", ["get_utt2dur.sh", "get_reco2dur.sh", "get_utt2num_frames.sh"])
def test_nothing_to_measure(call, tmp_path, name):
    (tmp_path / "empty").mkdir()
    result = call(f"data/{name}", "empty")
    assert result.returncode == 1 and "empty/" in result.stderr
    assert call(f"data/{name}").returncode == 1
    (tmp_path / "empty/utt2spk").write_text("a a\n")
    assert call(f"data/{name}", "empty").returncode == 1


SCRIPTS = [
    "combine_data.sh", "copy_data_dir.sh", "data/get_reco2dur.sh", "data/get_utt2dur.sh", "data/get_utt2num_frames.sh",
    "data/subsegment_data_dir.sh", "data/get_segments_for_data.sh", "data/get_frame_shift.sh",
    "data/extract_wav_segments_data_dir.sh", "data/perturb_data_dir_volume.sh", "data/get_uniform_subsegments.py",
    "perturb_data_dir_speed.sh", "segmentation.pl", "fix_data_dir.sh", "split_data.sh",
    "subset_data_dir.sh", "validate_data_dir.sh",
]  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_usage_and_an_example(call, name):
    text = said(call(name, "--help"))
    assert f"Usage: utils/{name}" in text and text.count(os.path.basename(name)) >= 2
