"""extract-segments, wav-to-duration, wav-copy and wav-reverberate."""

import io
import re

import numpy as np
import pytest
import soundfile
from golden_features import run_line, write_waves
from kaldi_support import refuse, run_golden_line, shell, speech_like, succeed
from scipy.signal import fftconvolve

RATE = 16000


def test_segments_and_durations_equal_kaldis(golden, tmp_path):
    write_waves(tmp_path)
    run_line(golden, tmp_path, "extract-segments")
    source = soundfile.read(tmp_path / "chirp.wav", dtype="int16")[0]
    cut = soundfile.read(io.BytesIO((tmp_path / "seg.wav.ark").read_bytes()[len("chirp-a ") :]), dtype="int16")[0]
    np.testing.assert_array_equal(cut, source[4800:19200])  # 0.3 to 1.2 s
    for name in ("seg.wav.scp", "seg2dur"):
        assert (tmp_path / name).read_bytes() == (golden / name).read_bytes()
    durations = (tmp_path / "reco2dur").read_text().splitlines()
    speech = ("1688-142285-0003", "2033-164914-0007", "3080-5032-0001")  # not carried
    kaldis = (golden / "reco2dur").read_text().splitlines()
    assert durations == [line for line in kaldis if not line.startswith(speech)]

    def messages(path):
        return [re.sub(r" \(.*?:\d+\)", "", line) for line in path.read_text().splitlines()]

    assert messages(tmp_path / "segments.stderr.txt") == messages(golden / "segments.stderr.txt")


def test_segments_have_the_bytes_of_kaldis(shared, tmp_path):
    kaldis = run_golden_line(shared, tmp_path, "extract-segments")
    assert (tmp_path / "seg.wav.ark").read_bytes() == (kaldis / "seg.wav.ark").read_bytes()


@pytest.fixture
def folder(tmp_path):
    """A recording of one second, and one of two channels."""
    samples = speech_like(seconds=1.0)
    soundfile.write(str(tmp_path / "mono.wav"), samples, RATE)
    soundfile.write(str(tmp_path / "stereo.wav"), np.stack([samples, samples[::-1]], 1), RATE)
    (tmp_path / "wav.scp").write_text("mono mono.wav\nstereo stereo.wav\n")
    return tmp_path


def segment(folder, line, options=""):
    """Run extract-segments on one line; return the segment's (start, end) in samples, or the warning."""
    (folder / "segments").write_text(f"s {line}\n")
    (folder / "out.scp").write_text("s out.wav\n")
    (folder / "out.wav").unlink(missing_ok=True)
    log = succeed(f"extract-segments {options} scp:wav.scp segments scp:out.scp", folder)
    if not (folder / "out.wav").exists():
        assert "processed 0 lines out of 1" in log
        return next(line for line in log.splitlines() if "WARNING" in line).partition(") ")[2]
    found, rate = soundfile.read(str(folder / "out.wav"), dtype="int16", always_2d=True)
    assert rate == RATE and found.shape[1] == 1
    source = speech_like(seconds=1.0)[:: -1 if line.split()[-1] == "1" and len(line.split()) == 4 else 1]
    start = int(float(line.split()[1]) * RATE)
    np.testing.assert_array_equal(found[:, 0], source[start : start + len(found)])
    return start, start + len(found)


