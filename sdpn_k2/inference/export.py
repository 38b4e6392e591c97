"""Export of the encoder to a file that runs without this package and, for ONNX, without torch.

The suffix names the format: ``.onnx`` (ONNX), ``.pt2`` (torch.export) or ``.ts`` (TorchScript). The input is the
waveform (float32 in ±1), or Kaldi's fbank as in ``feats.scp``; the output is the embedding. Instance normalisation is
part of the exported model, and so is leaving out digital silence, if the model does. An utterance with fewer than 5
other frames then has an embedding of NaN. Batch size and length are dynamic; all utterances of a batch have the same
length. The file is written only if its embeddings of real utterances agree with PyTorch's.
"""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from sdpn_k2.config import config_to_dict
from sdpn_k2.errors import InputError, Skipped
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.inference.utterance_features import compute_features, embeddable_frames
from sdpn_k2.kaldi.datadir.utterances import read_utterances
from sdpn_k2.models.checkpoint import load_checkpoint
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.scoring.cosine import score_trials
from sdpn_k2.scoring.embeddings import Embeddings
from sdpn_k2.scoring.evaluation import error_rates
from sdpn_k2.scoring.metrics import eer
from sdpn_k2.scoring.trial_arrays import Trials, read_trials
from sdpn_k2.signal.convolution import ConvolvedFrontEnd
from sdpn_k2.signal.fbank import instance_norm
from sdpn_k2.signal.silence import compact, cut_silence, is_silent

TOLERANCE = 1e-4  # largest relative difference from PyTorch, ‖a − b‖ / ‖b‖
VERIFIED_UTTERANCES = 8
VERIFIED_SECONDS = 20.0  # longer utterances are cut
FORMATS = (".onnx", ".pt2", ".ts")

Run = Callable[[np.ndarray], np.ndarray]


class Quantisation(NamedTuple):
    """The cost of int8 on labelled trials."""

    float_bytes: int
    int8_bytes: int
    float_eer: float  # per cent
    int8_eer: float
    mean_cosine: float  # between an utterance's two embeddings
    trials: int


class Export(NamedTuple):
    """Summary of an export and its verification."""

    signature: str
    utterances: int
    difference: float  # largest relative difference from PyTorch
    quantisation: Optional[Quantisation]


class StandaloneEncoder(nn.Module):
    """The module to export: front end, instance normalisation and encoder."""

    def __init__(self, extractor: Extractor, source: str):
        super().__init__()
        self.front_end = ConvolvedFrontEnd(extractor.front_end) if source == "waveform" else nn.Identity()
        self.encoder = extractor.encoder
        self.features = extractor.features
        num_frames = extractor.front_end.num_frames if source == "waveform" else lambda frames: frames
        self.min_length = next(n for n in itertools.count(1) if num_frames(n) >= EcapaTdnn.MIN_FRAMES)

    def forward(self, x: Tensor) -> Tensor:
        """Map waveforms ``(batch, samples)`` or fbank ``(batch, frames, bins)`` to embeddings ``(batch, dim)``."""
        if self.features.silence == "keep":
            return self.encoder(instance_norm(self.front_end(x)))
        frames = None
        if isinstance(self.front_end, ConvolvedFrontEnd):
            x, samples = cut_silence(x, self.front_end.shift)
            frames = self.front_end.num_frames(samples)
        features = self.front_end(x)
        signal, lengths = compact(features, frames)
        usable = lengths >= EcapaTdnn.MIN_FRAMES
        if x.ndim == 3:
            usable &= ~is_silent(features)
        lengths = lengths.clamp(min=EcapaTdnn.MIN_FRAMES)
        embeddings = self.encoder(instance_norm(signal, lengths), lengths)
        return embeddings.masked_fill(~usable.unsqueeze(1), torch.nan)


