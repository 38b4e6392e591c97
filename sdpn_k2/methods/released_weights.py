"""SDPN and RDINO weights of 3D-Speaker (github.com/modelscope/3D-Speaker) as checkpoints of ours.

Their training checkpoints hold ``student``, ``teacher``, ``prototypes`` and their trainer's state, their published
files ``teacher`` alone. Names there are ``module.backbone.*`` (encoder) and ``module.head.*`` (MLP; RDINO's has two
more layers, for which there is no place here). All sizes are taken from the tensors.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple

from torch import Tensor

from sdpn_k2.config import Config, FeaturesConfig, ModelConfig, ObjectiveConfig, config_from_dict, config_to_dict
from sdpn_k2.errors import InputError
from sdpn_k2.methods.network import Network
from sdpn_k2.models.checkpoint import FORMAT, Checkpoint
from sdpn_k2.models.torch_file import describe, load_torch_file

# Our name of a tensor → theirs, replacement by replacement.
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
# RDINO's layers after its MLP.
_OUTPUT_LAYERS = re.compile(r"head\.(add_layer|last_layer)\.")
# Entries of a training checkpoint that only their own trainer can use.
_TRAINER_STATE = {"optimizer", "epoch", "dino_loss", "sdpn_loss", "keleo_loss", "fp16_scaler"}


class Conversion(NamedTuple):
    """A checkpoint, and what of the source has no place in it, in words."""

    checkpoint: Checkpoint
    left_out: List[str]


def convert_3dspeaker(path: Path, scale: float = 1.0) -> Conversion:
    """Read SDPN or RDINO weights of 3D-Speaker. What the file lacks (student, prototypes, MLP) the result lacks too.

    Prototypes belong to an MLP's projections: without an MLP of ours they are left out.

    Args:
        path: the file.
        scale: of samples in ±1 before the front end: 1 as in their extraction, 32768 as in their training.

    Raises:
        InputError: unreadable, or another model's; tensors missing, unknown, or of a shape that does not fit (named);
            a scale that is none.
    """
    if not 0 < scale < math.inf:
        raise InputError(f"scale {scale:g}: expected a finite number above 0")
    content = load_torch_file(path)
    _check_origin(path, content)
    unknown = sorted(map(str, set(content) - {"student", "teacher", "prototypes"} - _TRAINER_STATE))
    if unknown:
        raise InputError(f"{path}: unknown entries beside student, teacher and prototypes: {_some(unknown)}")

    branches = {name: _without_prefix(content[name]) for name in ("student", "teacher") if name in content}
    sizes, num_bins = _sizes(branches["teacher"], f"{path}: teacher")
    features = FeaturesConfig(kind="melspec", num_mel_bins=num_bins, low_freq=0.0, scale=scale)
    prototypes = content.get("prototypes") if _has_our_mlp(branches["teacher"]) else None
    objective = ObjectiveConfig() if prototypes is None else ObjectiveConfig(num_prototypes=len(prototypes))
    config = Config(features=features, model=sizes, objective=objective)

    model: Dict[str, Tensor] = {}
    left_out = [key for key in content if key in _TRAINER_STATE]
    if prototypes is None and content.get("prototypes") is not None:
        left_out.append("prototypes")
    for name, tensors in branches.items():
        converted = _convert_branch(tensors, config, f"{path}: {name}")
        model.update({f"{name}.{key}": tensor for key, tensor in converted.items()})
        left_out += [f"{name}'s {key}" for key in _head_without_place(tensors)]
    if prototypes is not None:
        if tuple(prototypes.shape) != (len(prototypes), sizes.projection_dim):
            raise InputError(
                f"{path}: prototypes of shape {tuple(prototypes.shape)} for projections of "
                f"{sizes.projection_dim} dimensions"
            )
        model["prototypes.weight"] = prototypes.detach().clone()
    try:
        config_from_dict(config_to_dict(config), str(path))  # as when it is loaded again
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return Conversion(Checkpoint(0, config, model, {}), left_out)


def _check_origin(path: Path, content: Any) -> None:
    if isinstance(content, dict) and content.get("format") == FORMAT:
        raise InputError(f"{path}: already a checkpoint of ours: it needs no conversion")
    teacher = content.get("teacher") if isinstance(content, dict) else None
    names = map(str, teacher) if isinstance(teacher, dict) else ()
    if not any(re.match(r"(module\.)?backbone\.blocks\.", name) for name in names):
        raise InputError(
            f"{path}: not SDPN or RDINO weights of 3D-Speaker (teacher → module.backbone.blocks.…); {describe(content)}"
        )
    for key in ("student", "teacher"):
        values = content.get(key, {})
        if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
            raise InputError(f"{path}: {key} should be a dict of tensors")
    if not isinstance(content.get("prototypes"), (Tensor, type(None))):
        raise InputError(f"{path}: prototypes should be a tensor, not of type {type(content['prototypes']).__name__}")
    if content.get("prototypes") is not None and content["prototypes"].ndim != 2:
        raise InputError(f"{path}: prototypes should be a matrix, not of shape {tuple(content['prototypes'].shape)}")


def _without_prefix(tensors: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Names without the ``module.`` that distributed training puts before them."""
    return {key[len("module.") :] if key.startswith("module.") else key: tensor for key, tensor in tensors.items()}


