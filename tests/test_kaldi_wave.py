"""Wave files, other audio and its resampling: against the standard library, soundfile and the formula of the filter."""

import io
import struct
import wave as standard_wave

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from kaldi_support import refuse, shell, speech_like, succeed

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.wave import (
    Wave,
    encode_wave,
    read_audio,
    read_command,
    read_duration,
    read_wave,
    to_wav_command,
)
from sdpn_k2.kaldi.formats.io import InputStream

SAMPLES = speech_like(seconds=0.05)
PCM = SAMPLES.tobytes()


def stream(data):
    return InputStream(io.BytesIO(data), "test.wav")


def riff(
    data=PCM,
    channels=1,
    rate=16000,
    bits=16,
    kind=1,
    riff_size=None,
    data_size=None,
    before=b"",
    between=b"",
    extra=b"",
    align=None,
):
    """A wave file with the given header."""
    align = channels * bits // 8 if align is None else align
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * align, align, bits) + extra
    chunks = before + b"fmt " + struct.pack("<I", len(form)) + form + between
    data_size = len(data) if data_size is None else data_size
    riff_size = 4 + len(chunks) + 8 + len(data) if riff_size is None else riff_size
    return b"RIFF" + struct.pack("<I", riff_size) + b"WAVE" + chunks + b"data" + struct.pack("<I", data_size) + data


EXTENSIBLE = struct.pack("<HHI", 22, 16, 4) + bytes.fromhex("0100000000001000800000aa00389b71")


@pytest.mark.parametrize(
    "data",
    [
        riff(),
        riff(kind=0xFFFE, extra=EXTENSIBLE),
        riff(extra=b"\0\0"),
        riff(before=b"JUNK\4\0\0\0abcd"),
        riff(between=b"fact\4\0\0\0abcdLIST\2\0\0\0xy"),
        riff(riff_size=0, data_size=0),
        riff(riff_size=0xFFFFFFFF, data_size=0xFFFFFFFF),
        riff(riff_size=0x7FFFF024, data_size=0x7FFFF000),
        riff(data_size=0x7FFFFFFF),
        riff(riff_size=0),
        riff(PCM + b"x"),
        riff(between=b"LIST\3\0\0\0abc"),
        riff(between=b"LIST\3\0\0\0abc\0"),
        riff(riff_size=9),
    ],
    ids=[
        *("plain", "extensible", "long-format", "junk", "fact", "zero", "all-ones", "sox", "max", "riff-zero"),
        *("half a sample", "odd list", "odd list with a pad byte", "wrong length"),
    ],
)
def test_headers(data):
    found = read_wave(stream(data))
    assert found.rate == 16000 and found.samples.dtype == np.float32
    np.testing.assert_array_equal(found.samples, SAMPLES[None])
    assert read_duration(stream(data)) == found.duration == len(SAMPLES) / 16000


def test_big_endian_files():
    size = 2 * len(SAMPLES)
    fields = (b"RIFX", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16, b"data", size)
    swapped = struct.pack(">4sI4s4sIHHIIHH4sI", *fields) + SAMPLES.astype(">i2").tobytes()
    np.testing.assert_array_equal(read_wave(stream(swapped)).samples, SAMPLES[None])


def test_channels_become_rows(tmp_path):
    stereo = np.stack([SAMPLES, SAMPLES[::-1]], axis=1)
    soundfile.write(str(tmp_path / "stereo.wav"), stereo, 8000)
    found = read_wave(stream((tmp_path / "stereo.wav").read_bytes()))
    assert found.rate == 8000
    np.testing.assert_array_equal(found.samples, stereo.T)
    half_a_frame = riff(stereo.astype("<i2").tobytes() + b"ab", channels=2)
    np.testing.assert_array_equal(read_wave(stream(half_a_frame)).samples, stereo.T)


def test_written_files_are_read_by_others():
    stereo = np.stack([SAMPLES, SAMPLES[::-1]]).astype(np.float32)
    data = encode_wave(Wave(stereo, 22050))
    with standard_wave.open(io.BytesIO(data)) as found:
        assert (found.getnchannels(), found.getframerate(), found.getsampwidth()) == (2, 22050, 2)
        frames = np.frombuffer(found.readframes(found.getnframes()), "<i2")
    np.testing.assert_array_equal(frames.reshape(-1, 2).T, stereo)
    assert data == riff(stereo.T.astype("<i2").tobytes(), channels=2, rate=22050)


