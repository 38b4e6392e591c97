"""Extraction from a data directory: reading ahead, and utterances without an embedding."""

import numpy as np
import pytest
import torch
from tiny_models import write_model

from sdpn_k2.errors import InputError
from sdpn_k2.inference import extraction
from sdpn_k2.inference.extraction import Extractor, extract
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.formats.tables import TableWriter


@pytest.fixture
def data(tmp_path):
    """Stored fbank of 40 utterances, of 20 to 59 frames."""
    rng = np.random.default_rng(0)
    with TableWriter(f"ark,scp:{tmp_path}/feats.ark,{tmp_path}/feats.scp", "matrix") as writer:
        for index in range(40):
            writer.write(f"u{index:02d}", rng.normal(size=(20 + index, 80)).astype(np.float32))
    return tmp_path


def test_long_utterances_are_not_read_far_ahead(data, monkeypatch):
    extractor = Extractor.load(write_model(data / "model.pt"))
    monkeypatch.setattr(extraction, "BLOCK_FRAMES", 100)
    sizes = []
    embed = extractor.embed_fbank
    monkeypatch.setattr(extractor, "embed_fbank", lambda block: sizes.append([len(x) for x in block]) or embed(block))
    assert extract(extractor, data, f"ark:{data}/x.ark") == 40
    assert sum(map(len, sizes)) == 40 and all(sum(block[:-1]) < 100 for block in sizes)


def test_embeddings_that_are_not_finite_are_failures(data, monkeypatch, caplog):
    extractor = Extractor.load(write_model(data / "model.pt"))
    embed = extractor.embed_fbank

    def one_is_nan(block):
        embeddings = embed(block)
        embeddings[3, 0] = np.nan
        return embeddings

    monkeypatch.setattr(extractor, "embed_fbank", one_is_nan)
    assert extract(extractor, data, f"ark,scp:{data}/x.ark,{data}/x.scp") == 39
    assert "u03" not in read_map(data / "x.scp") and "skipped utterance u03" in caplog.text

    def most_are_nan(block):
        embeddings = embed(block)
        embeddings[1:] = np.nan
        return embeddings

    monkeypatch.setattr(extractor, "embed_fbank", most_are_nan)
    with pytest.raises(InputError, match=r"39 of 40 .*at most 5 %, see --skip-bad"):
        extract(extractor, data, f"ark:{data}/y.ark")
    assert extract(extractor, data, f"ark:{data}/y.ark", skip_bad=True) == 1
    monkeypatch.setattr(extractor, "embed_fbank", embed)
    with torch.no_grad():
        extractor.encoder.linear.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="40 of 40 .*'u00'"):
        extract(extractor, data, f"ark:{data}/x.ark")


def test_long_audio_is_embedded_in_equal_chunks_whose_embeddings_are_averaged(data):
    extractor = Extractor.load(write_model(data / "model.pt"), max_duration=0.5)
    fbank = np.random.default_rng(0).normal(size=(120, 80)).astype(np.float32)  # 120 frames: 3 chunks of 40, below 50
    chunks = [extractor.embed_fbank([chunk])[0] for chunk in np.split(fbank, 3)]
    assert np.abs(chunks[0] - chunks[1]).max() > 1e-2
    np.testing.assert_allclose(extractor.embed_fbank([fbank])[0], np.mean(chunks, axis=0), rtol=1e-4, atol=1e-6)


def test_audio_of_fewer_than_five_frames_is_refused(data):
    extractor = Extractor.load(write_model(data / "model.pt"))
    samples = np.random.default_rng(1).normal(size=1040) * 0.1  # 65 ms: frames of 25 ms, every 10 ms
    assert extractor.embed(samples).shape == (extractor.dim,)
    with pytest.raises(InputError, match=r"\b1039\b.*\b5\b"):
        extractor.embed(samples[:-1])
