"""Sliding windows over pipes and files: embeddings equal those of the pieces, and memory does not grow."""

import re
import subprocess
import sys
import tracemalloc

import kaldiio
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from tiny_models import write_data, write_model

from sdpn_k2.cli import cli
from sdpn_k2.errors import InputError
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.inference.streaming import embed_stream, sliding_windows
from sdpn_k2.kaldi.datadir.subsegments import Windowing
from sdpn_k2.kaldi.datadir.utterances import read_utterances
from sdpn_k2.kaldi.formats.tables import read_table
from sdpn_k2.pcm import to_int16


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "final.pt", embedding_dim=6)


@pytest.fixture(scope="module")
def samples(speech, tmp_path_factory):
    """7.31 s of speech."""
    data = write_data(tmp_path_factory.mktemp("data"), speech)
    return np.concatenate([samples for _, samples in read_utterances(data, 16000)])[:116960]


def expected_windows(samples, extractor):
    """1.5 s every 0.75 s, then what is left."""
    windows = [(start, min(start + 24000, 116960)) for start in range(0, 9 * 12000, 12000)]
    return {f"x-{start // 160:08d}-{end // 160:08d}": extractor.embed(samples[start:end]) for start, end in windows}


def test_files_and_pipes_give_the_embeddings_of_the_pieces(model, samples, tmp_path):
    soundfile.write(tmp_path / "x.wav", samples, 16000, subtype="PCM_16")
    soundfile.write(tmp_path / "x.flac", np.stack([samples[::-1], samples], axis=1), 16000)
    (tmp_path / "x.raw").write_bytes(to_int16(samples).astype("<i2").tobytes())
    expected = expected_windows(samples, Extractor.load(model))
    inputs = {
        "file": [str(tmp_path / "x.wav")],
        "channel": ["--channel", "1", str(tmp_path / "x.flac")],
        "command": ["--name", "x", f"cat {tmp_path}/x.raw |"],
        "wave": ["--name", "x", f"cat {tmp_path}/x.wav |"],
        "tail": ["--name", "x", f"(cat {tmp_path}/x.wav; printf LIST; head -c 60000 {tmp_path}/x.wav) |"],
    }
    for name, arguments in inputs.items():
        output = f"ark:{tmp_path}/{name}.ark"
        command = ["stream", "--device", "cpu", *arguments[:-1], str(model), arguments[-1], output]
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output + str(result.exception)
        ours = dict(read_table(output, "vector"))
        assert list(ours) == list(expected), name
        for key in ours:
            np.testing.assert_allclose(ours[key], expected[key], rtol=1e-3, atol=1e-3 * np.abs(expected[key]).max())