def _sizes(tensors: Mapping[str, Tensor], where: str) -> tuple[ModelConfig, int]:
    """Sizes of the model and number of mel bins."""

    def size(name: str, dim: int = 0) -> int:
        if name not in tensors:
            raise InputError(f"{where}: missing {name}")
        if tensors[name].ndim <= dim:
            raise InputError(f"{where}: {name} is of shape {tuple(tensors[name].shape)}")
        return tensors[name].shape[dim]

    piece = re.compile(r"backbone\.blocks\.1\.res2net_block\.blocks\.\d+\.conv\.conv\.weight")
    pieces = [key for key in tensors if piece.fullmatch(key)]
    mlp = {}
    if _has_our_mlp(tensors):
        mlp = {"mlp_hidden_dim": size("head.mlp.0.weight"), "projection_dim": size("head.mlp.6.weight")}
    config = ModelConfig(
        channels=size("backbone.blocks.0.conv.conv.weight"),
        attention_channels=size("backbone.asp.tdnn.conv.conv.weight"),
        se_channels=size("backbone.blocks.1.se_block.conv1.conv.weight"),
        res2net_scale=len(pieces) + 1,
        embedding_dim=size("backbone.fc.conv.weight"),
        **mlp,
    )
    return config, size("backbone.blocks.0.conv.conv.weight", 1)


def _has_our_mlp(tensors: Mapping[str, Tensor]) -> bool:
    """Whether there is an MLP of three linear layers with batch normalisation; theirs may be of other depths."""
    linear = {key for key in tensors if re.fullmatch(r"head\.mlp\.\d+\.weight", key) and tensors[key].ndim == 2}
    return linear == {f"head.mlp.{index}.weight" for index in (0, 3, 6)}


def _head_without_place(tensors: Mapping[str, Tensor]) -> List[str]:
    has_mlp = _has_our_mlp(tensors)
    return [key for key in tensors if _OUTPUT_LAYERS.match(key) or (key.startswith("head.") and not has_mlp)]


def _convert_branch(tensors: Mapping[str, Tensor], config: Config, where: str) -> Dict[str, Tensor]:
    """Student or teacher under our names. Every tensor must be known, present and of the right shape."""
    ours = Network(config).state_dict()
    theirs = {name: _their_name(name) for name in ours if name.startswith("encoder.") or _has_our_mlp(tensors)}
    placeless = set(_head_without_place(tensors))
    missing = [name for name in theirs.values() if name not in tensors]
    unknown = sorted(set(tensors) - set(theirs.values()) - placeless)
    problems = [f"{what} {_some(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
    if problems:
        raise InputError(f"{where}: {'; '.join(problems)}")
    converted = {}
    for name, expected in ours.items():
        if name not in theirs:
            continue
        tensor = tensors[theirs[name]]
        # Squeeze-excitation and the last layer are convolutions of one frame there, linear layers here.
        shape = tuple(tensor.shape)
        if shape not in (tuple(expected.shape), tuple(expected.shape) + (1,)):
            raise InputError(
                f"{where}: {theirs[name]} is of shape {shape}, which does not fit the other tensors; "
                f"{tuple(expected.shape)} would"
            )
        converted[name] = tensor.detach().reshape(expected.shape).to(expected.dtype).clone()
    return converted


def _their_name(name: str) -> str:
    for pattern, replacement in _RENAMING:
        name = re.sub(pattern, replacement, name)
    return name


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
