"""make_fbank.sh, make_mfcc.sh, compute_vad_decision.sh and extract_xvectors.sh, called as recipes call them."""

import os
import shutil
import subprocess
import wave
from pathlib import Path

import kaldi_native_io
import numpy as np
import pytest

from sdpn_k2.kaldi.datadir import data_dir, data_dir_ops, validation

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "utils" / "kaldi-bin"


@pytest.fixture
def call(tmp_path):
    def run(name, *arguments):
        return subprocess.run([str(ROOT / name), *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True)

    return run


def succeeds(result):
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def matrices(scp):
    with kaldi_native_io.SequentialFloatMatrixReader(f"scp:{scp}") as reader:
        return {key: np.array(value) for key, value in reader}


def vectors(rspecifier):
    with kaldi_native_io.SequentialFloatVectorReader(str(rspecifier)) as reader:
        return {key: np.array(value) for key, value in reader}


def decisions(scp):
    return vectors(f"scp:{scp}")


def tool(tmp_path, name, *arguments):
    """Call a tool once for all utterances, and return the matrices that it writes."""
    output = tmp_path / f"{name}.expected"
    command = [str(TOOLS / name), *arguments, f"ark,scp:{output}.ark,{output}.scp"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return matrices(f"{output}.scp")


@pytest.fixture
def corpus(tmp_path):
    """Three speakers with 7 utterances each of 0.3 s and more, coloured noise at changing levels."""
    random = np.random.default_rng(5)
    (tmp_path / "audio").mkdir()
    paths = {}
    for index in range(21):
        name = f"s{index // 7}-u{index % 7}"
        paths[name] = str(tmp_path / f"audio/{name}.wav")
        samples = np.convolve(random.normal(size=4800 + 500 * index), [1, 0.9, 0.5])
        samples *= np.where(np.arange(len(samples)) // 1600 % 2, 3000, 30)
        with wave.open(paths[name], "wb") as stream:
            stream.setparams((1, 2, 16000, 0, "NONE", "none"))
            stream.writeframes(np.clip(samples, -32768, 32767).astype("<i2").tobytes())
    data_dir_ops.write_data_dir(tmp_path / "data", paths, {name: name[:2] for name in paths})
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/fbank.conf").write_text("--dither=0  # the same every time\n--num-mel-bins=20\n")
    (tmp_path / "conf/mfcc.conf").write_text("--dither=0\n--frame-shift=12.5\n")
    (tmp_path / "conf/vad.conf").write_text("--vad-energy-threshold=5.5\n--vad-energy-mean-scale=0.5\n")
    return tmp_path / "data"


def num_frames(name, shift=160):
    return 1 + (4800 + 500 * (7 * int(name[1]) + int(name[4])) + 2 - 400) // shift


@pytest.mark.parametrize("nj", [1, 4])
def test_fbank(call, corpus, tmp_path, nj):
    said = succeeds(call("steps/make_fbank.sh", "--nj", nj, "--compress", "false", "data", "exp/log", "feats"))
    assert said.endswith("make_fbank.sh: made fbank features for 21 utterances of data\n")
    features = matrices(corpus / "feats.scp")
    expected = tool(tmp_path, "compute-fbank-feats", "--config=conf/fbank.conf", "scp:data/wav.scp")
    assert list(features) == sorted(expected)
    for name, matrix in features.items():
        assert matrix.shape == (num_frames(name), 20)
        np.testing.assert_array_equal(matrix, expected[name])
    assert data_dir.read_numbers(corpus / "utt2num_frames") == {name: num_frames(name) for name in features}
    durations = {name: (4800 + 500 * index + 2) / 16000 for index, name in enumerate(features)}
    assert data_dir.read_numbers(corpus / "utt2dur") == pytest.approx(durations, abs=1e-4)
    assert (corpus / "frame_shift").read_text() == "0.01\n"
    assert (corpus / "conf/fbank.conf").read_text() == (tmp_path / "conf/fbank.conf").read_text()
    archives = {entry.rpartition(":")[0] for entry in data_dir.read_map(corpus / "feats.scp").values()}
    assert archives == {str(tmp_path / f"feats/raw_fbank_data.{job}.ark") for job in range(1, nj + 1)}
    assert " compute-fbank-feats " in (tmp_path / "exp/log/make_fbank_data.1.log").read_text().splitlines()[0]
    assert validation.validate(corpus, text=False) == 21


def test_compressed_by_default_and_old_features_kept(call, corpus, tmp_path):
    (corpus / "feats.scp").write_text("old\n")
    options = ["--nj", 2, "--write-utt2num-frames", "false", "--write-utt2dur", "false"]
    succeeds(call("steps/make_fbank.sh", *options, "data"))
    assert (corpus / ".backup/feats.scp").read_text() == "old\n"
    assert not (corpus / "utt2num_frames").exists() and not (corpus / "utt2dur").exists()
    expected = tool(tmp_path, "compute-fbank-feats", "--config=conf/fbank.conf", "scp:data/wav.scp")
    features = matrices(corpus / "feats.scp")
    sizes = [path.stat().st_size for path in (corpus / "data").glob("*.ark")]
    assert sum(sizes) < 2 * sum(matrix.size for matrix in expected.values())
    for name, matrix in features.items():
        assert 0 < np.abs(matrix - expected[name]).max() < 0.15


def test_more_jobs_than_utterances(call, corpus, tmp_path):
    data_dir_ops.subset(corpus, tmp_path / "few", ["s0-u0", "s0-u1", "s2-u3"])
    said = succeeds(call("steps/make_fbank.sh", "--nj", 50, "few"))
    assert "make_fbank.sh: running 3 jobs instead of 50" in said
    assert len(list((tmp_path / "few/data").glob("*.ark"))) == 3


def test_mfcc_with_segments(call, corpus, tmp_path):
    segments = {"s0-u0-a": "s0-u0 0.05 0.2", "s0-u0-b": "s0-u0 0.1 -1", "s1-u1-a": "s1-u1 0 0.25"}
    (tmp_path / "cut").mkdir()
    data_dir.write_map(tmp_path / "cut/segments", segments)
    recordings = data_dir.read_map(corpus / "wav.scp")
    data_dir_ops.write_data_dir(
        tmp_path / "cut",
        {name: recordings[name] for name in ("s0-u0", "s1-u1")},
        {name: name[:2] for name in segments},
    )
    succeeds(call("steps/make_mfcc.sh", "--nj", 2, "--compress", "false", "cut"))
    features = matrices(tmp_path / "cut/feats.scp")
    # 25 ms frames every 12.5 ms.
    seconds = {"s0-u0-a": 0.15, "s0-u0-b": 4802 / 16000 - 0.1, "s1-u1-a": 0.25}
    assert {name: len(matrix) for name, matrix in features.items()} == {
        name: int(1 + (16000 * length - 400) // 200) for name, length in seconds.items()
    }
    with wave.open(recordings["s0-u0"]) as stream:
        samples = stream.readframes(4802)[2 * 800 : 2 * 3200]
    with wave.open(str(tmp_path / "piece.wav"), "wb") as stream:
        stream.setparams((1, 2, 16000, 0, "NONE", "none"))
        stream.writeframes(samples)
    (tmp_path / "piece.scp").write_text(f"s0-u0-a {tmp_path}/piece.wav\n")
    expected = tool(tmp_path, "compute-mfcc-feats", "--config=conf/mfcc.conf", "scp:piece.scp")
    np.testing.assert_array_equal(features["s0-u0-a"], expected["s0-u0-a"])
    assert (tmp_path / "cut/frame_shift").read_text() == "0.0125\n"
    assert data_dir.read_numbers(tmp_path / "cut/utt2dur") == pytest.approx(seconds, abs=1e-3)


def test_vocal_tract_length_warps(call, corpus, tmp_path):
    data_dir.write_map(corpus / "spk2warp", {"s0": 1.0, "s1": 0.9, "s2": 1.1})
    succeeds(call("steps/make_fbank.sh", "--nj", 2, "--compress", "false", "data"))
    plain = tool(tmp_path, "compute-fbank-feats", "--config=conf/fbank.conf", "scp:data/wav.scp")
    for name, matrix in matrices(corpus / "feats.scp").items():
        assert np.array_equal(matrix, plain[name]) == name.startswith("s0")


def test_an_unreadable_recording_is_skipped(call, corpus, tmp_path):
    (tmp_path / "audio/s1-u2.wav").write_bytes(b"RIFF....")
    result = call("steps/make_fbank.sh", "--nj", 2, "data", "log")
    assert result.returncode == 0, result.stderr
    assert "1 of 21" in result.stderr and "log/make_fbank_data.*.log" in result.stderr
    assert len(data_dir.read_map(corpus / "feats.scp")) == 20
    succeeds(call("utils/fix_data_dir.sh", "data"))
    assert validation.validate(corpus, text=False) == 20

    for name in ("s0-u0", "s2-u6"):
        (tmp_path / f"audio/{name}.wav").unlink()
    result = call("steps/make_fbank.sh", "--nj", 2, "data", "log")
    assert result.returncode == 1 and result.stderr.endswith("make_fbank.sh: more than 5 % failed\n")


def test_features_continue_after_a_failed_job(call, corpus, tmp_path):
    command = ["steps/make_fbank.sh", "--nj", 3, "--vad-config", "conf/vad.conf", "data", "log", "feats"]
    succeeds(call(*command))
    tables = ("feats.scp", "vad.scp", "utt2num_frames", "utt2dur")
    expected = {name: (corpus / name).read_bytes() for name in tables}
    archives = {path.name: path.read_bytes() for path in (tmp_path / "feats").glob("*.ark")}

    audio = [tmp_path / f"audio/s1-u{index}.wav" for index in range(7)]
    for path in audio:
        path.rename(path.with_suffix(".away"))
    result = call(*command)
    assert result.returncode == 1 and "1 / 3 failed" in result.stderr
    for path in audio:
        path.with_suffix(".away").rename(path)
    said = succeeds(call(*command))
    assert said.endswith("made fbank features for 21 utterances of data\n")
    assert {name: (corpus / name).read_bytes() for name in tables} == expected
    assert {path.name: path.read_bytes() for path in (tmp_path / "feats").glob("*.ark")} == archives

    def skipped():
        """Return the numbers of the jobs that the last call did not run."""
        logs = (tmp_path / "log").glob("make_fbank_data.?.log")
        return sorted(path.name[16] for path in logs if "\ncomplete since" in path.read_text())

    assert skipped() == ["1", "3"]
    # Another call runs them all, also if the one before failed with another option.
    succeeds(call(*command))
    assert skipped() == []
    for path in audio:
        path.rename(path.with_suffix(".away"))
    assert call(*command).returncode == 1
    for path in audio:
        path.with_suffix(".away").rename(path)
    succeeds(call(command[0], "--compress", "false", *command[1:]))
    assert skipped() == []


def test_archives_on_several_disks(call, corpus, tmp_path):
    succeeds(call("utils/create_split_dir.pl", "disk1", "disk2", "feats/storage"))
    succeeds(call("steps/make_fbank.sh", "--nj", 4, "data", "log", "feats"))
    links = list((tmp_path / "feats").glob("*.ark"))
    assert len(links) == 4 and all(link.is_symlink() for link in links)
    assert {link.resolve().parent.name for link in links} == {"disk1", "disk2"}
    assert len(matrices(corpus / "feats.scp")) == 21


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["--fbank-config", "no.conf", "data"], "make_fbank.sh: no.conf: "),
        (["--vad-config", "no.conf", "data"], "make_fbank.sh: no.conf: "),
        (["--vad-config", "conf/vad.conf", "--fbank-config", "conf/energy.conf", "data"], "--use-energy"),
        (["nodata"], "make_fbank.sh: nodata/wav.scp: "),
        ([], "Usage: make_fbank.sh "),
        (["--mfcc-config", "x", "data"], "make_fbank.sh: invalid option --mfcc-config "),
    ],
)
def test_fbank_refuses(call, corpus, tmp_path, arguments, part):
    (tmp_path / "conf/energy.conf").write_text("--use-energy=true\n")
    result = call("steps/make_fbank.sh", *arguments)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1) and part in result.stderr


