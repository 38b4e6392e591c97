"""Recordings of any length: the embedding is that of the whole, and memory follows the chunk."""

import numpy as np
import pytest
import soundfile
import torch
from tiny_models import FBANK, MELSPEC, write_model

from sdpn_k2.errors import InputError
from sdpn_k2.inference import long_recordings
from sdpn_k2.inference.embedder import Embedder
from sdpn_k2.inference.extraction import Extractor, extract
from sdpn_k2.inference.long_recordings import LongFeatures, resampled, without_silence
from sdpn_k2.kaldi.datadir.data_dir_ops import write_data_dir
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.sound import Sound
from sdpn_k2.kaldi.features.wave import to_wav_command
from sdpn_k2.kaldi.formats.tables import read_table
from sdpn_k2.pcm import INT16_SCALE
from sdpn_k2.signal.silence import cut_silence

RNG = np.random.default_rng(0)


@pytest.fixture(params=["fbank", "melspec"])
def model(request, tmp_path):
    return write_model(tmp_path / "final.pt", FBANK if request.param == "fbank" else MELSPEC)


@pytest.mark.parametrize("rates", [(16000, 16000), (8000, 16000), (44100, 16000), (48000, 16000), (16000, 22050)])
@pytest.mark.parametrize("size", [700, 5000, 100_000])
def test_resampling_in_blocks(rates, size, monkeypatch):
    monkeypatch.setattr(long_recordings, "BLOCK_SAMPLES", 4000)
    signal = RNG.normal(size=30_011).astype(np.float32)
    blocks = (signal[start : start + size] for start in range(0, len(signal), size))
    joined = np.concatenate(list(resampled(blocks, *rates)))
    np.testing.assert_allclose(joined, resample(signal, *rates), atol=2e-6)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_the_embedding_is_that_of_the_whole(model, rate, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "x.flac", np.stack([0 * (x := 0.1 * RNG.standard_normal(13 * rate + 77)), x], 1), rate)
    embedder = Embedder.load(model, max_duration=3.0)
    whole = embedder.embed(tmp_path / "x.flac", channel=1)
    monkeypatch.setattr(long_recordings, "LONG_SECONDS", 5.0)
    monkeypatch.setattr(long_recordings, "LONG_BYTES", 100)
    np.testing.assert_allclose(embedder.embed(tmp_path / "x.flac", channel=1), whole, atol=1e-4)
    many = embedder.embed_many([str(tmp_path / "x.flac")], tmp_path / "out.npy", channel=1)
    np.testing.assert_allclose(many[str(tmp_path / "x.flac")], whole, atol=1e-4)


def test_extraction_of_long_recordings(model, tmp_path, monkeypatch):
    names = {}
    for name, seconds in (("s-a", 2), ("s-b", 11), ("s-c", 3), ("s-d", 9)):
        path = tmp_path / (f"{name}.wav" if name != "s-d" else f"{name}.flac")
        soundfile.write(path, 0.1 * RNG.standard_normal(seconds * 16000), 16000)
        names[name] = str(path) if name != "s-d" else to_wav_command(str(path))
    write_data_dir(tmp_path / "data", names, dict.fromkeys(names, "s"))
    extractor = Extractor.load(model, max_duration=3.0)
    extract(extractor, tmp_path / "data", f"ark:{tmp_path}/whole.ark")
    monkeypatch.setattr(long_recordings, "LONG_SECONDS", 5.0)
    monkeypatch.setattr(long_recordings, "LONG_BYTES", 100)
    made = []
    original = LongFeatures.__init__
    monkeypatch.setattr(LongFeatures, "__init__", lambda self, *rest: (made.append(rest[1]), original(self, *rest))[1])
    extract(extractor, tmp_path / "data", f"ark:{tmp_path}/chunks.ark")
    assert made == [names["s-b"], str(tmp_path / "s-d.flac")]
    whole, chunks = (list(read_table(f"ark:{tmp_path}/{name}.ark", "vector")) for name in ("whole", "chunks"))
    assert [key for key, _ in whole] == [key for key, _ in chunks] == sorted(names)
    for (_, expected), (_, vector) in zip(whole, chunks):
        np.testing.assert_allclose(vector, expected, atol=1e-4)


def test_ten_hours_never_hold_more_than_a_chunk(tmp_path, monkeypatch):
    """The recording is counted, not stored: 10 h of blocks come from a generator."""
    second = 0.1 * RNG.standard_normal((16000, 1)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", second, 16000)

    def blocks(self, size=0):
        for _ in range(3600):
            self.read_to += 160_000
            yield np.tile(second, (10, 1))

    monkeypatch.setattr(Sound, "blocks", blocks)
    extractor = Extractor.load(write_model(tmp_path / "final.pt"))
    features = LongFeatures(extractor.front_end, str(tmp_path / "x.wav"), FBANK, 0)
    assert len(features) == 1 + (36_000 * 16000 - 400) // 160
    largest, total = 0, 0
    extractor.front_end.forward = lambda waveform: (
        torch.zeros(1, 1 + (waveform.shape[1] - 400) // 160, 80).narrow(2, 0, 1) + 0 * waveform[0, 0]
    )
    for chunk in features.chunks(600):
        largest, total = max(largest, len(chunk)), total + len(chunk)
    assert total == len(features) and largest <= 6000


@pytest.mark.parametrize("size", [3, 50, 160, 1000])
def test_silence_is_cut_across_blocks(size):
    signal = (1000 * RNG.standard_normal(4000)).round().astype(np.float32)
    for start, length in ((0, 200), (500, 159), (900, 160), (1500, 161), (2000, 1300), (3900, 100)):
        signal[start : start + length] = RNG.integers(-1, 2, length)
    signal /= INT16_SCALE
    blocks = (signal[start : start + size] for start in range(0, len(signal), size))
    cut, lengths = cut_silence(torch.from_numpy(signal)[None], 160)
    assert lengths.item() < 4000 - 200 - 160 - 161 - 1300 + 10
    np.testing.assert_array_equal(np.concatenate(list(without_silence(blocks, 160))), cut[0, : lengths.item()])


def test_silence_in_long_recordings_does_not_count(tmp_path, monkeypatch):
    model = write_model(tmp_path / "final.pt", FBANK)
    speech = 0.1 * RNG.standard_normal(9 * 16000)
    soundfile.write(tmp_path / "x.wav", speech, 16000)
    pause = np.zeros(7 * 16000)
    soundfile.write(tmp_path / "y.wav", np.concatenate([speech[:40000], pause, speech[40000:], pause]), 16000)
    soundfile.write(tmp_path / "z.wav", np.concatenate([pause, [1 / INT16_SCALE], pause]), 16000)
    embedder = Embedder.load(model, max_duration=3.0)
    whole = embedder.embed(tmp_path / "x.wav")
    monkeypatch.setattr(long_recordings, "LONG_SECONDS", 5.0)
    monkeypatch.setattr(long_recordings, "LONG_BYTES", 100)
    np.testing.assert_allclose(embedder.embed(tmp_path / "y.wav"), whole, atol=1e-4)
    with pytest.raises(InputError, match="z.wav: digital silence throughout"):
        embedder.embed(tmp_path / "z.wav")