@pytest.mark.parametrize(
    "line, expected",
    [
        ("mono 0.25 0.75", (4000, 12000)),
        ("mono 0.25 -1", (4000, 16000)),
        ("mono 0 1", (0, 16000)),
        ("mono 0.5 1.4", (8000, 16000)),
        ("mono 0.5 1.499", (8000, 16000)),
        ("mono 0.5 1.5", "End sample too far out of range 24000 [length:] 16000, skipping segment s"),
        ("mono 0.3 0.4", "Segment s too short, skipping it."),
        ("mono 0.3 0.4001", (4800, 6401)),
        ("mono 1.0 1.2", "Start sample out of range 16000 [length:] 16000, skipping segment s"),
        ("mono 0.6 0.2", "Invalid line in segments file [empty or invalid segment]: s mono 0.6 0.2"),
        ("mono 0.6 0.6", "Invalid line in segments file [empty or invalid segment]: s mono 0.6 0.6"),
        ("mono -0.1 0.6", "Invalid line in segments file [empty or invalid segment]: s mono -0.1 0.6"),
        ("mono nan 0.6", "Invalid line in segments file [empty or invalid segment]: s mono nan 0.6"),
        ("mono 0.1 inf", "Invalid line in segments file [empty or invalid segment]: s mono 0.1 inf"),
        ("mono x 0.6", "Invalid line in segments file [bad start]: s mono x 0.6"),
        ("mono 0 y", "Invalid line in segments file [bad end]: s mono 0 y"),
        ("mono 0 1 z", "Invalid line in segments file [bad channel]: s mono 0 1 z"),
        ("mono 0 1 -1", "Invalid line in segments file [bad channel]: s mono 0 1 -1"),
        ("mono 0 1 2 3", "Invalid line in segments file: s mono 0 1 2 3"),
        ("mono 0", "Invalid line in segments file: s mono 0"),
        ("other 0 1", "Could not find recording other, skipping segment s"),
        ("stereo 0.25 0.75 0", (4000, 12000)),
        ("stereo 0.25 0.75 1", (4000, 12000)),
        ("mono 0 1 1", "Invalid channel 1 >= 1, processing segment s"),
    ],
)
def test_default_tolerances_match_kaldi(line, expected, folder):
    assert segment(folder, line) == expected


def test_tolerances_can_be_set(folder):
    assert segment(folder, "mono 0.3 0.4", "--min-segment-length=0.05") == (4800, 6400)
    assert segment(folder, "mono 0.5 1.4", "--max-overshoot=0.3").startswith("End sample too far")
    assert segment(folder, "mono 0.5 9", "--max-overshoot=inf") == (8000, 16000)
    assert segment(folder, "mono 0 1", "--min-segment-length=1e39") == "Segment s too short, skipping it."


def test_channels_must_be_named(folder):
    (folder / "segments").write_text("s stereo 0 1\n")
    assert "2 channels" in refuse("extract-segments scp:wav.scp segments ark:new.ark", folder)
    assert not (folder / "new.ark").exists()


def test_missing_recordings_stop_or_are_skipped(folder):
    (folder / "wav.scp").write_text("gone gone.wav\nmono mono.wav\n")
    (folder / "segments").write_text("a gone 0 1\nb mono 0 1\n")
    assert "gone.wav" in refuse("extract-segments scp:wav.scp segments ark:new.ark", folder)
    log = succeed("extract-segments scp,p:wav.scp segments ark:out.ark", folder)
    assert "Could not find recording gone" in log and "processed 1 lines out of 2" in log
    refuse("wav-copy scp:wav.scp ark:new.ark", folder)
    assert not (folder / "new.ark").exists()
    succeed("wav-copy scp,p:wav.scp ark:out.ark", folder)
    assert shell("wav-copy ark:/dev/null ark:out.ark", folder).returncode == 1