def test_bad_configuration_fails_with_its_log(call, corpus, tmp_path):
    (tmp_path / "conf/fbank.conf").write_text("--no-such-option=1\n")
    result = call("steps/make_fbank.sh", "--nj", 2, "data", "log")
    assert result.returncode == 1
    assert "run.pl: 2 / 2 failed, log is in log/make_fbank_data.*.log" in result.stderr
    assert not (corpus / "feats.scp").exists()


@pytest.mark.slow
@pytest.mark.parametrize("nj", [1, 3])
@pytest.mark.parametrize("compress", ["true", "false"])
def test_vad_from_the_same_pass_as_fbank(call, corpus, tmp_path, nj, compress):
    """The same features as without VAD, and the decisions of compute_vad_decision.sh on MFCC features."""
    shutil.copytree(corpus, tmp_path / "apart")
    shutil.copytree(corpus, tmp_path / "mfcc")
    options = ["--nj", nj, "--compress", compress]
    said = succeeds(call("steps/make_fbank.sh", *options, "--vad-config", "conf/vad.conf", "data", "log", "feats"))
    assert "made fbank features for 21 utterances" in said
    succeeds(call("steps/make_fbank.sh", *options, "apart"))
    (tmp_path / "conf/mfcc.conf").write_text("--dither=0\n")
    succeeds(call("steps/make_mfcc.sh", *options, "mfcc"))
    succeeds(call("sid/compute_vad_decision.sh", "--nj", 2, "mfcc"))
    for name in ("utt2num_frames", "utt2dur", "frame_shift"):
        assert (corpus / name).read_text() == (tmp_path / "apart" / name).read_text()
    for ours, others, read in (("feats.scp", "apart/feats.scp", matrices), ("vad.scp", "mfcc/vad.scp", decisions)):
        table, expected = read(corpus / ours), read(tmp_path / others)
        assert list(table) == list(expected) and len(table) == 21
        for key, value in table.items():
            np.testing.assert_array_equal(value, expected[key])
    assert validation.validate(corpus, text=False) == 21
    assert not list((tmp_path / "log").glob("energy*"))