def test_embeddings_arrive_during_the_recording(model, samples):
    """A window is on standard output before the next one has begun to come in."""
    command = [sys.executable, "-m", "sdpn_k2", "stream", "--device", "cpu", str(model), "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    integers = to_int16(samples).astype("<i2")
    process.stdin.write(integers[:24000].tobytes())
    process.stdin.flush()
    assert process.stdout.readline().startswith(b"stream-00000000-00000150  [ ")
    process.stdin.write(integers[24000:36000].tobytes())
    process.stdin.flush()
    assert process.stdout.readline().startswith(b"stream-00000075-00000225  [ ")
    rest, _ = process.communicate()
    assert process.returncode == 0 and rest == b""


def test_memory_does_not_grow_with_the_length():
    def peak(seconds):
        blocks = (np.full(4000, second, np.float32) for second in range(4 * seconds))
        tracemalloc.start()
        count = sum(1 for _ in sliding_windows(blocks, 24000, 12000, 8000))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return count, peak

    (few, small), (many, large) = peak(20), peak(2000)
    assert (few, many) == (26, 2666) and large < small + 20000


@pytest.mark.parametrize(
    "length, shift, least, total",
    [
        (10, 10, 3, 35),
        (10, 4, 1, 35),
        (10, 7, 10, 30),
        (9, 2, 9, 5),
    ],
)
def test_every_sample_is_in_a_window_whatever_the_blocks(length, shift, least, total):
    signal = np.arange(total, dtype=np.float32)
    results = []
    for block in (1, 3, 8, 100):
        windows = list(sliding_windows([signal[i : i + block] for i in range(0, total, block)], length, shift, least))
        for start, samples in windows:
            np.testing.assert_array_equal(samples, signal[start : start + len(samples)])
            assert least <= len(samples) <= length and start % shift == 0
        results.append([(start, len(samples)) for start, samples in windows])
    assert all(result == results[0] for result in results)
    covered = max((start + size for start, size in results[0]), default=0)
    assert total - covered < least


def test_silence_is_skipped(model, samples, tmp_path, caplog):
    quiet = np.concatenate([np.zeros(48000, np.float32), samples[:24000]])
    soundfile.write(tmp_path / "q.wav", quiet, 16000, subtype="PCM_16")
    with caplog.at_level("INFO"):
        extractor, output = Extractor.load(model), f"ark:{tmp_path}/q.ark"
        count = embed_stream(extractor, str(tmp_path / "q.wav"), output, key="q", windowing=Windowing())
    assert count == 2 and re.search(r"q.wav: 2 windows\b.*\b3 silent\b", caplog.text)


def test_windows_that_are_not_finite_are_counted(model, samples, tmp_path):
    bad = np.tile(samples[:24000], 4)
    bad[30000] = np.nan
    soundfile.write(tmp_path / "bad.wav", bad, 16000, subtype="FLOAT")
    arguments = ["stream", "--device", "cpu", str(model), str(tmp_path / "bad.wav"), f"ark:{tmp_path}/x.ark"]
    result = CliRunner().invoke(cli, arguments)
    assert re.search("bad.wav: 2 of 7 windows are not finite .*--skip-bad", str(result.exception))
    assert len(dict(kaldiio.load_ark(str(tmp_path / "x.ark")))) == 5
    assert CliRunner().invoke(cli, [*arguments, "--skip-bad"]).exit_code == 0


def test_bad_input(model, tmp_path, samples):
    soundfile.write(tmp_path / "slow.wav", samples[:8000], 8000)
    soundfile.write(tmp_path / "short.wav", samples[:4000], 16000)
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "empty.raw").write_bytes(b"")
    soundfile.write(tmp_path / "x.flac", samples, 16000)
    soundfile.write(tmp_path / "my x.wav", samples, 16000)
    others = {"OggS": "Ogg", "ID3": "MP3", "RF64": "RF64", "NIST": "NIST SPHERE", "FORM": "AIFF", "caff": "CAF"}
    for magic in others:
        (tmp_path / magic).write_bytes(magic.encode() + bytes(60000))
    for arguments, message in (
        ([str(tmp_path / "slow.wav")], "slow.wav: 8000 Hz.*16000 Hz"),
        ([f"cat {tmp_path}/slow.wav |"], "8000 Hz.*16000 Hz"),
        (["--channel", "2", str(tmp_path / "short.wav")], "channel 2"),
        (["--channel", "1", f"cat {tmp_path}/short.wav |"], "channel 1"),
        ([str(tmp_path / "short.wav")], "short.wav: no window of at least 0.5 s"),
        ([f"cat {tmp_path}/empty.raw |"], r"empty.raw \|: no window of at least 0.5 s"),
        ([str(tmp_path / "text.wav")], "text.wav: cannot read"),
        ([str(tmp_path / "none.wav")], "none.wav"),
        (["false |"], "exit status 1"),
        (["--shift", "3", str(tmp_path / "short.wav")], "shift 3 s"),
        (["--window", "inf", str(tmp_path / "short.wav")], "window inf s, shift 0.75 s"),
        (["--shift", "0.00002", str(tmp_path / "short.wav")], "shift 2e-05 s: .*0.01 s"),
        (["--min-window", "0.05", str(tmp_path / "short.wav")], "0.05 s"),
        ([str(tmp_path / "my x.wav")], "'my x'.*--name"),
        ([f"cat {tmp_path}/x.flac |"], r"x.flac \|: FLAC"),
        *(([f"cat {tmp_path}/{magic} |"], rf"{magic} \|: {kind}") for magic, kind in others.items()),
    ):
        command = ["stream", "--device", "cpu", *arguments[:-1], str(model), arguments[-1], f"ark:{tmp_path}/out.ark"]
        result = CliRunner().invoke(cli, command)
        assert isinstance(result.exception, InputError) and re.search(message, str(result.exception)), arguments
        assert not (tmp_path / "out.ark").exists()
    result = CliRunner().invoke(cli, ["stream", "--channel", "-1", str(model), str(tmp_path / "short.wav")])
    assert result.exit_code == 2 and "--channel" in result.output
