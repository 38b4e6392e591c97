"""The weights of a new run from a checkpoint: pre-trained, converted, or of another configuration."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Dict, Mapping

from torch import Tensor

from sdpn_k2.config import Config, config_differences
from sdpn_k2.errors import InputError
from sdpn_k2.models.checkpoint import load_checkpoint

log = logging.getLogger(__name__)

# Keys of the features and model sections that may differ from the checkpoint's. Other sections are not compared.
MAY_DIFFER = {"features.scale", "model.mlp_hidden_dim", "model.projection_dim"}


def initial_weights(path: Path, config: Config, fresh: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Return the state dict that a run starts with: the checkpoint's tensors where they fit, else the ``fresh`` ones.

    Encoders must fit. If the checkpoint has no student, its teacher's weights become the student's. MLPs, prototypes
    and output layers that are missing or of another size stay fresh, and the log lists them.

    Args:
        path: an sdpn_k2 checkpoint.
        config: the configuration of the new run.
        fresh: the new model's own state dict.

    Raises:
        InputError: the checkpoint is unreadable, or was trained on other features or with another encoder.
    """
    checkpoint = load_checkpoint(path)
    differences = [
        f"{key} ({old} there, {new} here)"
        for key, old, new in config_differences(checkpoint.config, config)
        if key.startswith(("features.", "model.")) and key not in MAY_DIFFER
    ]
    if differences:
        raise InputError(f"{path} does not fit this configuration: {', '.join(differences)}")
    given = dict(checkpoint.model)
    for name, tensor in checkpoint.model.items():
        if name.startswith("teacher."):
            given.setdefault("student." + name[len("teacher.") :], tensor)
    weights = {
        name: given[name] if name in given and given[name].shape == tensor.shape else tensor
        for name, tensor in fresh.items()
    }
    kept = sorted({name.rpartition(".")[0] for name in fresh if weights[name] is fresh[name]})
    if kept:
        log.info("initialised at random, since %s has no weights of this size for them: %s", path, ", ".join(kept))
    return weights