def test_vad_from_segments_leaves_out_those_shorter_than_a_frame(call, corpus, tmp_path):
    segments = {f"s0-u{index}-a": f"s0-u{index} 0.05 0.25" for index in range(7)}
    (tmp_path / "cut").mkdir()
    data_dir.write_map(tmp_path / "cut/segments", {**segments, "s0-u0-b": "s0-u0 0.1 0.12"})
    wav = {name: path for name, path in data_dir.read_map(corpus / "wav.scp").items() if name.startswith("s0")}
    data_dir_ops.write_data_dir(tmp_path / "cut", wav, dict.fromkeys([*segments, "s0-u0-b"], "s0"))
    result = call("steps/make_fbank.sh", "--nj", 1, "--vad-config", "conf/vad.conf", "cut")
    assert result.returncode == 1 and "1 of 8" in result.stderr  # more than 5 %
    assert list(decisions(tmp_path / "cut/vad.scp")) == list(segments) == list(matrices(tmp_path / "cut/feats.scp"))


@pytest.mark.parametrize("broken", ["fbank", "vad"])
def test_failure_on_either_side_of_the_pass_fails(call, corpus, tmp_path, broken):
    (tmp_path / f"conf/{broken}.conf").write_text("--no-such-option=1\n")
    options = ["--nj", 2, "--vad-config", "conf/vad.conf"]
    result = call("steps/make_fbank.sh", *options, "data", "log")
    assert result.returncode == 1 and "run.pl: 2 / 2 failed, log is in log/make_fbank_data.*.log" in result.stderr
    assert not (corpus / "feats.scp").exists() and not (corpus / "vad.scp").exists()


