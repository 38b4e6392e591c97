"""Convert SDPN and RDINO weights of 3D-Speaker (github.com/modelscope/3D-Speaker) to checkpoints of this package.

A training checkpoint of 3D-Speaker holds ``student``, ``teacher``, ``prototypes`` and the state of its trainer; a
published file holds ``teacher`` alone. Tensors are named ``module.backbone.*`` (encoder) and ``module.head.*`` (MLP).
RDINO's head has two more layers, which SDPN lacks. All sizes are read from the tensors.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Tuple

from torch import Tensor

from sdpn_k2.config import Config, FeaturesConfig, ModelConfig, ObjectiveConfig
from sdpn_k2.errors import InputError, error_context
from sdpn_k2.methods.network import Network
from sdpn_k2.models.checkpoint import FORMAT, Checkpoint
from sdpn_k2.models.torch_file import describe, load_torch_file

# Turn our name of a tensor into theirs, one replacement after the other.
_RENAMING = (
    (r"\.(conv|norm)\.(\w+)$", r".\1.\1.\2"),
    (r"^encoder\.blocks\.(\d+)", lambda match: f"backbone.blocks.{int(match.group(1)) + 1}"),
    (r"^encoder\.conv0", "backbone.blocks.0"),
    (r"^encoder\.mfa", "backbone.mfa"),
    (r"^encoder\.pooling", "backbone.asp"),
    (r"^encoder\.norm", "backbone.asp_bn"),
    (r"^encoder\.linear", "backbone.fc.conv"),
    (r"\.res2net\.", ".res2net_block."),
    (r"\.se\.squeeze", ".se_block.conv1.conv"),
    (r"\.se\.excite", ".se_block.conv2.conv"),
    (r"^mlp", "head.mlp"),
)
# Layers that RDINO has after its MLP.
_OUTPUT_LAYERS = re.compile(r"head\.(add_layer|last_layer)\.")
# Entries of a training checkpoint that only their trainer can use.
_TRAINER_STATE = {"optimizer", "epoch", "dino_loss", "sdpn_loss", "keleo_loss", "fp16_scaler"}


class Conversion(NamedTuple):
    """A checkpoint, and the names of the entries of the source that it leaves out."""

    checkpoint: Checkpoint
    left_out: List[str]


def convert_3dspeaker(path: Path, scale: float = 1.0) -> Conversion:
    """Convert SDPN or RDINO weights of 3D-Speaker.

    If the file lacks the student, the prototypes or the MLP, so does the result. An MLP of another depth than SDPN's
    is left out, and with it the prototypes, which belong to its projections.

    Args:
        path: a training checkpoint or a published file.
        scale: factor applied to samples in ±1 before the front end: 1 in their extraction, 32768 in their training.

    Raises:
        InputError: the file is unreadable or holds another model; tensors (named) are missing, unknown or of the wrong
            shape; the scale is not a finite number above 0.
    """
    if not 0 < scale < math.inf:
        raise InputError(f"scale is {scale:g}; it must be a finite number above 0")
    content = load_torch_file(path)
    with error_context(path):
        return _convert(content, scale)


def _convert(content: Any, scale: float) -> Conversion:
    _check_origin(content)
    unknown = sorted(map(str, set(content) - {"student", "teacher", "prototypes"} - _TRAINER_STATE))
    if unknown:
        raise InputError(f"unknown entries: {_some(unknown)}")

    networks = {name: _without_prefix(content[name]) for name in ("student", "teacher") if name in content}
    with error_context("teacher"):
        sizes, num_bins = _sizes(networks["teacher"])
    prototypes = content.get("prototypes") if _has_our_mlp(networks["teacher"]) else None
    config = Config(
        features=FeaturesConfig(kind="melspec", num_mel_bins=num_bins, low_freq=0.0, scale=scale),
        model=sizes,
        objective=ObjectiveConfig() if prototypes is None else ObjectiveConfig(num_prototypes=len(prototypes)),
    )

    model: Dict[str, Tensor] = {}
    left_out = [key for key in content if key in _TRAINER_STATE]
    if prototypes is None and content.get("prototypes") is not None:
        left_out.append("prototypes")
    for name, tensors in networks.items():
        with error_context(name):
            converted = _convert_network(tensors, config)
        model.update({f"{name}.{key}": tensor for key, tensor in converted.items()})
        left_out += [f"{name}'s {key}" for key in _head_left_out(tensors)]
    if prototypes is not None:
        if prototypes.shape[1] != sizes.projection_dim:
            shape = tuple(prototypes.shape)
            raise InputError(f"prototypes have shape {shape}, but projections have {sizes.projection_dim} dimensions")
        model["prototypes.weight"] = prototypes.detach().clone()
    return Conversion(Checkpoint(0, config, model, {}), left_out)


def _check_origin(content: Any) -> None:
    if isinstance(content, dict) and content.get("format") == FORMAT:
        raise InputError("already a checkpoint of sdpn_k2; it needs no conversion")
    teacher = content.get("teacher") if isinstance(content, dict) else None
    names = map(str, teacher) if isinstance(teacher, dict) else ()
    if not any(re.match(r"(module\.)?backbone\.blocks\.", name) for name in names):
        raise InputError(
            f"not SDPN or RDINO weights of 3D-Speaker (no teacher with module.backbone.blocks.*); {describe(content)}"
        )
    for key in ("student", "teacher"):
        values = content.get(key, {})
        if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
            raise InputError(f"{key} is not a dict of tensors")
    prototypes = content.get("prototypes")
    if prototypes is not None and not (isinstance(prototypes, Tensor) and prototypes.ndim == 2):
        shape = f"of shape {tuple(prototypes.shape)}" if isinstance(prototypes, Tensor) else type(prototypes).__name__
        raise InputError(f"prototypes should be a tensor of two dimensions, not {shape}")


def _without_prefix(tensors: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Remove the ``module.`` with which distributed training prefixes names."""
    return {key[len("module.") :] if key.startswith("module.") else key: tensor for key, tensor in tensors.items()}


