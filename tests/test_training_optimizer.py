"""Parameter groups, clipping and precision."""

import pytest
import torch
from tiny_config import TINY
from torch import nn

from sdpn_k2.config import load_config
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from sdpn_k2.training.precision import resolve


def test_prototypes_learn_at_their_own_rate_without_decay():
    config = load_config(None, [*TINY, "train.prototype_lr_scale=7", "train.weight_decay=0.01"])
    model = SDPN(config)
    optimizer = make_optimizer(model, config.train)
    set_learning_rate(optimizer, 0.5)
    rates = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert rates.pop(model.prototypes.weight) == (3.5, 0.0)
    assert rates == {parameter: (0.5, 0.01 if parameter.ndim >= 2 else 0.0) for parameter in model.student.parameters()}


def test_gradients_are_clipped_tensor_by_tensor():
    module = nn.Linear(2, 1)
    module.weight.grad, module.bias.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([0.5])
    norm = clip_gradients(module, 1.0)
    assert float(norm) == pytest.approx((25 + 0.25) ** 0.5)
    torch.testing.assert_close(module.weight.grad, torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(module.bias.grad, torch.tensor([0.5]))


@pytest.mark.parametrize("capability, expected", [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_bfloat16_needs_hardware_support(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve("auto", torch.device("cuda:0")) == expected
    assert resolve("bfloat16", torch.device("cuda:0")) == "bfloat16"
    assert resolve("float32", torch.device("cuda")) == "float32"