def test_fbank_and_vad_equal_kaldis(call, shared, tmp_path):
    golden = shared / "kaldi-golden"
    names = list(data_dir.read_map(golden / "wav.scp"))
    wav = {name: str(golden / path) for name, path in data_dir.read_map(golden / "wav.scp").items()}
    data_dir_ops.write_data_dir(tmp_path / "data", wav, {name: name for name in names})
    (tmp_path / "fbank.conf").write_text("--dither=0\n--num-mel-bins=80\n--sample-frequency=16000\n")
    (tmp_path / "vad.conf").write_text(
        "--vad-energy-threshold=5.5\n--vad-energy-mean-scale=0.5\n"
        "--vad-proportion-threshold=0.12\n--vad-frames-context=2\n"
    )
    options = ["--nj", 3, "--compress", "false", "--fbank-config", "fbank.conf"]
    succeeds(call("steps/make_fbank.sh", *options, "data"))
    with kaldi_native_io.SequentialFloatMatrixReader(f"ark:{golden / 'fbank80.ark'}") as reader:
        expected = {key: np.array(value) for key, value in reader}
    features = matrices(tmp_path / "data/feats.scp")
    assert {key: len(value) for key, value in features.items()} == {key: len(value) for key, value in expected.items()}
    differences = np.concatenate([np.abs(features[key] - expected[key]).ravel() for key in features])
    assert np.median(differences) <= 5e-5

    with kaldi_native_io.SequentialFloatMatrixReader(f"ark:{golden / 'mfcc30.ark'}") as reader:
        with kaldi_native_io.FloatMatrixWriter(f"ark,scp:{tmp_path}/m.ark,{tmp_path}/m.scp") as writer:
            for key, value in reader:
                writer[key] = value
    data_dir.write_map(tmp_path / "data/feats.scp", data_dir.read_map(tmp_path / "m.scp"))
    succeeds(call("sid/compute_vad_decision.sh", "--nj", 3, "--vad-config", "vad.conf", "data", "log", "vad"))
    ours, kaldis = decisions(tmp_path / "data/vad.scp"), vectors(f"ark:{golden / 'vad.txt'}")
    assert list(ours) == sorted(kaldis)
    for key, value in ours.items():
        np.testing.assert_array_equal(value, kaldis[key])


