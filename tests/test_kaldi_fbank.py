"""Filterbank features: against Kaldi's files, kaldi-native-fbank, and the textbook in double precision."""

import kaldi_native_fbank as knf
import numpy as np
import pytest
import soundfile
from golden_features import STEP, read_tables, run_line, write_waves
from kaldi_support import load, refuse, run_golden_line, shell, speech_like, succeed

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.fbank_mfcc import FbankOptions, fbank, frames, num_frames
from sdpn_k2.kaldi.features.mel import WINDOWS, mel_banks, vtln_warp_freq, window


def assert_log_fbank_equal(ours, kaldis):
    """The bounds for log fbank: single quiet bins differ in any float32 FFT, the rest does not."""
    assert list(ours) == list(kaldis)
    differences = []
    for key, reference in kaldis.items():
        assert ours[key].shape == reference.shape
        if not reference.size:
            continue
        a, b = ours[key].astype(np.float64), reference.astype(np.float64)
        differences.append(abs(a - b).ravel())
        amplitudes = abs(np.exp(a / 2) - np.exp(b / 2)).max(axis=1)
        assert (amplitudes <= 5e-5 * np.exp(b / 2).max(axis=1)).all()
    differences = np.concatenate(differences)
    assert np.median(differences) <= 5e-5
    assert np.quantile(differences, 0.999) <= 5e-3