def export(checkpoint: Path, data_dir: Path, output: Path, source: str = "waveform", int8: bool = False) -> Export:
    """Write the teacher's encoder to ``output`` after verifying it on utterances of ``data_dir``.

    Args:
        checkpoint: a checkpoint of this package.
        data_dir: Kaldi data directory with ``wav.scp``; int8 also needs its ``trials``.
        output: file whose suffix names the format.
        source: input of the exported model, ``waveform`` or ``fbank``.
        int8: quantise weights to 8 bits, and activations dynamically (ONNX only).

    Raises:
        InputError: an unknown format; a front end or torch that does not support it; no usable utterances; a result
            that differs from PyTorch by more than 1e-4.
    """
    if output.suffix not in FORMATS:
        raise InputError(f"{output}: the suffix should be one of {', '.join(FORMATS)}")
    if int8 and output.suffix != ".onnx":
        raise InputError(f"{output}: int8 needs .onnx")
    trials = read_trials(data_dir / "trials") if int8 else None
    extractor = Extractor.load(checkpoint)
    features = extractor.features
    if source == "fbank" and features.kind != "fbank":
        raise InputError(
            f"{checkpoint}: its front end is {features.kind}, which cannot use Kaldi's fbank; use --input waveform"
        )
    encoder = StandaloneEncoder(extractor, source).eval()
    waveforms = list(itertools.islice(_usable(data_dir, extractor), VERIFIED_UTTERANCES))
    if not waveforms:
        raise InputError(f"{data_dir}: no usable utterances to verify the export with")
    inputs = [_input_of(extractor, source, samples) for _, samples in waveforms]
    shape = f"samples) at {features.sample_rate} Hz" if source == "waveform" else f"frames, {features.num_mel_bins})"
    signature = f"{source} (batch, {shape} → embedding (batch, {extractor.dim})"

    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=_folder(output)) as scratch:
        made = Path(scratch) / output.name
        _WRITERS[output.suffix](encoder, torch.from_numpy(np.stack([inputs[0]] * 2)), source, made)
        run = load_exported(made)
        difference = _largest_difference(run, extractor, inputs)
        if not difference <= TOLERANCE:
            raise InputError(
                f"{output}: not written, since it differs from PyTorch by {difference:.1e}, more than {TOLERANCE:g}"
            )
        quantisation = None
        if trials is not None:
            smaller = Path(scratch) / "int8.onnx"
            _quantise(made, smaller)
            utterances = (
                (name, _input_of(extractor, source, samples)) for name, samples in _usable(data_dir, extractor)
            )
            quantisation = _cost(made, smaller, utterances, trials)
            made = smaller
        if output.suffix == ".onnx":
            _describe_onnx(made, checkpoint, source)
        made.replace(output)
    return Export(signature, len(waveforms), difference, quantisation)


def load_exported(path: Path) -> Run:
    """Load an exported encoder as a function from a batch, float32, to its embeddings ``(batch, dim)``.

    Raises:
        InputError: onnxruntime is not installed.
    """
    if path.suffix == ".onnx":
        session = _needed("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda batch: session.run(None, {name: batch})[0]
    module = torch.export.load(str(path)).module() if path.suffix == ".pt2" else torch.jit.load(str(path))
    return lambda batch: module(torch.from_numpy(batch)).detach().numpy()


# Formats


def _write_onnx(encoder: StandaloneEncoder, example: Tensor, source: str, path: Path) -> None:
    _needs_torch_export()
    _needed("onnx")
    _needed("onnxscript")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        encoder,
        (example,),
        str(path),
        dynamo=True,
        verbose=False,
        external_data=False,
        input_names=[source],
        output_names=["embedding"],
        dynamic_shapes=_dynamic_shapes(encoder, example),
    )


def _write_torch_export(encoder: StandaloneEncoder, example: Tensor, source: str, path: Path) -> None:
    _needs_torch_export()
    program = torch.export.export(encoder, (example,), dynamic_shapes=_dynamic_shapes(encoder, example))
    torch.export.save(program, str(path))


def _write_torchscript(encoder: StandaloneEncoder, example: Tensor, source: str, path: Path) -> None:
    with torch.no_grad():
        torch.jit.trace(encoder, example).save(str(path))


def _quietly(write: Callable) -> Callable:
    def quiet(*arguments) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations between torch and its own exporter
            write(*arguments)

    return quiet


_WRITERS = {".onnx": _quietly(_write_onnx), ".pt2": _quietly(_write_torch_export), ".ts": _quietly(_write_torchscript)}


def _dynamic_shapes(encoder: StandaloneEncoder, example: Tensor) -> Tuple[Dict[int, object]]:
    length = "samples" if example.ndim == 2 else "frames"
    return ({0: torch.export.Dim("batch"), 1: torch.export.Dim(length, min=encoder.min_length)},)


def _needs_torch_export() -> None:
    if torch.__version__ < "2.5":
        raise InputError(f"torch {torch.__version__} exports only TorchScript (.ts); .onnx and .pt2 need torch 2.5")


