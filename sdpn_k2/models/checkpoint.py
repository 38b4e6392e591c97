"""Checkpoints, which training resumes from and inference loads.

A checkpoint is a file written by ``torch.save`` that holds a dict::

    format      "sdpn_k2 checkpoint"
    version     1
    step        number of steps done
    model       state dict of the method: student, teacher, prototypes
    momentum    parameter's name → its SGD momentum buffer
    meta        JSON: the resolved configuration, the training data, library versions

It consists of tensors, ints and strings alone, so that every torch reads it with ``weights_only=True``.
"""

from __future__ import annotations

import io
import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Union

import torch
from torch import Tensor, nn

import sdpn_k2
from sdpn_k2.config import Config, config_from_dict, config_to_dict
from sdpn_k2.errors import InputError, error_context
from sdpn_k2.files import atomic_output
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.models.torch_file import describe, load_torch_file

FORMAT = "sdpn_k2 checkpoint"
VERSION = 1
_NAME = re.compile(r"step-(\d+)\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, with tensors on the CPU. ``data`` describes what it was trained on, if that is known."""

    step: int
    config: Config
    model: Dict[str, Tensor]
    momentum: Dict[str, Tensor]
    data: str = ""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically: a failure leaves an earlier file at ``path`` unchanged.

    Raises:
        InputError: the file cannot be written (disk full, no permission).
    """
    meta = {
        "config": config_to_dict(checkpoint.config),
        "data": checkpoint.data,
        "versions": {"sdpn_k2": sdpn_k2.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    content = {
        "format": FORMAT,
        "version": VERSION,
        "step": checkpoint.step,
        "model": dict(checkpoint.model),
        "momentum": dict(checkpoint.momentum),
        "meta": json.dumps(meta),
    }
    # Pack in memory first, since torch 1.13 ends the process when the disk is full.
    packed = io.BytesIO()
    torch.save(content, packed)
    with atomic_output(path) as stream:
        stream.write(packed.getbuffer())


def find_checkpoint(path: Union[str, Path]) -> Path:
    """Return the file that a user means: ``path`` itself, or the ``final.pt`` of an experiment folder.

    Raises:
        InputError: a folder without ``final.pt``.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    final = path / "final.pt"
    if not final.is_file():
        newest = latest_checkpoint(path / "checkpoints")
        hint = f"; its newest checkpoint is {newest}" if newest else ""
        raise InputError(f"{final}: no such file; the training in {path} is not finished{hint}")
    return final


def load_checkpoint(path: Union[str, Path]) -> Checkpoint:
    """Read a checkpoint; in an experiment folder, its ``final.pt``.

    Raises:
        InputError: no such file; cut short or damaged; not a checkpoint; one of another toolkit or of a later version;
            an entry is missing or of another kind; numbers that are not finite.
    """
    path = find_checkpoint(path)
    content = load_torch_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        hint = ""
        if isinstance(content, dict) and "teacher" in content:
            hint = "; if 3D-Speaker wrote it, convert it with sdpn-k2 convert 3dspeaker"
        raise InputError(f"{path}: not an sdpn_k2 checkpoint; {describe(content)}{hint}")
    with error_context(path):
        version = _entry(content, "version", int)
        if version != VERSION:
            raise InputError(f"checkpoint version {version}; this release reads version {VERSION}")
        try:
            meta = json.loads(_entry(content, "meta", str))
        except (ValueError, RecursionError) as error:
            raise InputError("its entry 'meta' is not JSON; the file is damaged") from error
        if not isinstance(meta, dict) or not isinstance(meta.get("data", ""), str):
            raise InputError("its entry 'meta' is not a JSON object with the configuration; the file is damaged")
        config = config_from_dict(_entry(meta, "config", dict), "its configuration")
        tensors = {name: _tensors(_entry(content, name, dict), name) for name in ("model", "momentum")}
        step = _entry(content, "step", int)
        if step < 0:
            raise InputError(f"its step is {step}; the file is damaged")
    return Checkpoint(step, config, tensors["model"], tensors["momentum"], meta.get("data", ""))


def _entry(content: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return an entry of a checkpoint. Raises InputError unless it has the right type."""
    value = content.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        found = f"a {type(value).__name__}, not a {kind.__name__}" if name in content else "missing"
        raise InputError(f"its entry '{name}' is {found}; the file is damaged")
    return value


def _tensors(entry: Dict[str, Tensor], where: str) -> Dict[str, Tensor]:
    """Return named tensors as they are. Raises InputError for anything else, and for numbers that are not finite."""
    for name, tensor in entry.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise InputError(f"'{name}' in '{where}' is not a named tensor; the file is damaged")
        # A tensor may repeat items, and thus claim any size.
        storage = tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise InputError(f"'{name}' in '{where}' claims {tensor.numel()} numbers, but fewer are stored")
        if not torch.isfinite(tensor).all():
            raise InputError(f"'{name}' in '{where}' has numbers that are not finite; use another checkpoint")
    return entry


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], path: object) -> None:
    """Give a module its weights.

    Raises:
        InputError: tensors are missing, unknown or of another shape; the message names ``path`` and the first one.
    """
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in weights:
            raise InputError(f"{path}: the tensor '{name}' is missing; the checkpoint does not fit its configuration")
        if weights[name].shape != tensor.shape:
            raise InputError(
                f"{path}: the tensor '{name}' has shape {tuple(weights[name].shape)}, but the configuration needs "
                f"{tuple(tensor.shape)}"
            )
    unknown = next((name for name in weights if name not in expected), None)
    if unknown is not None:
        raise InputError(f"{path}: the tensor '{unknown}' is unknown; the checkpoint does not fit its configuration")
    module.load_state_dict(dict(weights))


def teacher_encoder(checkpoint: Checkpoint, path: object) -> EcapaTdnn:
    """Return the encoder of a checkpoint's teacher, with its weights.

    Raises:
        InputError: the weights do not fit the configuration.
    """
    prefix = "teacher.encoder."
    weights = {name[len(prefix) :]: value for name, value in checkpoint.model.items() if name.startswith(prefix)}
    stored = sum(tensor.numel() for tensor in weights.values())
    sizes, num_bins = checkpoint.config.model, checkpoint.config.features.num_mel_bins
    # Each of these products is the size of a part of the encoder. So a false configuration takes no memory.
    for size in (sizes.channels, sizes.attention_channels, sizes.se_channels, sizes.embedding_dim, num_bins):
        if size * sizes.channels > stored:
            raise InputError(f"{path}: the configuration describes a larger encoder than the file holds")
    encoder = EcapaTdnn(num_bins, sizes)
    load_weights(encoder, weights, path)
    return encoder


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint after ``step`` steps."""
    return folder / f"step-{step:08d}.pt"


def list_checkpoints(folder: Path) -> List[Path]:
    """Return the checkpoints in ``folder``, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))


def latest_checkpoint(folder: Path) -> Optional[Path]:
    """Return the newest checkpoint in ``folder``, or None."""
    paths = list_checkpoints(folder)
    return paths[-1] if paths else None


def remove_old_checkpoints(folder: Path, keep: int, keep_every_steps: int = 0) -> None:
    """Remove checkpoints, but keep the ``keep`` newest and the first of every ``keep_every_steps`` steps (0: none)."""
    paths = list_checkpoints(folder)
    period = -1
    for path in paths[:-keep]:
        step = int(path.stem[len("step-") :])
        if keep_every_steps and step // keep_every_steps > max(period, 0):
            period = step // keep_every_steps
        else:
            path.unlink()


def average_checkpoints(paths: List[Path]) -> Checkpoint:
    """Average the weights and running statistics of several checkpoints of one run.

    The result has the last one's step and configuration, and no momentum.

    Raises:
        InputError: a checkpoint is unreadable, or their models differ.
    """
    last = load_checkpoint(paths[-1])
    sums = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in last.model.items()}
    for path in paths[:-1]:
        model = load_checkpoint(path).model
        if {name: tensor.shape for name, tensor in model.items()} != {n: t.shape for n, t in last.model.items()}:
            raise InputError(f"{path} and {paths[-1]} hold different models; average checkpoints of one run")
        for name, tensor in model.items():
            if tensor.is_floating_point():
                sums[name] += tensor
    mean = {
        name: (total / len(paths)).to(last.model[name].dtype) if total.is_floating_point() else total
        for name, total in sums.items()
    }
    return Checkpoint(last.step, last.config, mean, {}, last.data)
