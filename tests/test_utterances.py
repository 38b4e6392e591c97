"""Utterances cut out of recordings, as Kaldi's extract-segments cuts them."""

import numpy as np
import pytest
import soundfile
from kaldi_support import load, speech_like, succeed

from sdpn_k2.errors import InputError, Skipped
from sdpn_k2.kaldi.datadir.utterances import (
    MAX_OVERSHOOT,
    Misfit,
    Part,
    cut_part,
    read_parts,
    read_utterances,
    sample_range,
)
from sdpn_k2.kaldi.features.wave import Wave

RATE = 16000


def test_golden_segments(golden):
    """What extract-segments made of these segments: durations, or a warning."""

    def table(name):
        return dict(line.split(None, 1) for line in (golden / name).read_text().splitlines())

    lengths = {name: round(float(seconds) * RATE) for name, seconds in table("reco2dur").items()}
    durations = {name: float(seconds) for name, seconds in table("seg2dur").items()}
    warnings = (golden / "segments.stderr.txt").read_text()
    for name, value in table("segments").items():
        recording, start, end = value.split()
        if recording not in lengths:
            continue
        part = Part(name, recording, float(start), float(end))
        if name in durations:
            first, last = sample_range(part, RATE, lengths[recording], min_length=0.1)
            assert first == float(start) * RATE and (last - first) / RATE == durations[name]
        else:
            with pytest.raises(Misfit) as error:
                sample_range(part, RATE, lengths[recording], min_length=0.1)
            assert error.value.warning in warnings


def test_times_are_truncated_in_double_precision():
    """2.01 · 16000 is 32159.999… in double precision: extract-segments begins at sample 32159, not 32160."""
    assert sample_range(Part("u", "r", 2.01, 4.02), RATE, 100000) == (32159, 64319)
    rng = np.random.default_rng(0)
    for rate in (8000, 16000, 22050, 44100):
        starts = rng.integers(0, 2000, 500) / 100
        for start, end in np.stack([starts, starts + rng.integers(1, 500, 500) / 100], axis=1):
            expected = tuple(np.trunc(np.array([start, end], np.float64) * np.float64(rate)))
            assert sample_range(Part("u", "r", start, end), rate, 10**9) == expected


@pytest.mark.parametrize(
    "start, end, limits, expected",
    [
        (0.25, -1, {}, (4000, 16000)),
        (0.5, 1.499, {}, (8000, 16000)),
        (0.5, 1.5, {}, "24000 [length:] 16000"),
        (0.5, 1.2, {"max_overshoot": 0.1}, "19200 [length:] 16000"),
        (0.5, 9.0, {"max_overshoot": np.inf}, (8000, 16000)),
        (1.0, -1, {}, "Start sample out of range 16000 [length:] 16000"),
        (0.3, 0.4, {"min_length": 0.1}, "too short"),
        (0.3, 0.4001, {"min_length": 0.1}, (4800, 6401)),
        (0.3, 0.30001, {}, "too short"),
    ],
)
def test_overshoot_and_minimum_length(start, end, limits, expected):
    part = Part("u", "r", start, end)
    if isinstance(expected, tuple):
        assert sample_range(part, RATE, RATE, **limits) == expected
    else:
        with pytest.raises(Misfit, match=r"\br\b.* 1 s") as error:
            sample_range(part, RATE, RATE, **limits)
        assert expected in error.value.warning and "segment u" in error.value.warning.lower()


def test_channels():
    samples = np.arange(10, dtype=np.float32).reshape(2, 5)
    np.testing.assert_array_equal(cut_part(Wave(samples, 5), Part("u", "r", 0.2, 0.6, 1)), [6, 7])
    with pytest.raises(Misfit, match="2 channels"):
        cut_part(Wave(samples, 5), Part("u", "r", 0.2, 0.6, 2))
    with pytest.raises(InputError, match="2 channels") as error:
        cut_part(Wave(samples, 5), Part("u", "r"))
    assert not isinstance(error.value, Misfit)


@pytest.fixture
def data(tmp_path):
    """Two recordings, one with two channels, and segments of which some are not valid."""
    samples = speech_like(seconds=5)
    soundfile.write(tmp_path / "mono.wav", samples, RATE)
    soundfile.write(tmp_path / "stereo.wav", np.stack([samples, samples[::-1]], axis=1), RATE)
    soundfile.write(tmp_path / "slow.wav", samples, 8000)
    names = ("gone", "mono", "slow", "stereo")
    (tmp_path / "wav.scp").write_text("".join(f"{name} {tmp_path / name}.wav\n" for name in names))
    (tmp_path / "segments").write_text(
        "a mono 2.01 4.02\n"
        "b mono 4.5 -1\n"
        f"c mono 4.5 {4.999 + MAX_OVERSHOOT}\n"
        f"d mono 4.5 {5 + MAX_OVERSHOOT}\n"
        "e stereo 0 1 1\n"
        "f stereo 0 1\n"
        "g stereo 0 1 2\n"
        "h slow 0 1\n"
        "i gone 0 1\n"
        "j mono 5 6\n"
    )
    return tmp_path


@pytest.mark.parametrize("threads", [1, 4])
def test_utterances_are_read_in_order(data, threads):
    samples = speech_like(seconds=5) / np.float32(32768)
    expected = {
        "a": samples[32159:64319],
        "b": samples[72000:],
        "c": samples[72000:],
        "e": samples[::-1][:16000],
    }
    reasons = {"d": "mono", "f": "stereo", "g": "2", "h": "8000 Hz", "i": "gone.wav", "j": "mono"}
    items = list(read_utterances(data, RATE, threads))
    assert [item[0] for item in items] == [part.utterance for part in read_parts(data)]
    for item in items:
        if isinstance(item, Skipped):
            assert reasons.pop(item.key) in item.reason
        else:
            utterance, found = item
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, expected.pop(utterance))
    assert not expected and not reasons


def test_extract_segments_cuts_the_same_samples(data):
    lines = (data / "segments").read_text().splitlines(keepends=True)
    (data / "segments").write_text("".join(line for line in lines if line[0] in "abcdegj"))
    log = succeed("extract-segments scp,p:wav.scp segments ark:cut.ark", data)
    cut = load(data / "cut.ark")
    utterances = dict(item for item in read_utterances(data, RATE) if not isinstance(item, Skipped))
    assert list(cut) == list(utterances) == ["a", "b", "c", "e"]
    for key, (_, samples) in cut.items():
        np.testing.assert_array_equal(samples / np.float32(32768), utterances[key])
    assert "processed 4 lines out of 7" in log


def test_without_segments_recordings_are_utterances(data):
    (data / "segments").unlink()
    (data / "wav.scp").write_text(f"mono {data}/mono.wav\n")
    ((name, samples),) = read_utterances(data, RATE)
    assert name == "mono" and len(samples) == 5 * RATE


@pytest.mark.parametrize("line, words", [("a nosuch 0 1", "'nosuch'"), ("a mono 0 1 left", "'left'")])
def test_bad_segments_are_named_by_line(data, line, words):
    (data / "segments").write_text(f"0 mono 0 1\n{line}\n")
    with pytest.raises(InputError, match=f"segments:2: .*{words}"):
        read_parts(data)