def _sizes(tensors: Mapping[str, Tensor]) -> Tuple[ModelConfig, int]:
    """Read the sizes of the model, and the number of mel bins, from the shapes of its tensors."""

    def size(name: str, dim: int = 0) -> int:
        if name not in tensors:
            raise InputError(f"missing {name}")
        if tensors[name].ndim <= dim:
            raise InputError(f"{name} has shape {tuple(tensors[name].shape)}")
        return tensors[name].shape[dim]

    piece = re.compile(r"backbone\.blocks\.1\.res2net_block\.blocks\.\d+\.conv\.conv\.weight")
    pieces = [key for key in tensors if piece.fullmatch(key)]
    mlp = {}
    if _has_our_mlp(tensors):
        mlp = {"mlp_hidden_dim": size("head.mlp.0.weight"), "projection_dim": size("head.mlp.6.weight")}
    sizes = ModelConfig(
        channels=size("backbone.blocks.0.conv.conv.weight"),
        attention_channels=size("backbone.asp.tdnn.conv.conv.weight"),
        se_channels=size("backbone.blocks.1.se_block.conv1.conv.weight"),
        res2net_scale=len(pieces) + 1,
        embedding_dim=size("backbone.fc.conv.weight"),
        **mlp,
    )
    return sizes, size("backbone.blocks.0.conv.conv.weight", 1)


def _has_our_mlp(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the head's MLP has three linear layers, as ours does; theirs may have other depths."""
    linear = {key for key in tensors if re.fullmatch(r"head\.mlp\.\d+\.weight", key) and tensors[key].ndim == 2}
    return linear == {f"head.mlp.{index}.weight" for index in (0, 3, 6)}


def _head_left_out(tensors: Mapping[str, Tensor]) -> List[str]:
    """List the head's tensors that have no counterpart in our model."""
    has_mlp = _has_our_mlp(tensors)
    return [key for key in tensors if _OUTPUT_LAYERS.match(key) or (key.startswith("head.") and not has_mlp)]


def _convert_network(tensors: Mapping[str, Tensor], config: Config) -> Dict[str, Tensor]:
    """Rename the tensors of the student or teacher to ours; every one must be known, present and of the right shape."""
    ours = Network(config).state_dict()
    theirs = {name: _their_name(name) for name in ours if name.startswith("encoder.") or _has_our_mlp(tensors)}
    left_out = set(_head_left_out(tensors))
    missing = [name for name in theirs.values() if name not in tensors]
    unknown = sorted(set(tensors) - set(theirs.values()) - left_out)
    problems = [f"{what} {_some(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
    if problems:
        raise InputError(f"{'; '.join(problems)}")
    converted = {}
    for name, expected in ours.items():
        if name not in theirs:
            continue
        tensor = tensors[theirs[name]]
        # Squeeze-excitation and the last layer are 1×1 convolutions there, linear layers here.
        shape = tuple(tensor.shape)
        if shape not in (tuple(expected.shape), tuple(expected.shape) + (1,)):
            raise InputError(f"{theirs[name]} has shape {shape}; the other tensors need {tuple(expected.shape)}")
        converted[name] = tensor.detach().reshape(expected.shape).to(expected.dtype).clone()
    return converted


def _their_name(name: str) -> str:
    for pattern, replacement in _RENAMING:
        name = re.sub(pattern, replacement, name)
    return name


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
