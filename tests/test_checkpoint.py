"""Checkpoints: their content, damaged and foreign files, a full disk, and averages."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_config import TINY

from sdpn_k2.cli import cli
from sdpn_k2.config import load_config
from sdpn_k2.errors import InputError
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.models.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint


def test_checkpoints_load_with_weights_only_on_every_torch(tiny_run):
    def kinds(value):
        if isinstance(value, dict):
            return set().union(*[kinds(v) for v in value.values()], {type(k) for k in value})
        return {type(value)}

    content = torch.load(tiny_run, weights_only=True)
    assert kinds(content) == {str, int, torch.Tensor}
    assert json.loads(content["meta"])["config"]["train"]["batch_size"] == 6


@pytest.mark.parametrize("name", ["cut", "foreign", "empty", "pickle", "none"])
def test_broken_checkpoints_are_refused(tiny_run, tmp_path, name):
    path = tmp_path / f"{name}.pt"
    if name == "cut":
        path.write_bytes(tiny_run.read_bytes()[: tiny_run.stat().st_size // 2])
    elif name == "foreign":
        torch.save({"student": {"module.backbone.w": torch.zeros(2)}}, path)
    elif name == "empty":
        path.write_bytes(b"")
    elif name == "pickle":
        torch.save({"x": Path("a")}, path)
    with pytest.raises(InputError, match=f"^{path}: "):
        load_checkpoint(path)


def test_full_disk_keeps_the_earlier_checkpoint(tmp_path):
    config = load_config(None, TINY)
    checkpoint = Checkpoint(1, config, SDPN(config).state_dict(), {})
    path = tmp_path / "step.pt"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, hard))
    try:
        with pytest.raises(InputError, match=f"^{path}: "):
            save_checkpoint(path, checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_average_is_the_mean_of_the_weights(tiny_run, tmp_path):
    folder = tiny_run.parent / "checkpoints"
    result = CliRunner().invoke(cli, ["average", "--last", "2", str(folder), str(tmp_path / "a.pt")])
    assert result.exit_code == 0, result.output
    ours, (first, second) = load_checkpoint(tmp_path / "a.pt"), map(load_checkpoint, list_checkpoints(folder)[-2:])
    for name, tensor in ours.model.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(
                tensor.double(), (first.model[name].double() + second.model[name].double()) / 2, rtol=1e-6, atol=1e-9
            )
    assert Extractor.load(tmp_path / "a.pt").embed(np.sin(np.arange(4000))).shape == (8,)
