"""Scripts that change audio or where it comes from: speed, volume, segments as files; and measures of features."""

import os
import subprocess
import sys
import wave
from pathlib import Path

import kaldi_native_io
import numpy as np
import pytest
from kaldi_support import DROP_INS, load

from sdpn_k2.kaldi.datadir import data_dir, data_dir_ops, perturbation, validation

ROOT = Path(__file__).resolve().parents[1]
RATE = 8000


@pytest.fixture
def call(tmp_path):
    """Run a script with only our tools and the system's on PATH."""
    path = os.pathsep.join([str(DROP_INS), str(Path(sys.executable).parent), "/usr/bin", "/bin"])

    def run(name, *arguments):
        return subprocess.run(
            [ROOT / name, *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path, "LC_ALL": "C"},
        )

    return run


def said(result):
    assert result.returncode == 0, result.stderr
    return result.stdout


def tone(frequency, seconds, rate=RATE):
    return np.rint(8000 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.int16)


@pytest.fixture
def data(tmp_path):
    """Two speakers; recordings of 1, 1.5 and 2 s: a file, an entry of an archive, and a command."""
    names = ["a-1", "a-2", "b-1"]
    for number, name in enumerate(names):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as stream:
            stream.setparams((1, 2, RATE, 0, "NONE", "none"))
            stream.writeframes(tone(500, 1 + number / 2).tobytes())
    (tmp_path / "w.ark").write_bytes(b"a-2 " + (tmp_path / "a-2.wav").read_bytes())
    entries = {"a-1": f"{tmp_path}/a-1.wav", "a-2": f"{tmp_path}/w.ark:4", "b-1": f"cat {tmp_path}/b-1.wav |"}
    data_dir_ops.write_data_dir(
        tmp_path / "data", entries, {name: name[0] for name in names}, {"spk2gender": {"a": "f", "b": "m"}}
    )
    return tmp_path / "data"


def read_audio(folder):
    """Read wav.scp with our tools on PATH, through Kaldi's own reader."""
    script = (
        "import sys, kaldi_native_io as k, numpy as np\n"
        "with k.SequentialWaveReader('scp:' + sys.argv[1]) as reader:\n"
        "    np.savez(sys.argv[2], **{key: wave.data.numpy()[0].copy() for key, wave in reader})\n"
    )
    path = os.pathsep.join([str(DROP_INS), os.environ["PATH"]])
    output = folder.parent / "audio.npz"
    subprocess.run(
        [sys.executable, "-c", script, folder / "wav.scp", output], env={**os.environ, "PATH": path}, check=True
    )
    return dict(np.load(output))


def test_speed(call, data, tmp_path):
    report = said(call("utils/perturb_data_dir_speed.sh", "0.8", "data", "slow"))
    assert report.startswith("perturb_data_dir_speed.sh: generated speed-perturbed version of data in data, in slow\n")
    slow = tmp_path / "slow"
    # Kaldi's commands, ids and numbers, byte for byte.
    assert (slow / "wav.scp").read_text() == (
        f"sp0.8-a-1 sox -t wav {tmp_path}/a-1.wav -t wav - speed 0.8 |\n"
        f"sp0.8-a-2 wav-copy {tmp_path}/w.ark:4 - | sox -t wav - -t wav - speed 0.8 |\n"
        f"sp0.8-b-1 cat {tmp_path}/b-1.wav | sox -t wav - -t wav - speed 0.8 |\n"
    )
    assert (slow / "utt2uniq").read_text() == "sp0.8-a-1 a-1\nsp0.8-a-2 a-2\nsp0.8-b-1 b-1\n"
    assert (slow / "utt2spk").read_text() == "sp0.8-a-1 sp0.8-a\nsp0.8-a-2 sp0.8-a\nsp0.8-b-1 sp0.8-b\n"
    assert (slow / "utt2dur").read_text() == "sp0.8-a-1 1.25\nsp0.8-a-2 1.875\nsp0.8-b-1 2.5\n"
    assert (slow / "reco2dur").read_text() == (slow / "utt2dur").read_text()
    assert (slow / "spk2gender").read_text() == "sp0.8-a f\nsp0.8-b m\n"
    assert not (slow / "feats.scp").exists()
    # A tone of 500 Hz becomes one of 400 Hz; the ends, where the filter sees silence, are left out.
    for name, samples in read_audio(slow).items():
        seconds = data_dir.read_numbers(slow / "utt2dur")[name]
        assert len(samples) == seconds * RATE
        expected = tone(400, seconds)
        np.testing.assert_allclose(samples[100:-100], expected[100:-100], atol=40)