def test_durations_of_files_archives_and_streams(folder):
    soundfile.write(str(folder / "cut.wav"), speech_like(), RATE)
    data = (folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(data[: 44 + 16000])
    (folder / "stream.wav").write_bytes(data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4 + data[44 : 44 + 8000])
    (folder / "wav.scp").write_text("cut cut.wav\nmono cat mono.wav |\nstream stream.wav\n")
    assert shell("wav-to-duration scp:wav.scp ark,t:-", folder).stdout == "cut 1 \nmono 1 \nstream 0.25 \n"
    log = succeed("wav-to-duration --read-entire-file=true scp:wav.scp ark,t:durations", folder)
    assert (folder / "durations").read_text() == "cut 0.5 \nmono 1 \nstream 0.25 \n"
    assert "truncated" in log and "Mean duration was 0.583333, min and max durations were 0.25, 1" in log
    piped = shell("wav-copy scp:wav.scp ark:- | wav-to-duration ark:- ark,t:-", folder)
    assert piped.stdout == (folder / "durations").read_text()


def test_wav_copy_copies_single_files_and_entries_of_archives(folder):
    succeed("wav-copy scp:wav.scp ark,scp:w.ark,w.scp", folder)
    name = (folder / "w.scp").read_text().split()[1]
    succeed(f"wav-copy {name} - | wav-copy - copy.wav", folder)
    first = (folder / "wav.scp").read_text().splitlines()[0].split(None, 1)[1]
    succeed(f"wav-copy '{first}' first.wav", folder)
    assert (folder / "copy.wav").read_bytes() == (folder / "first.wav").read_bytes()
    (folder / "entry.scp").write_text(f"u wav-copy {name} - |\n")
    assert shell("wav-to-duration scp:entry.scp ark,t:-", folder).stdout.startswith("u ")
    assert "cannot mix" in refuse("wav-copy scp:wav.scp out.wav", folder)


# wav-reverberate


@pytest.fixture
def sounds(folder):
    """An impulse response of two channels, and two noises."""
    rng = np.random.default_rng(7)
    decay = rng.normal(0, 1000, (2400, 2)) * np.exp(-np.arange(2400)[:, None] / 500)
    decay[100, 0] = decay[40, 1] = 30000
    soundfile.write(str(folder / "rir.wav"), np.int16(decay), RATE)
    soundfile.write(str(folder / "rir1.wav"), np.int16(decay[:, 0]), RATE)
    soundfile.write(str(folder / "noise1.wav"), np.int16(rng.normal(0, 500, 4000)), RATE)
    soundfile.write(str(folder / "noise2.wav"), np.int16(rng.normal(0, 500, 30000)), RATE)
    return folder


def read(folder, name):
    return soundfile.read(str(folder / name), dtype="int16", always_2d=True)[0].astype(np.float64)


def reverberate(folder, options):
    succeed(f"wav-reverberate {options} mono.wav out.wav", folder)
    return read(folder, "out.wav")


def power(signal):
    return (signal**2).mean()


def test_without_options_nothing_changes(sounds):
    np.testing.assert_array_equal(reverberate(sounds, ""), read(sounds, "mono.wav"))


@pytest.mark.parametrize("channel, peak", [(0, 100), (1, 40)])
def test_reverberation_is_a_shifted_convolution_of_the_same_energy(sounds, channel, peak):
    dry = read(sounds, "mono.wav")[:, 0]
    wet = fftconvolve(dry, read(sounds, "rir.wav")[:, channel] / 32768)
    wet *= np.sqrt(power(dry) / power(wet))
    options = f"--impulse-response=rir.wav --rir-channel={channel}"
    np.testing.assert_allclose(reverberate(sounds, options)[:, 0], wet[peak : peak + RATE], atol=1.01)
    np.testing.assert_allclose(reverberate(sounds, f"{options} --shift-output=false")[:, 0], wet, atol=1.01)
    unscaled = fftconvolve(dry, read(sounds, "rir.wav")[:, channel] / 32768)[peak : peak + RATE]
    np.testing.assert_allclose(reverberate(sounds, f"{options} --normalize-output=false")[:, 0], unscaled, atol=1.01)
    np.testing.assert_allclose(reverberate(sounds, f"{options} --volume=0.5")[:, 0], 0.5 * unscaled, atol=1.01)


def test_noises_at_their_snr_and_time(sounds):
    dry = read(sounds, "mono.wav")[:, 0]
    options = "--normalize-output=false --additive-signals=noise1.wav,noise2.wav --snrs=10,3 --start-times=0.25,0.5"
    added = reverberate(sounds, options)[:, 0] - dry
    first, second = (read(sounds, name)[:, 0] for name in ("noise1.wav", "noise2.wav"))
    expected = np.zeros(RATE)
    expected[4000:8000] += first * np.sqrt(power(dry) / 10 / power(first))
    expected[8000:] += second[:8000] * np.sqrt(power(dry) / 10**0.3 / power(second))
    np.testing.assert_allclose(added, expected, atol=1.01)
    assert abs(10 * np.log10(power(dry) / power(added[4000:8000])) - 10) < 0.05


def test_snr_is_relative_to_the_early_reverberation(sounds):
    dry, rir = read(sounds, "mono.wav")[:, 0], read(sounds, "rir1.wav")[:, 0] / 32768
    early = fftconvolve(dry, rir[84:900])
    noise = read(sounds, "noise1.wav")[:, 0]
    options = "--impulse-response='cat rir1.wav |' --normalize-output=false --shift-output=false"
    with_noise = reverberate(sounds, f"{options} --additive-signals=noise1.wav --snrs=0 --start-times=0")[:, 0]
    added = (with_noise - reverberate(sounds, options)[:, 0])[:4000]
    np.testing.assert_allclose(added, noise * np.sqrt(power(early) / power(noise)), atol=2.01)


def test_duration_cuts_or_repeats(sounds):
    dry = read(sounds, "mono.wav")
    np.testing.assert_array_equal(reverberate(sounds, "--duration=0.5"), dry[:8000])
    np.testing.assert_array_equal(reverberate(sounds, "--duration=2.25"), np.resize(dry, (36000, 1)))


def test_one_output_channel_per_channel_of_the_response(sounds):
    both = reverberate(sounds, "--impulse-response=rir.wav --multi-channel-output=true")
    for channel in (0, 1):
        single = reverberate(sounds, f"--impulse-response=rir.wav --rir-channel={channel}")[:, 0]
        np.testing.assert_array_equal(both[:, channel], single)


def test_pipes_and_channels(sounds):
    command = "cat stereo.wav | wav-reverberate --input-wave-channel=1 - - | cat > out.wav"
    succeed(command, sounds)
    np.testing.assert_array_equal(read(sounds, "out.wav")[:, 0], read(sounds, "stereo.wav")[:, 1])


def test_silence_stays_silent(sounds):
    soundfile.write(str(sounds / "mono.wav"), np.zeros(RATE, np.int16), RATE)
    assert not reverberate(sounds, "--impulse-response=rir1.wav").any()


@pytest.mark.parametrize(
    "options, words",
    [
        ("--additive-signals=noise1.wav", "snrs"),
        ("--additive-signals=noise1.wav --snrs=1,2 --start-times=0", "snrs"),
        ("--additive-signals=noise1.wav --snrs=x --start-times=0", "snrs"),
        ("--additive-signals=noise1.wav --snrs=1 --start-times=-1", "start-times"),
        ("--additive-signals=noise1.wav --snrs=1 --start-times=nan", "start-times"),
        ("--additive-signals=noise1.wav --snrs=-1e6 --start-times=0", "-1e+06 dB"),
        ("--duration=inf", "--duration=inf"),
        ("--duration=1e9", "--duration=1e+09"),
        ("--volume=inf", "--volume=inf"),
        ("--additive-signals=silent.wav --snrs=1 --start-times=0", "silent"),
        ("--additive-signals=slow.wav --snrs=1 --start-times=0", "8000 Hz"),
        ("--impulse-response=slow.wav", "8000 Hz"),
        ("--impulse-response=missing.wav", "missing.wav"),
        ("--impulse-response=rir1.wav --rir-channel=1", "no channel 1"),
        ("--input-wave-channel=3", "no channel 3"),
        ("--multi-channel-output=true", "impulse-response"),
        (
            "--impulse-response=rir.wav --multi-channel-output=true "
            "--additive-signals=noise1.wav --snrs=1 --start-times=0",
            "no channel 1",
        ),
    ],
)
def test_invalid_options_give_one_line(options, words, sounds):
    soundfile.write(str(sounds / "silent.wav"), np.zeros(100, np.int16), RATE)
    soundfile.write(str(sounds / "slow.wav"), speech_like(rate=8000), 8000)
    assert words in refuse(f"wav-reverberate {options} mono.wav new.wav", sounds)
    assert not (sounds / "new.wav").exists()
