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
from typing import Dict, List, Optional, Union

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
        InputError: no such file; cut short; not a checkpoint; one of another toolkit or of a later version.
    """
    path = find_checkpoint(path)
    content = load_torch_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        hint = ""
        if isinstance(content, dict) and "teacher" in content:
            hint = "; if 3D-Speaker wrote it, convert it with sdpn-k2 convert 3dspeaker"
        raise InputError(f"{path}: not an sdpn_k2 checkpoint; {describe(content)}{hint}")
    if content["version"] != VERSION:
        raise InputError(f"{path}: checkpoint version {content['version']}; this release reads version {VERSION}")
    meta = json.loads(content["meta"])
    config = config_from_dict(meta["config"], str(path))
    return Checkpoint(content["step"], config, content["model"], content["momentum"], meta.get("data", ""))


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