# Kaldi's archives, and what tells their command lines apart.
GOLDEN = {
    "fbank80": "ark,scp:fbank80.ark",
    "fbank80_nosnip": "ark,scp:fbank80_nosnip.ark",
    "fbank40_energy": "ark,scp:fbank40_energy.ark",
    "fbank_opts1": "ark:fbank_opts1.ark",
    "fbank_conf": "ark:fbank_conf.ark",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_features_of_signals_equal_kaldis(name, golden, tmp_path):
    write_waves(tmp_path)
    run_line(golden, tmp_path, GOLDEN[name])
    ours, kaldis = load(tmp_path / f"{name}.ark"), read_tables(golden / "signal_features.npz")[name]
    assert_log_fbank_equal({key: ours[key][::STEP] for key in kaldis}, kaldis)


def test_features_of_speech_equal_kaldis(shared, tmp_path):
    for name, part in GOLDEN.items():
        kaldis = run_golden_line(shared, tmp_path, part)
        assert_log_fbank_equal(load(tmp_path / f"{name}.ark"), load(kaldis / f"{name}.ark"))


def native_fbank(samples, **settings):
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    for name, value in settings.items():
        target = next(part for part in (options, options.frame_opts, options.mel_opts) if hasattr(part, name))
        setattr(target, name, value)
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(options.frame_opts.samp_freq, samples.astype(np.float32).tolist())
    computer.input_finished()
    return np.array([computer.get_frame(i) for i in range(computer.num_frames_ready)])


# Ours, and the names that kaldi-native-fbank has for the same.
SETTINGS = [
    ({}, {}),
    ({"num_mel_bins": 80, "snip_edges": False}, {"num_bins": 80, "snip_edges": False}),
    ({"use_energy": True, "raw_energy": False}, {"use_energy": True, "raw_energy": False}),
    ({"use_energy": True, "htk_compat": True}, {"use_energy": True, "htk_compat": True}),
    ({"use_energy": True, "energy_floor": 1e9}, {"use_energy": True, "energy_floor": 1e9}),
    ({"use_power": False}, {"use_power": False}),
    ({"preemphasis_coefficient": 0.0, "remove_dc_offset": False}, {"preemph_coeff": 0.0, "remove_dc_offset": False}),
    ({"low_freq": 100.0, "high_freq": -500.0}, {"low_freq": 100.0, "high_freq": -500.0}),
    ({"frame_length": 32.0, "frame_shift": 8.0}, {"frame_length_ms": 32.0, "frame_shift_ms": 8.0}),
    ({"sample_frequency": 8000.0, "num_mel_bins": 15}, {"samp_freq": 8000, "num_bins": 15}),
    *[({"window_type": kind}, {"window_type": kind}) for kind in ("hamming", "hanning", "rectangular", "blackman")],
]


@pytest.mark.parametrize("ours, theirs", SETTINGS, ids=lambda settings: ",".join(map(str, settings.values())) or "-")
def test_options_agree_with_kaldi_native_fbank(ours, theirs):
    samples = speech_like(seed=len(str(ours)))
    found = fbank(samples, FbankOptions(dither=0, **ours))
    assert_log_fbank_equal({"a": found}, {"a": native_fbank(samples, **theirs)})


def test_linear_output_is_the_exponential_of_the_logarithm():
    samples = speech_like()
    linear = fbank(samples, FbankOptions(dither=0, use_log_fbank=False))
    np.testing.assert_allclose(np.log(linear), fbank(samples, FbankOptions(dither=0)), rtol=1e-5)


def test_frames_without_power_of_two():
    """A 400-point FFT, where kaldi-native-fbank has none: against double precision."""
    samples = speech_like(3)
    options = FbankOptions(dither=0, round_to_power_of_two=False)
    frame = frames(samples, options).astype(np.float64)
    frame -= frame.mean(axis=1, keepdims=True)
    frame[:, 1:] -= 0.97 * frame[:, :-1].copy()
    frame[:, 0] *= 0.03
    power = abs(np.fft.rfft(frame * window("povey", 400))) ** 2
    reference = np.log(power @ mel_banks(23, 400, 16000).T.astype(np.float64))
    assert_log_fbank_equal({"a": fbank(samples, options)}, {"a": reference})


def kaldi_spectrum(frame):
    """Kaldi's real FFT in double precision, but with the float32 factors that it multiplies up step by step."""
    size = frame.shape[1]
    even, odd = np.fft.fft(frame[:, ::2]), np.fft.fft(frame[:, 1::2])
    real, imag, factors = np.float32(1), np.float32(0), np.ones(size // 2, complex)
    angle = np.float32(-2 * np.pi / size)
    root_real, root_imag = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
    for k in range(1, size // 4 + 1):
        real, imag = real * root_real - imag * root_imag, real * root_imag + imag * root_real
        factors[size // 2 - k] = complex(-real, imag)
        factors[k] = complex(real, imag)
    return even + factors * odd


def test_a_loud_tone_leaks_as_in_kaldi():
    """A pure tone: the image at Nyquist minus its frequency comes from Kaldi's FFT, not from the tone."""
    tone = 16000 * np.sin(2 * np.pi * 1000 / 16000 * np.arange(16000))
    options = FbankOptions(dither=0, preemphasis_coefficient=0.0, remove_dc_offset=False, num_mel_bins=40)
    padded = np.zeros((98, 512))
    padded[:, :400] = frames(tone, options).astype(np.float64) * window("povey", 400)
    banks = mel_banks(40, 512, 16000)[:, :-1].T.astype(np.float64)
    kaldis = np.log(abs(kaldi_spectrum(padded)) ** 2 @ banks)
    exact = np.log(abs(np.fft.fft(padded)[:, :256]) ** 2 @ banks)
    ours = fbank(tone, options)
    assert abs(exact - kaldis).max() > 0.1
    assert abs(ours - kaldis).max() < 0.02


@pytest.mark.parametrize("warp", [0.85, 1.0, 1.15])
def test_vtln_filters(warp):
    """The filters of a warped frequency axis, by their definition."""

    def mel(freq):
        return 1127 * np.log(1 + freq / 700)

    def warped(freq):
        lower, upper = 100 * max(1, warp), 7500 * min(1, warp)
        if freq < lower:
            return 20 + (lower / warp - 20) / (lower - 20) * (freq - 20)
        if freq < upper:
            return freq / warp
        return 8000 + (8000 - upper / warp) / (8000 - upper) * (freq - 8000)

    edges = 700 * (np.exp(np.linspace(mel(20), mel(8000), 25) / 1127) - 1)
    edges = mel(np.array([warped(edge) for edge in edges]))
    expected = np.array([np.interp(mel(np.arange(257) * 31.25), edges[i : i + 3], [0, 1, 0]) for i in range(23)])
    expected[:, 256] = 0
    np.testing.assert_allclose(mel_banks(23, 512, 16000, vtln_warp=warp), expected, atol=2e-4)


def test_vtln_keeps_frequencies_outside_the_band():
    freq = np.array([5.0, 20.0, 7999.0, 8000.0])
    found = vtln_warp_freq(freq, 1.1, low_freq=20, high_freq=7900, vtln_low=100, vtln_high=7400)
    np.testing.assert_array_equal(found[[0, 2, 3]], freq[[0, 2, 3]])


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_are_symmetric_and_at_most_one(kind):
    values = window(kind, 401)
    np.testing.assert_allclose(values, values[::-1], atol=1e-6)
    assert values.max() == values[200] == pytest.approx(1.0)


@pytest.mark.parametrize("snip_edges", [True, False])
@pytest.mark.parametrize("length", [1, 79, 80, 200, 399, 400, 401, 559, 560, 561, 1000])
def test_number_of_frames_and_reflection(length, snip_edges):
    options = FbankOptions(snip_edges=snip_edges)
    expected = (max(0, 1 + (length - 400) // 160) if length >= 400 else 0) if snip_edges else (length + 80) // 160
    samples = np.arange(length, dtype=np.float32)
    found = frames(samples, options)
    assert num_frames(length, options) == expected and found.shape == (expected, 400)
    for t in range(expected):
        for i in range(0, 400, 7):
            place = t * 160 + i + (0 if snip_edges else 80 - 200)
            while not 0 <= place < length:
                place = -place - 1 if place < 0 else 2 * length - 1 - place
            assert found[t, i] == samples[place]


def test_shift_longer_than_frame():
    options = FbankOptions(frame_length=10, frame_shift=20, snip_edges=False)
    samples = np.arange(1000, dtype=np.float32)
    np.testing.assert_array_equal(frames(samples, options)[:, 0], 80 + 320 * np.arange(3))


def test_silence_is_the_floor_and_an_offset_is_silence():
    for level in (0, 12345):
        features = fbank(np.full(8000, level), FbankOptions(dither=0))
        np.testing.assert_allclose(features, np.log(np.finfo(np.float32).eps), rtol=1e-6)


def test_dither_is_noise_of_the_given_deviation():
    options = FbankOptions(dither=3.0, use_energy=True, remove_dc_offset=False)
    energy = np.exp(fbank(np.zeros(160000), options, rng=np.random.default_rng(5))[:, 0]) / 400
    assert energy.mean() == pytest.approx(9.0, rel=0.01)
    assert energy.std() == pytest.approx(9.0 * np.sqrt(2 / 400), rel=0.1)


def test_dither_depends_on_seed_and_key_only(tmp_path):
    for key in "abc":
        soundfile.write(str(tmp_path / f"{key}.wav"), speech_like(), 16000)
    (tmp_path / "wav.scp").write_text("".join(f"{key} {key}.wav\n" for key in "abc"))
    (tmp_path / "b.scp").write_text("b b.wav\n")
    succeed("compute-fbank-feats --seed=1 scp:wav.scp ark:1.ark", tmp_path)
    succeed("compute-fbank-feats --seed=1 --num-threads=3 scp:wav.scp ark:2.ark", tmp_path)
    succeed("compute-fbank-feats --seed=1 scp:b.scp ark:b.ark", tmp_path)
    succeed("compute-fbank-feats --seed=2 scp:wav.scp ark:3.ark", tmp_path)
    one, alone, other = (load(tmp_path / name) for name in ("1.ark", "b.ark", "3.ark"))
    assert (tmp_path / "1.ark").read_bytes() == (tmp_path / "2.ark").read_bytes()
    np.testing.assert_array_equal(one["b"], alone["b"])
    assert not np.array_equal(one["a"], one["b"])
    assert not np.array_equal(one["a"], other["a"])


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"num_mel_bins": 2}, "num-mel-bins"),
        ({"num_mel_bins": 200}, "num-mel-bins"),
        ({"low_freq": 9000.0}, "low-freq"),
        ({"high_freq": 9000.0}, "high-freq"),
        ({"window_type": "kaiser"}, "kaiser"),
        ({"frame_shift": 0.0}, "frame-shift"),
        ({"frame_length": 0.01}, "frame-length"),
        ({"frame_length": float("nan")}, "frame length"),
        ({"sample_frequency": -8000.0}, "-8000 Hz"),
        ({"sample_frequency": float("inf")}, "inf Hz"),
        ({"preemphasis_coefficient": 1.5}, "preemphasis"),
        ({"dither": float("nan")}, "dither"),
        ({"frame_length": 25.07, "round_to_power_of_two": False}, "even"),
    ],
)
def test_impossible_options_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        fbank(np.zeros(16000), FbankOptions(**{"dither": 0, **settings}))


def test_more_than_one_channel_is_refused():
    with pytest.raises(InputError, match="channel"):
        fbank(np.zeros((2, 16000)), FbankOptions(dither=0))


def test_impossible_vtln_is_refused():
    with pytest.raises(InputError, match="VTLN"):
        fbank(np.zeros(16000), FbankOptions(dither=0), vtln_warp=100.0)


@pytest.fixture
def corpus(tmp_path):
    """Recordings of every sort that a tool must cope with."""
    samples = speech_like()
    soundfile.write(str(tmp_path / "mono.wav"), samples, 16000)
    soundfile.write(str(tmp_path / "stereo.wav"), np.stack([samples, samples[::-1]], 1), 16000)
    soundfile.write(str(tmp_path / "short.wav"), samples[:399], 16000)
    soundfile.write(str(tmp_path / "narrow.wav"), speech_like(rate=8000), 8000)
    names = ("mono", "narrow", "short", "stereo")
    (tmp_path / "wav.scp").write_text("".join(f"{name} {name}.wav\n" for name in names))
    return tmp_path


def test_a_recording_with_another_rate_or_channel_is_skipped_with_a_warning(corpus):
    log = succeed("compute-fbank-feats --dither=0 --write-utt2dur=ark,t:utt2dur scp:wav.scp ark:f.ark", corpus)
    features = load(corpus / "f.ark")
    assert {key: value.shape for key, value in features.items()} == {
        "mono": (98, 23), "short": (0, 0), "stereo": (98, 23)
    }  # fmt: skip
    np.testing.assert_array_equal(features["mono"], features["stereo"])
    np.testing.assert_allclose(features["mono"], fbank(speech_like(), FbankOptions(dither=0)), atol=1e-5)
    assert "narrow: Waveform and config sample Frequency mismatch" in log
    assert "2 channels; defaulting to zero" in log
    assert "Done 3 out of 4 utterances." in log
    assert (corpus / "utt2dur").read_text() == "mono 1 \nshort 0.0249375 \nstereo 1 \n"


def test_channel_rate_and_duration_options(corpus):
    log = succeed("compute-fbank-feats --dither=0 --channel=1 scp:wav.scp ark:f.ark", corpus)
    features = load(corpus / "f.ark")
    assert list(features) == ["stereo"] and log.count("channels but you specified channel 1") == 3
    np.testing.assert_allclose(features["stereo"], fbank(speech_like()[::-1], FbankOptions(dither=0)), atol=1e-5)
    succeed("compute-fbank-feats --dither=0 --allow-upsample=true --min-duration=0.5 scp:wav.scp ark:f.ark", corpus)
    features = load(corpus / "f.ark")
    assert list(features) == ["mono", "narrow", "stereo"] and features["narrow"].shape == (98, 23)
    succeed("compute-fbank-feats --dither=0 --allow-downsample=true --sample-frequency=8000 --num-mel-bins=15 "
            "scp:wav.scp ark:f.ark", corpus)  # fmt: skip
    assert load(corpus / "f.ark")["mono"].shape == (98, 15)


def test_vtln_maps_and_mean_subtraction(corpus):
    (corpus / "warps").write_text("spk1 1.1\nspk2 0.9\n")
    (corpus / "utt2spk").write_text("mono spk1\nshort spk1\nstereo spk3\n")
    command = "compute-fbank-feats --dither=0 --vtln-map=ark:warps --utt2spk=ark:utt2spk --subtract-mean=true"
    log = succeed(f"{command} scp:wav.scp ark:f.ark", corpus)
    assert "No vtln-map entry for utterance-id (or speaker-id) stereo" in log
    expected = fbank(speech_like(), FbankOptions(dither=0), vtln_warp=1.1)
    found = load(corpus / "f.ark")["mono"]
    np.testing.assert_allclose(found, expected - expected.mean(axis=0), atol=2e-5)
    succeed("compute-fbank-feats --dither=0 --vtln-warp=1.1 scp:wav.scp ark:g.ark", corpus)
    np.testing.assert_allclose(load(corpus / "g.ark")["mono"], expected, atol=1e-5)
    assert "vtln-map" in refuse("compute-fbank-feats --utt2spk=ark:utt2spk scp:wav.scp ark:f.ark", corpus)


def test_htk_files(corpus):
    (corpus / "one.scp").write_text("mono mono.wav\n")
    (corpus / "htk.scp").write_text("mono mono.htk\n")
    succeed("compute-fbank-feats --dither=0 --output-format=htk scp:one.scp scp:htk.scp", corpus)
    data = (corpus / "mono.htk").read_bytes()
    header = np.frombuffer(data, ">i4", 2), np.frombuffer(data, ">u2", 2, 8)
    assert [*header[0], *header[1]] == [98, 100000, 92, 0o7 | 0o20000]
    features = np.frombuffer(data, ">f4", offset=12).reshape(98, 23)
    np.testing.assert_allclose(features, fbank(speech_like(), FbankOptions(dither=0)), atol=1e-5)


def test_exit_status_is_one_if_nothing_was_done(corpus):
    (corpus / "narrow.scp").write_text("narrow narrow.wav\n")
    assert shell("compute-fbank-feats scp:narrow.scp ark:f.ark", corpus).returncode == 1
    assert "num-mel-bins" in refuse("compute-fbank-feats --num-mel-bins=500 scp:wav.scp ark:new.ark", corpus)
    assert "output_format" in refuse("compute-fbank-feats --output-format=xml scp:wav.scp ark:new.ark", corpus)
    assert "num-threads" in refuse("compute-fbank-feats --num-threads=0 scp:wav.scp ark:new.ark", corpus)
    assert "seed" in refuse("compute-fbank-feats --seed=-1 scp:wav.scp ark:new.ark", corpus)
    assert not (corpus / "new.ark").exists()