def test_vad(call, corpus, tmp_path):
    succeeds(call("steps/make_mfcc.sh", "--nj", 2, "data"))
    said = succeeds(call("sid/compute_vad_decision.sh", "--nj", 3, "data", "exp/vad", "vad"))
    assert said.endswith("compute_vad_decision.sh: made VAD decisions for 21 utterances of data\n")
    voiced = decisions(corpus / "vad.scp")
    frames = data_dir.read_numbers(corpus / "utt2num_frames")
    assert {name: len(decision) for name, decision in voiced.items()} == frames
    # Loud and quiet tenths of a second alternate.
    assert all(0.2 < decision.mean() < 0.9 for decision in voiced.values())
    assert validation.validate(corpus, text=False) == 21
    assert sorted(path.name for path in (tmp_path / "exp/vad").iterdir())[0] == "vad_data.1.log"
    result = call("sid/compute_vad_decision.sh", "--vad-config", "none.conf", "data")
    assert result.returncode == 1 and result.stderr.startswith("compute_vad_decision.sh: none.conf: ")


# Embeddings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with final.pt, a small untrained model."""
    from tiny_models import write_model

    from sdpn_k2.config import FeaturesConfig

    return write_model(tmp_path_factory.mktemp("model") / "final.pt", FeaturesConfig(num_mel_bins=20)).parent


@pytest.mark.slow
def test_extract_xvectors(call, corpus, model, tmp_path):
    from sdpn_k2.inference.extraction import Extractor

    succeeds(call("steps/make_fbank.sh", "--nj", 2, "--compress", "false", "data"))
    command = ["sid/nnet3/xvector/extract_xvectors.sh", "--cmd", "run.pl --mem 2G", "--cache-capacity", 64]
    said = succeeds(call(*command, "--nj", 2, model, "data", "xvectors"))
    assert said.endswith(f"extract_xvectors.sh: 21 embeddings in {tmp_path}/xvectors/xvector.scp\n")
    embeddings = vectors(f"scp:{tmp_path}/xvectors/xvector.scp")
    features = matrices(corpus / "feats.scp")
    assert list(embeddings) == list(features)
    expected = Extractor.load(model / "final.pt").embed_fbank(list(features.values()))
    np.testing.assert_allclose(np.stack(list(embeddings.values())), expected, rtol=1e-4, atol=1e-5)

    assert (tmp_path / "xvectors/num_utts.ark").read_text().split() == ["s0", "7", "s1", "7", "s2", "7"]
    speakers = vectors(f"scp:{tmp_path}/xvectors/spk_xvector.scp")
    for index, (name, mean) in enumerate(speakers.items()):
        assert name == f"s{index}"
        np.testing.assert_allclose(mean, expected[7 * index : 7 * index + 7].mean(axis=0), rtol=1e-4, atol=1e-5)

    # In chunks of 20 frames; the last stages alone change nothing.
    before = embeddings["s2-u6"]
    chunks = call(*command, "--nj", 1, "--chunk-size", 20, model, "data", "xvectors_chunks")
    succeeds(chunks)
    assert not np.allclose(vectors(f"scp:{tmp_path}/xvectors_chunks/xvector.scp")["s2-u6"], before, rtol=1e-3)
    succeeds(call(*command, "--nj", 2, "--stage", 1, model, "data", "xvectors"))
    np.testing.assert_array_equal(vectors(f"scp:{tmp_path}/xvectors/xvector.scp")["s2-u6"], before)


