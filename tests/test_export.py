"""Exported encoders compared with PyTorch, and models that cannot be exported."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_models import MELSPEC, write_data, write_model

import sdpn_k2.inference.export as export_module
from sdpn_k2.cli import cli
from sdpn_k2.config import FeaturesConfig
from sdpn_k2.errors import InputError
from sdpn_k2.inference.export import export, load_exported
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi.datadir.utterances import read_utterances
from sdpn_k2.signal.convolution import ConvolvedFrontEnd
from sdpn_k2.signal.front_end import front_end

needs_onnx = pytest.mark.skipif(torch.__version__ < "2.5", reason="ONNX export needs torch 2.5")


@pytest.fixture(scope="module")
def data(speech, tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), speech)


@pytest.fixture(scope="module")
def waveforms(data):
    return [samples for _, samples in read_utterances(data, 16000)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"fbank": write_model(folder / "fbank.pt"), "melspec": write_model(folder / "melspec.pt", MELSPEC)}


@pytest.mark.parametrize(
    "config",
    [
        FeaturesConfig(),
        MELSPEC,
        FeaturesConfig(kind="melspec", low_freq=40.0, high_freq=-500.0),
        FeaturesConfig(sample_rate=8000, num_mel_bins=40, high_freq=3700.0),
    ],
)
def test_front_ends_as_a_convolution(waveforms, config):
    batch = torch.from_numpy(np.stack([samples[:20000] for samples in waveforms[:2]]))
    usual, convolved = front_end(config), ConvolvedFrontEnd(front_end(config))
    expected = usual(batch)
    assert convolved(batch).shape == expected.shape
    # Both lose precision in quiet bins, but not in the same ones.
    difference = convolved(batch) - expected
    assert float(difference.norm() / expected.norm()) < 1e-5 and float(difference.abs().max()) < 0.02


def test_front_end_as_a_convolution_with_an_offset(waveforms):
    """A constant in the recording is removed to float32's precision."""
    batch = torch.from_numpy(waveforms[0])[None] + 0.01
    difference = ConvolvedFrontEnd(front_end(FeaturesConfig()))(batch) - front_end(FeaturesConfig())(batch)
    assert float(difference.abs().mean()) < 1e-3


@pytest.mark.parametrize(
    "kind, source, suffix",
    [
        ("fbank", "waveform", ".ts"),
        ("fbank", "fbank", ".ts"),
        ("melspec", "waveform", ".ts"),
        pytest.param("fbank", "waveform", ".pt2", marks=[needs_onnx, pytest.mark.slow]),
        pytest.param("fbank", "waveform", ".onnx", marks=[needs_onnx, pytest.mark.slow]),
        pytest.param("fbank", "fbank", ".onnx", marks=[needs_onnx, pytest.mark.slow]),
    ],
)
def test_exports_equal_pytorch_at_other_lengths(models, data, waveforms, tmp_path, kind, source, suffix):
    output = tmp_path / f"encoder{suffix}"
    result = CliRunner().invoke(cli, ["export", "--input", source, str(models[kind]), str(data), str(output)])
    assert result.exit_code == 0, result.output + str(result.exception)
    assert f"{source} (batch, " in result.output and "→ embedding (batch, 24)" in result.output
    assert float(re.search(r"8 utterances: (\S+)", result.output).group(1)) < 1e-4
    run, extractor = load_exported(output), Extractor.load(models[kind])

    def given(samples):
        return samples if source == "waveform" else extractor.compute_features(samples).numpy()

    long = np.concatenate(waveforms[:6])
    for samples in (long, waveforms[8], waveforms[8][:3000], waveforms[8][: shortest(extractor)]):
        ours, expected = run(given(samples)[None])[0], extractor.embed(samples)
        assert np.linalg.norm(ours - expected) < 1e-4 * np.linalg.norm(expected)
    batch = np.stack([given(samples[:16000]) for samples in waveforms[:5]])
    expected = np.stack([extractor.embed(samples[:16000]) for samples in waveforms[:5]])
    np.testing.assert_allclose(run(batch), expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))
    assert list(tmp_path.iterdir()) == [output]


