"""Checkpoints: tensors, ints, strings and one JSON string, so that ``weights_only=True`` reads them on every torch.

A checkpoint is a dict with
    format      "sdpn_k2 checkpoint"
    version     1
    step        steps done
    model       state dict of the method: student, teacher, prototypes
    momentum    name of a parameter → its SGD momentum buffer
    meta        JSON: the resolved configuration, the training data, library versions
"""

from __future__ import annotations

import io
import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional

import torch
from torch import Tensor

import sdpn_k2
from sdpn_k2.config import Config, config_from_dict, config_to_dict
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.models.torch_file import describe, load_torch_file

FORMAT = "sdpn_k2 checkpoint"
VERSION = 1
_NAME = re.compile(r"step-(\d+)\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory; tensors on the CPU. ``data``: what it was trained on, where that is recorded."""

    step: int
    config: Config
    model: Dict[str, Tensor]
    momentum: Dict[str, Tensor]
    data: str = ""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: after any failure an earlier file under ``path`` is as it was.

    Raises:
        InputError: it cannot be written (disk full, no permission).
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
    # In memory first: where the disk is full, torch 1.13 ends the process instead of reporting a failed write.
    packed = io.BytesIO()
    torch.save(content, packed)
    with atomic_output(path) as stream:
        stream.write(packed.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: no such file; cut short; not a checkpoint; one of another toolkit or of a later version.
    """
    path = Path(path)
    content = load_torch_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        hint = "; sdpn-k2 convert 3dspeaker reads such" if "3D-Speaker's SDPN" in describe(content) else ""
        raise InputError(f"{path}: not an sdpn_k2 checkpoint; {describe(content)}{hint}")
    if content["version"] != VERSION:
        raise InputError(f"{path}: checkpoint version {content['version']}; this release reads version {VERSION}")
    meta = json.loads(content["meta"])
    config = config_from_dict(meta["config"], str(path))
    return Checkpoint(content["step"], config, content["model"], content["momentum"], meta.get("data", ""))


def checkpoint_path(folder: Path, step: int) -> Path:
    """The name of the checkpoint after ``step`` steps."""
    return folder / f"step-{step:08d}.pt"


def list_checkpoints(folder: Path) -> List[Path]:
    """The checkpoints in ``folder``, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))


def latest_checkpoint(folder: Path) -> Optional[Path]:
    """The newest checkpoint in ``folder``, or None."""
    return (list_checkpoints(folder) or [None])[-1]


def remove_old_checkpoints(folder: Path, keep: int, keep_every_steps: int = 0) -> None:
    """Keep the ``keep`` newest, and the first after every ``keep_every_steps`` steps (0: none of these)."""
    paths = list_checkpoints(folder)
    period = -1
    for path in paths[:-keep]:
        step = int(_NAME.fullmatch(path.name).group(1))
        if keep_every_steps and step // keep_every_steps > max(period, 0):
            period = step // keep_every_steps
        else:
            path.unlink()


def average_checkpoints(paths: List[Path]) -> Checkpoint:
    """The mean of several checkpoints' weights and running statistics; without momentum, with the last one's step.

    Raises:
        InputError: unreadable checkpoints, or of models that differ.
    """
    last = load_checkpoint(paths[-1])
    sums = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in last.model.items()}
    for path in paths[:-1]:
        model = load_checkpoint(path).model
        if {name: tensor.shape for name, tensor in model.items()} != {n: t.shape for n, t in last.model.items()}:
            raise InputError(
                f"{path} and {paths[-1]} hold different models: only checkpoints of one run can be averaged"
            )
        for name, tensor in model.items():
            if tensor.is_floating_point():
                sums[name] += tensor
    mean = {
        name: (total / len(paths)).to(last.model[name].dtype) if total.is_floating_point() else total
        for name, total in sums.items()
    }
    return Checkpoint(last.step, last.config, mean, {}, last.data)