def test_speed_with_segments_and_old_names(call, data, tmp_path):
    data_dir.write_map(data / "segments", {"a-1": "a-1 0.1 0.6", "a-2": "a-2 0.5 -1", "b-1": "b-1 1 1.005"})
    data_dir.write_map(data / "utt2uniq", {"a-1": "x", "a-2": "y", "b-1": "z"})
    said(call("utils/data/perturb_data_dir_speed.sh", "--include-spk-prefix", "false", "1.1", "data", "fast"))
    fast = tmp_path / "fast"
    # The last segment would be shorter than 0.01 s.
    assert (fast / "segments").read_text() == "sp1.1-a-1 a-1 0.09 0.55\nsp1.1-a-2 a-2 0.45 -1\n"
    assert (fast / "utt2spk").read_text() == "sp1.1-a-1 a\nsp1.1-a-2 a\n"
    assert (fast / "utt2uniq").read_text() == "sp1.1-a-1 x\nsp1.1-a-2 y\n"
    assert list(data_dir.read_map(fast / "wav.scp")) == ["a-1", "a-2"]
    assert data_dir.read_map(fast / "reco2dur") == {"a-1": "0.909091", "a-2": "1.36364"}


@pytest.mark.parametrize("factor", ["0", "-1", "x", "nan"])
def test_speed_refuses(call, data, tmp_path, factor):
    result = (
        call("utils/perturb_data_dir_speed.sh", "--", factor, "data", "out")
        if factor == "-1"
        else call("utils/perturb_data_dir_speed.sh", factor, "data", "out")
    )
    assert result.returncode == 1 and not (tmp_path / "out").exists()
    assert call("utils/perturb_data_dir_speed.sh", "0.9", "data", "./data").returncode == 1


def test_volume(call, data, tmp_path):
    before = read_audio(data)
    data_dir.write_map(data / "feats.scp", dict.fromkeys(before, "f.ark:1"))
    said(call("utils/data/perturb_data_dir_volume.sh", "--write-reco2vol", "volumes", "data"))
    # random.seed(0); random.uniform(0.125, 2): the numbers of Kaldi's script.
    volumes = {"a-1": 1.7082909716094652, "a-2": 1.546164505513067, "b-1": 0.9135717140578343}
    assert data_dir.read_numbers(tmp_path / "volumes") == volumes
    assert (data / "wav.scp").read_text() == (
        f"a-1 sox --vol 1.7082909716094652 -t wav {tmp_path}/a-1.wav -t wav - |\n"
        f"a-2 wav-copy {tmp_path}/w.ark:4 - | sox --vol 1.546164505513067 -t wav - -t wav - |\n"
        f"b-1 cat {tmp_path}/b-1.wav | sox --vol 0.9135717140578343 -t wav - -t wav - |\n"
    )
    assert (data / ".backup/feats.scp").exists() and not (data / "feats.scp").exists()
    for name, samples in read_audio(data).items():
        np.testing.assert_allclose(samples, before[name] * volumes[name], atol=0.51)
    line = (data / "wav.scp").read_text()
    assert "already volume perturbed" in said(call("utils/data/perturb_data_dir_volume.sh", "data"))
    assert (data / "wav.scp").read_text() == line


def test_given_volumes(call, data, tmp_path):
    (tmp_path / "volumes").write_text("a-1 0.5\na-2 1\n")
    result = call("utils/data/perturb_data_dir_volume.sh", "--reco2vol", "volumes", "data")
    assert result.returncode == 1 and "'b-1'" in result.stderr
    (tmp_path / "volumes").write_text("a-1 0.5\na-2 1\nb-1 9\n")
    said(call("utils/data/perturb_data_dir_volume.sh", "--reco2vol", "volumes", "data"))
    audio = read_audio(data)
    assert audio["a-1"].max() == 4000 and audio["b-1"].max() == 32767  # clipped


@pytest.mark.parametrize("entry", ["/x y/a.wav", "sox a.flac -t wav - |", "/x/it's.wav"])
def test_entries_reach_the_shell_as_they_are(entry):
    made = perturbation.through_sox(entry, effect="speed 0.9")
    if entry.endswith("|"):
        assert made == "sox a.flac -t wav - | sox -t wav - -t wav - speed 0.9 |"
        return
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {made[:-1]}"], capture_output=True, text=True).stdout
    assert words.splitlines()[3] == entry