def test_fractions_are_truncated_and_peaks_clipped_with_a_warning(capsys):
    data = encode_wave(Wave(np.array([[1.9, -1.9, 40000.0, -40000.0]]), 16000))
    assert np.frombuffer(data[44:], "<i2").tolist() == [1, -1, 32767, -32768]
    assert "clipped 2 samples out of total 4" in capsys.readouterr().err


@pytest.mark.parametrize("samples", [np.array([[np.nan]]), np.array([[np.inf]]), np.zeros((0, 5))])
def test_waves_that_no_file_can_hold_are_refused(samples):
    with pytest.raises(InputError):
        encode_wave(Wave(samples, 16000))


def test_a_truncated_file_is_read_to_its_end(capsys):
    data = riff()
    found = read_wave(stream(data[:-101]))
    np.testing.assert_array_equal(found.samples[0], SAMPLES[:-51])
    assert "truncated" in capsys.readouterr().err
    for end in range(46):
        with pytest.raises(InputError):
            read_wave(stream(data[:end]))


@pytest.mark.parametrize(
    "data, words",
    [
        (riff(bits=8, data=b"\x80" * 99), "8 bits"),
        (riff(kind=3, bits=32), "format id 3"),
        (riff(kind=7, bits=8), "format id 7"),
        (riff(kind=0xFFFE, extra=EXTENSIBLE[:8] + b"\3" + EXTENSIBLE[9:]), "without PCM"),
        (riff(kind=0xFFFE), "without PCM"),
        (riff(channels=0, align=0), "0 channels"),
        (riff(rate=0), "0 Hz"),
        (riff(align=4), "bytes per sample"),
        (riff(data=b""), "byte 44"),
        (riff(data=b"x"), "no samples"),
        (riff(between=b"LIST\377\377\0\0"), "ends in its chunk b'LIST'"),
        (b"fLaC" + bytes(60), "to-wav"),
        (b"RIFF\0\0\0\0AVI " + bytes(60), "WAVE"),
        (b"", "cut short"),
    ],
)
def test_other_files_are_refused(data, words):
    with pytest.raises(InputError, match=words) as error:
        read_wave(stream(data))
    assert "test.wav" in str(error.value) and "\n" not in str(error.value)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=6), st.integers(0, 200))
def test_damaged_headers_never_crash(changes, length):
    data = bytearray(riff(data=SAMPLES[:78].tobytes()))
    for place, value in changes:
        data[place] = value
    try:
        found = read_wave(stream(bytes(data[:length])))
        assert found.samples.nbytes <= 4 * length
    except InputError as error:
        assert "\n" not in str(error)


# Other audio


def test_flac_at_the_requested_rate_is_read_unchanged(tmp_path):
    path = str(tmp_path / "a.flac")
    soundfile.write(path, np.stack([SAMPLES, SAMPLES[::-1]], 1), 16000)
    for channel, expected in enumerate((SAMPLES, SAMPLES[::-1])):
        found = read_audio(path, 16000, channel)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


def test_float_files_are_rounded_and_clipped(tmp_path):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.array([0.4, 0.6, -0.6, 40000, -40000]) / 32768, 16000, subtype="FLOAT")
    assert read_audio(path).tolist() == [0, 1, -1, 32767, -32768]


def test_other_rates_are_resampled(tmp_path):
    path = str(tmp_path / "a.wav")
    time = np.arange(44100) / 44100
    soundfile.write(path, np.int16(10000 * np.sin(2 * np.pi * 440 * time)), 44100)
    found = read_audio(path, 16000)
    expected = 10000 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert len(found) == 16000 and abs(found - expected)[50:-50].max() < 10


