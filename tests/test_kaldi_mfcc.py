"""MFCC: against Kaldi's files, kaldi-native-fbank and the cosine transform of the filterbank."""

import kaldi_native_fbank as knf
import numpy as np
import pytest
import soundfile
from golden_features import STEP, read_tables, run_line, write_waves
from kaldi_support import load, refuse, run_golden_line, speech_like, succeed
from scipy.fft import dct

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.fbank_mfcc import FbankOptions, MfccOptions, fbank, mfcc

# Kaldi's archives, and what tells their command lines apart.
GOLDEN = {
    "mfcc30": "ark,scp:mfcc30.ark",
    "mfcc_default": "ark,scp:mfcc_default.ark",
    "mfcc_energy": "ark:mfcc_energy.ark",
}


def assert_cepstra_equal(ours, kaldis):
    assert list(ours) == list(kaldis)
    for key, reference in kaldis.items():
        assert ours[key].shape == reference.shape
        assert abs(ours[key] - reference).max() <= 3e-2


@pytest.mark.parametrize("name", GOLDEN)
def test_features_of_signals_equal_kaldis(name, golden, tmp_path):
    write_waves(tmp_path)
    run_line(golden, tmp_path, GOLDEN[name])
    ours, kaldis = load(tmp_path / f"{name}.ark"), read_tables(golden / "signal_features.npz")[name]
    assert_cepstra_equal({key: ours[key][::STEP] for key in kaldis}, kaldis)


def test_features_and_decisions_on_speech_equal_kaldis(shared, tmp_path):
    """Our MFCC differ from Kaldi's in the last digits; the decisions of the VAD do not."""
    for name, part in GOLDEN.items():
        kaldis = run_golden_line(shared, tmp_path, part)
        assert_cepstra_equal(load(tmp_path / f"{name}.ark"), load(kaldis / f"{name}.ark"))
    for part in ("--vad-energy-threshold=5.5", "select-voiced-frames"):
        run_golden_line(shared, tmp_path, part)
    assert (tmp_path / "vad.txt").read_bytes() == (kaldis / "vad.txt").read_bytes()
    assert_cepstra_equal(load(tmp_path / "mfcc30_voiced.scp"), load(kaldis / "mfcc30_voiced.scp"))


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ({}, {}),
        ({"use_energy": False}, {"use_energy": False}),
        ({"use_energy": False, "htk_compat": True}, {"use_energy": False, "htk_compat": True}),
        ({"htk_compat": True}, {"htk_compat": True}),
        ({"raw_energy": False, "energy_floor": 1e8}, {"raw_energy": False, "energy_floor": 1e8}),
        ({"num_mel_bins": 40, "num_ceps": 40}, {"num_bins": 40, "num_ceps": 40}),
        ({"num_ceps": 20, "cepstral_lifter": 0.0}, {"num_ceps": 20, "cepstral_lifter": 0.0}),
        ({"num_ceps": 5, "cepstral_lifter": 10.0}, {"num_ceps": 5, "cepstral_lifter": 10.0}),
    ],
    ids=lambda settings: ",".join(map(str, settings.values())) or "-",
)
def test_options_agree_with_kaldi_native_fbank(ours, theirs):
    options = knf.MfccOptions()
    options.frame_opts.dither = 0
    for name, value in theirs.items():
        setattr(options if hasattr(options, name) else options.mel_opts, name, value)
    samples = speech_like(seed=len(str(ours)))
    computer = knf.OnlineMfcc(options)
    computer.accept_waveform(16000, samples.astype(np.float32).tolist())
    computer.input_finished()
    reference = np.array([computer.get_frame(i) for i in range(computer.num_frames_ready)])
    np.testing.assert_allclose(mfcc(samples, MfccOptions(dither=0, **ours)), reference, atol=5e-3)


def test_cepstra_are_the_liftered_cosine_transform_of_the_filterbank():
    samples = speech_like(4)
    cepstra = dct(fbank(samples, FbankOptions(dither=0)).astype(np.float64), norm="ortho")[:, :13]
    cepstra *= 1 + 11 * np.sin(np.pi * np.arange(13) / 22)
    np.testing.assert_allclose(mfcc(samples, MfccOptions(dither=0, use_energy=False)), cepstra, atol=1e-4)


def test_impossible_cepstra_are_refused(tmp_path):
    with pytest.raises(InputError, match="num-ceps"):
        mfcc(speech_like(), MfccOptions(dither=0, num_ceps=24))
    soundfile.write(str(tmp_path / "a.wav"), speech_like(), 16000)
    (tmp_path / "wav.scp").write_text("a a.wav\n")
    for option in ("--num-ceps=0", "--cepstral-lifter=inf"):
        assert option[:10] in refuse(f"compute-mfcc-feats {option} scp:wav.scp ark:f.ark", tmp_path)


def test_htk_kind_says_mfcc_with_energy(tmp_path):
    soundfile.write(str(tmp_path / "a.wav"), speech_like(), 16000)
    (tmp_path / "wav.scp").write_text("a a.wav\n")
    (tmp_path / "htk.scp").write_text("a a.htk\n")
    succeed("compute-mfcc-feats --frame-shift=12.5 --output-format=htk scp:wav.scp scp:htk.scp", tmp_path)
    frames, shift, bytes_per_frame, kind = (
        int(np.frombuffer((tmp_path / "a.htk").read_bytes(), dtype, 1, offset)[0])
        for dtype, offset in ((">i4", 0), (">i4", 4), (">i2", 8), (">u2", 10))
    )
    assert (frames, shift, bytes_per_frame, kind) == (1 + (16000 - 400) // 200, 125000, 52, 0o6 | 0o100)