@pytest.mark.parametrize(
    "arguments", ["a.mp3", "a.wav b.wav rate 8k", "-t mp3 a -t wav -", "a.wav - speed 0", "--x a b"]
)
def test_stand_in_for_sox_refuses_the_rest(data, tmp_path, arguments):
    result = subprocess.run(
        [sys.executable, DROP_INS / "sox", *arguments.replace("a.wav", f"{tmp_path}/a-1.wav").split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 1 and result.stderr.count("ERROR") == 1 and "Traceback" not in result.stderr


def test_segments_as_recordings(call, data, tmp_path):
    data_dir.write_map(data / "utt2spk", {"a-1": "a", "a-2": "a", "b-1": "b", "b-2": "b"})
    data_dir.write_map(data / "spk2utt", {"a": "a-1 a-2", "b": "b-1 b-2"})
    segments = {"a-1": "a-1 0.25 0.75", "a-2": "a-1 0.5 1", "b-1": "b-1 0 -1", "b-2": "a-2 1.45 1.5"}
    data_dir.write_map(data / "segments", segments)
    result = call("utils/data/extract_wav_segments_data_dir.sh", "--nj", 2, "data", "cut")
    assert "kept 3 utterances out of 4" in said(result)  # the last lasts 0.05 s
    assert data_dir.read_map(tmp_path / "cut/wav.scp") == {
        "a-1": "wav-copy cut/data/wav_segments.1.ark:4 - |",
        "a-2": f"wav-copy cut/data/wav_segments.1.ark:{4 + 44 + RATE + 4} - |",
        "b-1": "wav-copy cut/data/wav_segments.2.ark:4 - |",
    }
    assert validation.validate(tmp_path / "cut", feats=False, text=False) == 3
    assert not (tmp_path / "cut/segments").exists()
    with kaldi_native_io.SequentialWaveReader(f"ark:{tmp_path}/cut/data/wav_segments.1.ark") as reader:
        audio = {key: each.data.numpy()[0].copy() for key, each in reader}
    np.testing.assert_array_equal(audio["a-1"], tone(500, 1)[RATE // 4 : 3 * RATE // 4])
    np.testing.assert_array_equal(audio["a-2"], tone(500, 1)[RATE // 2 :])


def test_segments_for_data(call, data):
    assert said(call("utils/data/get_segments_for_data.sh", "data")) == "a-1 a-1 0 1\na-2 a-2 0 1.5\nb-1 b-1 0 2\n"


def with_features(data, frames, shift):
    """Give the directory text features of 2 dimensions and utt2dur."""
    rng = np.random.default_rng(0)
    table = {name: rng.standard_normal((number, 2)) for name, number in frames.items()}
    text = ""
    offsets = {}
    for name, values in table.items():
        text += f"{name} "
        offsets[name] = f"{data}/f.txt:{len(text)}"
        text += " [\n" + "".join(f"  {row[0]:.9g} {row[1]:.9g}\n" for row in values) + " ]\n"
    (data / "f.txt").write_text(text)
    data_dir.write_map(data / "feats.scp", offsets)
    data_dir.write_map(data / "utt2dur", {name: (number + 1.5) * shift for name, number in frames.items()})
    return table


def test_frame_shift(call, data):
    with_features(data, {"a-1": 98, "a-2": 148, "b-1": 198}, 0.01)
    assert said(call("utils/data/get_frame_shift.sh", "data")) == "0.01\n"  # 0.0101 counts as 0.01
    with_features(data, {"a-1": 98, "a-2": 148, "b-1": 198}, 0.02)
    expected = 0.02 * (98 + 148 + 198 + 4.5) / (98 + 148 + 198)
    assert said(call("utils/data/get_frame_shift.sh", "data")) == f"{expected:.6g}\n"
    (data / "frame_shift").write_text("0.0125\n")
    assert said(call("utils/data/get_frame_shift.sh", "data")) == "0.0125\n"
    for name in ("frame_shift", "feats.scp"):
        (data / name).unlink()
    assert call("utils/data/get_frame_shift.sh", "data").returncode == 1


def test_cmvn_statistics_of_speakers(call, data, tmp_path):
    table = with_features(data, {"a-1": 9, "a-2": 11, "b-1": 5}, 0.01)
    assert (
        said(call("steps/compute_cmvn_stats.sh", "data", "log", "cmvn")) == "Succeeded creating CMVN stats for data\n"
    )
    stats = load(data / "cmvn.scp")
    frames = {"a": np.concatenate([table["a-1"], table["a-2"]]), "b": table["b-1"]}
    for speaker, values in frames.items():
        expected = [[*values.sum(0), len(values)], [*(values**2).sum(0), 0]]
        np.testing.assert_allclose(stats[speaker], expected, rtol=1e-6)
    assert validation.validate(data, text=False) == 3
    # Statistics of mean 0 and variance 1.
    said(call("steps/compute_cmvn_stats.sh", "--fake", "data"))
    np.testing.assert_array_equal(load(data / "cmvn.scp")["b"], [[0, 0, 1], [1, 1, 0]])
    assert (tmp_path / "data/data/cmvn_data.ark").exists()
    for arguments in (["--two-channel", "data"], ["nosuch"], []):
        assert call("steps/compute_cmvn_stats.sh", *arguments).returncode == 1