def test_unreadable_audio_is_refused(tmp_path):
    (tmp_path / "text.flac").write_text("not audio")
    soundfile.write(str(tmp_path / "mono.wav"), SAMPLES, 16000)
    soundfile.write(str(tmp_path / "empty.wav"), SAMPLES[:0], 16000)
    soundfile.write(str(tmp_path / "nan.wav"), np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    for name, channel, words in (
        ("missing.flac", 0, "missing.flac"),
        ("text.flac", 0, "text.flac"),
        ("mono.wav", 1, "mono.wav.* 1"),
        ("empty.wav", 0, "empty.wav"),
        ("nan.wav", 0, "nan.wav.*NaN"),
    ):
        with pytest.raises(InputError, match=words):
            read_audio(str(tmp_path / name), channel=channel)


def test_only_to_wav_commands_run_without_a_process(tmp_path):
    path = tmp_path / 'it\'s a $(file) "here".flac'
    soundfile.write(str(path), SAMPLES, 16000)
    command = to_wav_command(str(path), 8000)
    assert command.endswith(" |")
    found = read_command(command)
    assert found.rate == 8000
    np.testing.assert_array_equal(found.samples[0], read_audio(str(path), 8000))
    plain = tmp_path / "a.flac"
    for other in (
        f"sdpn-k2 to-wav --rate 16000 --channel 0 {plain}; touch x |",
        f"sdpn-k2 to-wav --rate 16000 --channel 0 {plain} && touch x |",
        f"sdpn-k2 to-wav --rate 16000 --channel 0 {plain} > x |",
        "sdpn-k2 to-wav --rate 16000 --channel 0 $(touch x) |",
        'sdpn-k2 to-wav --rate 16000 --channel 0 "$HOME" |',
        "sdpn-k2 to-wav --rate 16000 --channel 0 *.flac |",
        "sdpn-k2 to-wav --rate 16000 --channel 0 'unbalanced |",
        f"sdpn-k2 to-wav --rate 16000 {plain} |",
        f"cat {plain} |",
    ):
        assert read_command(other) is None


def test_to_wav_writes_the_samples_that_the_readers_read(tmp_path):
    for name, samples, rate in (("a", SAMPLES, 16000), ("b", speech_like(1, 0.3, 44100), 44100)):
        soundfile.write(str(tmp_path / f"{name}.flac"), samples, rate)
    commands = {name: to_wav_command(f"{name}.flac") for name in "ab"}
    (tmp_path / "wav.scp").write_text("".join(f"{name} {command}\n" for name, command in commands.items()))
    # Spawned as Kaldi would; a blank more makes it another command than ours.
    others = {name: command.replace(" to-wav", "  to-wav") for name, command in commands.items()}
    (tmp_path / "spawned.scp").write_text("".join(f"{name} {command}\n" for name, command in others.items()))
    for options, scp in (("--allow-pipes=false", "wav"), ("", "spawned")):
        succeed(f"wav-copy {options} scp:{scp}.scp ark:{scp}.ark", tmp_path)
        succeed(f"wav-to-duration {options} scp:{scp}.scp ark,t:{scp}.dur", tmp_path)
    assert (tmp_path / "wav.ark").read_bytes() == (tmp_path / "spawned.ark").read_bytes()
    assert (tmp_path / "wav.dur").read_text() == (tmp_path / "spawned.dur").read_text() == "a 0.05 \nb 0.3 \n"
    refuse("wav-copy --allow-pipes=false scp:spawned.scp ark:new.ark", tmp_path)
    failed = shell("sdpn-k2 to-wav missing.flac", tmp_path)
    assert failed.returncode == 1 and "missing.flac" in failed.stderr and "Traceback" not in failed.stderr


# Resampling


def by_formula(samples, rate_in, rate_out):
    """Each output sample by itself: the sum over inputs near it of a sinc under a raised cosine."""
    cutoff = 0.99 * 0.5 * min(rate_in, rate_out)
    width = 6 / (2 * cutoff)
    times_in = np.arange(len(samples)) / rate_in
    output = []
    for n in range(int(np.ceil(len(samples) * rate_out / rate_in))):
        distance = times_in - n / rate_out
        weights = 2 * cutoff * np.sinc(2 * cutoff * distance) * (1 + np.cos(2 * np.pi * cutoff / 6 * distance)) / 2
        output.append((samples * weights * (abs(distance) < width)).sum() / rate_in)
    return np.array(output)


@pytest.mark.parametrize("rates", [(16000, 8000), (8000, 16000), (44100, 16000), (16000, 44100), (999, 1000), (7, 3)])
@pytest.mark.parametrize("count", [1, 2, 50, 777])
def test_resampling_follows_the_formula(rates, count):
    samples = np.random.default_rng(count).normal(0, 1000, count)
    found = resample(samples, *rates)
    expected = by_formula(samples, *rates)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_the_same_rate_changes_nothing():
    np.testing.assert_array_equal(resample(SAMPLES, 16000, 16000), SAMPLES)


@pytest.mark.parametrize("rates", [(0, 8000), (16000, -1), (16000.5, 8000)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(InputError, match=f"{rates[1]} Hz"):
        resample(SAMPLES, *rates)