# In place of sdpn-k2: logs the number of its part and writes an embedding of its frames for each utterance.
FAKE_EXTRACT = r"""#!/usr/bin/env bash
set -euo pipefail
while [ $# -gt 2 ]; do shift; done
echo "${1##*/}" >> calls
[ ! -e "broken${1##*/}" ]
awk '{ print $1, "[", NR, $2, "]" }' "$1/utt2num_frames" | copy-vector ark,t:- "$2"
"""


def test_extraction_continues_after_a_failed_job(call, corpus, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sdpn-k2").write_text(FAKE_EXTRACT)
    (tmp_path / "bin/sdpn-k2").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    (tmp_path / "final.pt").write_text("a model")
    (corpus / "utt2num_frames").write_text(
        "".join(f"{name} {num_frames(name)}\n" for name in data_dir.read_map(corpus / "utt2spk"))
    )
    command = ["sid/nnet3/xvector/extract_xvectors.sh", "--nj", 3, ".", "data"]

    def jobs():
        """Return the numbers of the jobs that ran since the last call."""
        calls = tmp_path / "calls"
        ran = sorted(calls.read_text().split()) if calls.exists() else []
        calls.unlink(missing_ok=True)
        return ran

    (tmp_path / "broken2").touch()
    result = call(*command, "xvectors")
    assert result.returncode == 1 and "1 / 3 failed" in result.stderr
    assert jobs() == ["1", "2", "3"]
    (tmp_path / "broken2").unlink()
    succeeds(call(*command, "xvectors"))
    assert jobs() == ["2"]
    succeeds(call(*command, "xvectors"))
    assert not jobs()
    succeeds(call(*command, "undisturbed"))
    assert jobs() == ["1", "2", "3"]
    expected = vectors(f"scp:{tmp_path}/undisturbed/xvector.scp")
    embeddings = vectors(f"scp:{tmp_path}/xvectors/xvector.scp")
    assert list(embeddings) == list(expected) and len(expected) == 21
    for name in expected:
        np.testing.assert_array_equal(embeddings[name], expected[name])

    # Another option, other data, another model: every job runs again.
    command[1:1] = ["--max-duration", "0.3"]
    succeeds(call(*command, "xvectors"))
    assert jobs() == ["1", "2", "3"]
    (corpus / "wav.scp").touch()
    succeeds(call(*command, "xvectors"))
    assert jobs() == ["1", "2", "3"]
    (tmp_path / "final.pt").write_text("another model")
    succeeds(call(*command, "xvectors"))
    assert jobs() == ["1", "2", "3"]


def test_extract_xvectors_from_speech_frames(call, corpus, model, tmp_path):
    from sdpn_k2.inference.extraction import Extractor

    succeeds(call("steps/make_fbank.sh", "--nj", 2, "--compress", "false", "data"))
    data_dir_ops.subset(corpus, tmp_path / "two", ["s0-u0", "s1-u3"])
    features = matrices(tmp_path / "two/feats.scp")
    keep = {name: np.arange(len(matrix)) % 3 > 0 for name, matrix in features.items()}
    with kaldi_native_io.FloatVectorWriter(f"ark,scp:{tmp_path}/v.ark,{tmp_path}/v.scp") as writer:
        for name, decisions in keep.items():
            writer[name] = decisions.astype(np.float32)
    os.rename(tmp_path / "v.scp", tmp_path / "two/vad.scp")
    command = ["sid/nnet3/xvector/extract_xvectors.sh", "--nj", 9, "--use-vad", "true"]
    succeeds(call(*command, model, "two", "xvectors"))
    expected = Extractor.load(model / "final.pt").embed_fbank([features[name][keep[name]] for name in features])
    embeddings = vectors(f"scp:{tmp_path}/xvectors/xvector.scp")
    np.testing.assert_allclose(np.stack(list(embeddings.values())), expected, rtol=1e-4, atol=1e-5)


def test_extract_xvectors_with_a_network_of_kaldi(call, tmp_path, golden):
    data, network = tmp_path / "my data", tmp_path / "my net"
    network.mkdir()
    for name, text in (("min_chunk_size", "25\n"), ("max_chunk_size", "100\n")):
        (network / name).write_text(text)
    shutil.copy(golden / "nnet3/xvector.raw", network / "final.raw")
    shutil.copy(golden / "nnet3/extract_xvector.config", network / "extract.config")
    data.mkdir()
    with kaldi_native_io.SequentialFloatMatrixReader(f"ark:{golden}/nnet3/feats24.ark") as reader:
        features = {key: np.array(value) for key, value in reader}
    speech = {key: (np.arange(len(value)) % 4 > 0).astype(np.float32) for key, value in features.items()}
    for name, table, writer in (
        ("feats", features, kaldi_native_io.FloatMatrixWriter),
        ("vad", speech, kaldi_native_io.FloatVectorWriter),
    ):
        with writer(f"ark,scp:{tmp_path}/{name}.ark,{data}/{name}.scp") as output:
            for key, value in table.items():
                output[key] = value
    data_dir.write_map(data / "utt2spk", dict.fromkeys(features, "s"))
    data_dir.write_map(data / "spk2utt", {"s": list(features)})
    command = ["sid/nnet3/xvector/extract_xvectors.sh", "--nj", 2]
    succeeds(call(*command, network, data, "x"))

    tool(
        tmp_path,
        "apply-cmvn-sliding",
        "--norm-vars=false",
        "--center=true",
        "--cmn-window=300",
        f"scp:{data}/feats.scp",
    )
    arguments = [f"scp:{tmp_path}/apply-cmvn-sliding.expected.scp", f"scp:{data}/vad.scp"]
    tool(tmp_path, "select-voiced-frames", *arguments)
    output = f"ark,scp:{tmp_path}/v.ark,{tmp_path}/v.scp"
    net = f"nnet3-copy --nnet-config={golden}/nnet3/extract_xvector.config {golden}/nnet3/xvector.raw - |"
    options = ["--min-chunk-size=25", "--chunk-size=100", net, f"scp:{tmp_path}/select-voiced-frames.expected.scp"]
    path = f"{TOOLS}:{os.environ['PATH']}"
    subprocess.run([TOOLS / "nnet3-xvector-compute", *options, output], check=True, env={**os.environ, "PATH": path})
    expected, ours = vectors(f"scp:{tmp_path}/v.scp"), vectors(f"scp:{tmp_path}/x/xvector.scp")
    assert list(ours) == list(expected) == list(features)
    for key in ours:
        np.testing.assert_allclose(ours[key], expected[key], rtol=1e-6)
    mean = vectors(f"scp:{tmp_path}/x/spk_xvector.scp")["s"]
    np.testing.assert_allclose(mean, np.mean(list(expected.values()), axis=0), rtol=1e-4, atol=1e-5)

    result = call(*command, "--chunk-size", 200, network, data, "x")
    assert result.returncode == 1 and "--chunk-size 200 is larger than" in result.stderr
    (network / "min_chunk_size").unlink()
    result = call(*command, network, data, "x")
    assert result.returncode == 1 and f"{network}/min_chunk_size: no such file" in result.stderr


def test_extract_xvectors_refuses(call, corpus, model):
    name = "sid/nnet3/xvector/extract_xvectors.sh"
    result = call(name, "nomodel", "data", "xvectors")
    assert result.returncode == 1 and result.stderr.startswith("extract_xvectors.sh: nomodel/final.pt: ")
    (corpus / "wav.scp").unlink()
    result = call(name, model, "data", "xvectors")
    assert result.returncode == 1 and result.stderr.startswith("extract_xvectors.sh: data/wav.scp: ")
    assert call(name, model, "data").returncode == 1
    assert "Usage: sid/nnet3/xvector/extract_xvectors.sh" in succeeds(call(name, "--help"))


def test_extraction_failure_names_the_log(call, corpus, model):
    # Features of another dimension than the model's.
    (corpus.parent / "conf/fbank.conf").write_text("--dither=0\n--num-mel-bins=21\n")
    succeeds(call("steps/make_fbank.sh", "--nj", 2, "data"))
    result = call("sid/nnet3/xvector/extract_xvectors.sh", "--nj", 1, model, "data", "xvectors")
    assert result.returncode == 1
    assert "run.pl: job failed (code 1), log is in " in result.stderr and "extract.1.log" in result.stderr
    assert "dimensions" in result.stderr