def _needed(name: str) -> ModuleType:
    """Import a module of the extra ``export``."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{name} is not installed: pip install 'sdpn_k2[export]'") from error


def _describe_onnx(path: Path, checkpoint: Path, source: str) -> None:
    """Record the input and the configuration in the model's metadata."""
    onnx = _needed("onnx")
    model = onnx.load(str(path))
    config = config_to_dict(load_checkpoint(checkpoint).config)
    onnx.helper.set_model_props(
        model,
        {
            "input": source,
            "features": json.dumps(config["features"]),
            "model": json.dumps(config["model"]),
        },
    )
    onnx.save(model, str(path))


# Verification


def _usable(data_dir: Path, extractor: Extractor) -> Iterator[Tuple[str, np.ndarray]]:
    """Yield the utterances long enough to embed, and their samples."""
    longest = round(VERIFIED_SECONDS * extractor.features.sample_rate)
    for item in read_utterances(data_dir, extractor.features.sample_rate):
        if isinstance(item, Skipped):
            continue
        name, samples = item
        try:
            extractor.compute_features(samples[:longest])
        except InputError:
            continue
        yield name, samples[:longest]


def _input_of(extractor: Extractor, source: str, samples: np.ndarray) -> np.ndarray:
    if source == "waveform":
        return samples
    return compute_features(extractor.front_end, samples, extractor.features, every_frame=True).numpy()


def _embed(extractor: Extractor, one: np.ndarray) -> np.ndarray:
    """Return PyTorch's embedding of an input."""
    if one.ndim == 1:
        return extractor.embed(one)
    return extractor.embed_fbank([embeddable_frames(torch.from_numpy(one), extractor.features)])[0]


def _largest_difference(run: Run, extractor: Extractor, inputs: List[np.ndarray]) -> float:
    """Compare each utterance with PyTorch at its own length, and a batch cut to the shortest with single utterances."""
    expected = [_embed(extractor, one) for one in inputs]
    differences = [_difference(run(one[None])[0], reference) for one, reference in zip(inputs, expected)]
    shortest = min(map(len, inputs))
    batch = np.stack([one[:shortest] for one in inputs])
    alone = np.stack([run(one[None])[0] for one in batch])
    # What is left of an utterance may be silent.
    differences += [
        _difference(one, reference) for one, reference in zip(run(batch), alone) if np.isfinite([one, reference]).any()
    ]
    return float(np.max(differences))


def _difference(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


# int8


def _quantise(path: Path, output: Path) -> None:
    """Quantise with onnxruntime, dynamically; the front end is left out, since a power spectrum needs 24 bits."""
    quantization = _needed("onnxruntime.quantization")
    preprocess = _needed("onnxruntime.quantization.shape_inference").quant_pre_process
    onnx = _needed("onnx")
    folded = path.with_name("folded.onnx")
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        preprocess(str(path), str(folded), skip_symbolic_shape=True)
        nodes = onnx.load(str(folded)).graph.node
        front_end = [node.name for node in nodes if any(name.startswith("front_end.") for name in node.input)]
        quantization.quantize_dynamic(
            str(folded), str(output), weight_type=quantization.QuantType.QUInt8, nodes_to_exclude=front_end
        )
    finally:
        logging.getLogger().setLevel(level)


def _cost(floats: Path, int8: Path, utterances: Iterable[Tuple[str, np.ndarray]], trials: Trials) -> Quantisation:
    """Score the trials with both models; ``utterances`` yields names and inputs."""
    runs = [load_exported(floats), load_exported(int8)]
    names: List[str] = []
    vectors: List[List[np.ndarray]] = [[], []]
    for name, samples in utterances:
        names.append(name)
        for embeddings, run in zip(vectors, runs):
            embeddings.append(run(samples[None])[0])
    sets = [Embeddings(names, np.stack(embeddings), "the exported model") for embeddings in vectors]
    rates = [100 * eer(error_rates(score_trials(one, one, trials), trials, trials.source)).value for one in sets]
    unit = [one.vectors / np.linalg.norm(one.vectors, axis=1, keepdims=True) for one in sets]
    return Quantisation(
        float_bytes=floats.stat().st_size,
        int8_bytes=int8.stat().st_size,
        float_eer=rates[0],
        int8_eer=rates[1],
        mean_cosine=float((unit[0] * unit[1]).sum(axis=1).mean()),
        trials=len(trials),
    )


def _folder(path: Path) -> Path:
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    return path.parent