def shortest(extractor):
    return next(n for n in range(1, 5000) if extractor.front_end.num_frames(n) >= 5)


@needs_onnx
@pytest.mark.slow
def test_int8_export_reports_its_cost(models, data, waveforms, tmp_path):
    import onnx

    output = tmp_path / "small.onnx"
    result = CliRunner().invoke(cli, ["export", "--int8", str(models["melspec"]), str(data), str(output)])
    assert result.exit_code == 0, result.output + str(result.exception)
    (line,) = [line for line in result.output.splitlines() if line.startswith("int8: ")]
    small, large, int8_eer, float_eer, trials, cosine = map(float, re.findall(r"\d+(?:\.\d+)?", line[len("int8: ") :]))
    assert small < large and trials == 36 and cosine > 0.99 and 0 <= int8_eer <= 100
    graph = onnx.load(str(output))
    operations = [node.op_type for node in graph.graph.node]
    assert operations.count("ConvInteger") > 20 and operations.count("Conv") == 1
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert metadata["input"] == "waveform" and json.loads(metadata["features"])["kind"] == "melspec"

    # The EERs are those of the scores by definition.
    extractor, run = Extractor.load(models["melspec"]), load_exported(output)
    names = [name for name, _ in read_utterances(data, 16000)]
    for eer, embeddings in (
        (float_eer, [extractor.embed(samples) for samples in waveforms]),
        (int8_eer, [run(samples[None])[0] for samples in waveforms]),
    ):
        unit = dict(zip(names, (e / np.linalg.norm(e) for e in embeddings)))
        trials = [line.split() for line in (data / "trials").read_text().splitlines()]
        scores = np.array([unit[a] @ unit[b] for a, b, _ in trials])
        target = np.array([kind == "target" for _, _, kind in trials])
        thresholds = np.sort(scores)
        miss = np.array([(scores[target] < t).mean() for t in thresholds])
        false_alarm = np.array([(scores[~target] >= t).mean() for t in thresholds])
        crossing = np.argmax(miss >= false_alarm)
        low, high = sorted(
            (100 * min(miss[crossing], false_alarm[crossing - 1]), 100 * max(false_alarm[crossing - 1], miss[crossing]))
        )
        assert low - 0.01 <= eer <= high + 0.01


# Bad input.


def test_models_that_cannot_be_exported_are_refused(models, data, tmp_path):
    def refused(message, *arguments, **options):
        with pytest.raises(InputError, match=message):
            export(*arguments, **options)
        assert not list(tmp_path.glob("e*"))

    refused("melspec.pt: .*--input waveform", models["melspec"], data, tmp_path / "e.ts", source="fbank")
    refused("e.tflite: .*.onnx, .pt2, .ts", models["fbank"], data, tmp_path / "e.tflite")
    refused("e.ts: .*int8", models["fbank"], data, tmp_path / "e.ts", int8=True)
    refused("none/e.ts: .*none", models["fbank"], data, tmp_path / "none" / "e.ts")
    empty = tmp_path / "data"
    empty.mkdir()
    (empty / "wav.scp").write_text("a nowhere.wav\n")
    refused("data: no usable utterances", models["fbank"], empty, tmp_path / "e.ts")
    refused("data/trials", models["fbank"], empty, tmp_path / "e.onnx", int8=True)


def test_an_export_that_differs_is_not_written(models, data, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "TOLERANCE", 1e-12)
    with pytest.raises(InputError, match="e.ts: not written.* 1e-12"):
        export(models["fbank"], data, tmp_path / "e.ts")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_torch_before_2_5_exports_only_torchscript(models, data, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.4.1+cpu"))
    with pytest.raises(InputError, match=r"torch 2.4.1\+cpu .*\.ts"):
        export(models["fbank"], data, tmp_path / f"e{suffix}")


@needs_onnx
def test_missing_onnx_packages_are_named(models, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'sdpn_k2\[export\]'"):
        export(models["fbank"], data, tmp_path / "e.onnx")
