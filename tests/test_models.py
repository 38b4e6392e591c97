"""The encoder and the MLP against the literal formulas."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sdpn_k2.config import ModelConfig
from sdpn_k2.models import ecapa_tdnn
from sdpn_k2.models.ecapa_tdnn import AttentiveStatisticsPooling, EcapaTdnn
from sdpn_k2.models.projection import ProjectionMLP, Prototypes

INTEROP = Path(__file__).resolve().parent / "data" / "interop"


def test_published_size():
    encoder = EcapaTdnn(80, ModelConfig())
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(22.7e6, rel=2e-3)


def test_parameters_match_the_released_model():
    """Backbone and head of the released full model have the same tensors, in number and shape."""

    def shapes(lines):
        return sorted(tuple(int(n) for n in line.split("(")[1].rstrip(")\n").split(",") if n.strip()) for line in lines)

    keys = (INTEROP / "3dspeaker-sdpn-full.keys.txt").read_text().splitlines()
    learned = [line for line in keys if line.endswith(")") and "running" not in line and "num_batches" not in line]
    for prefix, module in (
        ("module.backbone.", EcapaTdnn(80, ModelConfig())),
        ("module.head.", ProjectionMLP(ModelConfig())),
    ):
        # Squeeze-excitation and the last layer are 1×1 convolutions there, linear layers here.
        squeezed = [
            tuple(n for n in shape if n != 1) for shape in shapes(key for key in learned if key.startswith(prefix))
        ]
        ours = [tuple(n for n in p.shape if n != 1) for p in module.parameters()]
        student_and_teacher = len(squeezed) // len(ours)
        assert sorted(squeezed) == sorted(ours * student_and_teacher)


def test_pooling_equals_the_concatenated_form():
    torch.manual_seed(0)
    pooling = AttentiveStatisticsPooling(12, 5).double().eval()
    pooling.tdnn.norm.running_mean.normal_()
    x = torch.randn(3, 12, 20, dtype=torch.float64)
    mean, std = x.mean(2, keepdim=True), x.var(2, unbiased=False, keepdim=True).clamp_min(1e-12).sqrt()
    stacked = torch.cat([x, mean.expand_as(x), std.expand_as(x)], dim=1)
    weights = torch.softmax(pooling.conv(torch.tanh(pooling.tdnn(stacked))), dim=2)
    expected_mean = (weights * x).sum(2)
    expected_std = (weights * (x - expected_mean.unsqueeze(2)) ** 2).sum(2).clamp_min(1e-12).sqrt()
    torch.testing.assert_close(pooling(x), torch.cat([expected_mean, expected_std], dim=1))


def test_constant_input_gives_finite_gradients():
    pooling = AttentiveStatisticsPooling(4, 2)
    x = torch.ones(2, 4, 6, requires_grad=True)
    pooling(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_convolutions_reflect_at_both_ends():
    torch.manual_seed(0)
    encoder = EcapaTdnn(80, ModelConfig(channels=16, attention_channels=4, se_channels=4, embedding_dim=8)).eval()
    x = torch.randn(1, 80, 12)
    conv = encoder.conv0.conv
    reflected = torch.cat([x[:, :, [2, 1]], x, x[:, :, [-2, -3]]], dim=2)
    torch.testing.assert_close(conv(x), F.conv1d(reflected, conv.weight, conv.bias))


def test_deterministic_reflection_is_the_same():
    results = []
    for deterministic in (False, True):
        x = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
        torch.use_deterministic_algorithms(deterministic)
        try:
            padded = ecapa_tdnn._reflect(x, 4)
        finally:
            torch.use_deterministic_algorithms(False)
        (padded * torch.arange(17.0)).sum().backward()
        results.append((padded, x.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("frames", [EcapaTdnn.MIN_FRAMES, 18, 100])
def test_batching_does_not_change_an_embedding(frames):
    torch.manual_seed(0)
    encoder = EcapaTdnn(80, ModelConfig(channels=32, attention_channels=8, se_channels=8, embedding_dim=16)).eval()
    x = torch.randn(7, frames, 80)
    single = torch.cat([encoder(one[None]) for one in x])
    assert float(((encoder(x) - single).norm() / single.norm()).detach()) < 1e-4


def test_projections_and_prototypes_have_unit_norm():
    torch.manual_seed(0)
    config = ModelConfig(embedding_dim=8, mlp_hidden_dim=16, projection_dim=256)
    mlp, prototypes = ProjectionMLP(config), Prototypes(32, 256)
    z = mlp(torch.randn(10, 8))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(10))
    assert float(prototypes.weight.detach().abs().max()) <= 1 / 16
    expected = torch.einsum("bd,kd->bk", z, prototypes.weight / prototypes.weight.norm(dim=1, keepdim=True))
    torch.testing.assert_close(prototypes(z), expected)
    assert all(torch.equal(m.bias, torch.zeros_like(m.bias)) for m in mlp if isinstance(m, torch.nn.Linear))
    assert float(mlp[3].weight.detach().std()) == pytest.approx(0.02, rel=0.2)
