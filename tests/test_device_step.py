"""A training step on devices without data: no tensor is on another device than the rest, and nothing is read back.

Neither device needs a GPU. Both refuse operations on tensors of several devices, and those that need a value on the
host (``item``, ``bool``, ``nonzero``).
"""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from tiny_training import make_trainer
from torch import nn

from sdpn_k2.data.crop_loader import multi_crop_loader
from sdpn_k2.device import Process
from sdpn_k2.signal.augment import NoiseBank, RirBank
from sdpn_k2.training.optimizer import make_optimizer

# Autograd on tensors of a device needs a torch that is built for it, though no such device.
CUDA_BUILD = pytest.mark.skipif(torch.version.cuda is None, reason="this torch is not built for CUDA")
pytestmark = pytest.mark.skipif(not hasattr(torch, "compiler"), reason="needs torch 2.1 or later")

CASES = [
    "objective.dim_reg=koleo",
    "objective.dim_reg=off_diagonal train.micro_batch_size=3",
    "objective.dim_reg=frobenius train.deterministic=on",
    "features.kind=melspec features.low_freq=0 augment.speed_factors=[0.9,1.1] augment.mask_prob=1",
    "input=fbank",
    "method=dino dino.frozen_epochs=0 train.micro_batch_size=2",
]


def fake_cuda(monkeypatch):
    """Return a device and a context in which tensors on it are shapes only."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    return torch.device("cuda"), FakeTensorMode(allow_non_fake_inputs=False)


def meta(monkeypatch):
    # autocast does not know the device, and is off in these runs.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    return torch.device("meta"), contextlib.nullcontext()


def move(module: nn.Module, device: torch.device) -> None:
    """Replace every parameter and buffer by an empty one on ``device``."""
    empty = lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(empty(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = empty(buffer)


@pytest.fixture
def deterministic_algorithms_off_again():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic_algorithms_off_again")
@pytest.mark.parametrize("settings", CASES)
@pytest.mark.parametrize("kind", [meta, pytest.param(fake_cuda, marks=CUDA_BUILD)])
def test_a_step_reads_nothing_back_and_mixes_no_devices(
    tiny_cuts, tiny_fbank_cuts, tmp_path, monkeypatch, kind, settings
):
    stored = settings == "input=fbank"
    trainer = make_trainer(tiny_fbank_cuts if stored else tiny_cuts, tmp_path, *settings.split())
    if not stored:
        augment = trainer.views.augment
        augment.banks.update({kind: NoiseBank([np.ones(9000, np.int16)]) for kind in ("noise", "speech", "music")})
        augment.rirs = RirBank([np.ones(900)], 800)
    batch = next(iter(multi_crop_loader(trainer.dataset, trainer.batches, workers=0, pin=False)))
    device, mode = kind(monkeypatch)
    trainer.process = Process(0, 1, device)
    trainer.banks.device = device
    with mode:
        for module in (trainer.model, trainer.views):
            move(module, device)
        trainer.optimizer = make_optimizer(trainer.model, trainer.config.train)
        crops = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            for name, tensor in vars(batch).items()
            if torch.is_tensor(tensor)
        }
        trainer.model.train()
        for _ in range(2):  # the second has momentum
            statistics = trainer._train_step(dataclasses.replace(batch, **crops), False)
        assert {value.device.type for value in statistics.values() if torch.is_tensor(value)} == {device.type}
        assert all(p.grad is not None and p.grad.device.type == device.type for p in trainer.model.student.parameters())
