"""Synchronised batch normalisation against BatchNorm1d in float64. Several processes: test_large_batch.py."""

import pytest
import torch
from torch import nn

from sdpn_k2.methods.batch_norm import SynchronisedBatchNorm, synchronise_batch_norm


def layers():
    """Return ours, and torch's in float64, with the same tensors."""
    torch.manual_seed(0)
    ours = nn.BatchNorm1d(5)
    with torch.no_grad():
        for tensor in (ours.weight, ours.bias, ours.running_mean):
            tensor.normal_()
    reference = nn.BatchNorm1d(5).double()
    reference.load_state_dict(ours.state_dict())
    return synchronise_batch_norm(ours), reference


@pytest.mark.parametrize("shape", [(8, 5), (4, 5, 7)])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_output_gradients_and_running_statistics_equal_batch_norm(shape, mean):
    ours, reference = layers()
    assert isinstance(ours, SynchronisedBatchNorm) and list(ours.state_dict()) == list(reference.state_dict())
    x = mean + torch.randn(shape, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    gradients = []
    for layer in (ours, reference):
        parameter = next(layer.parameters())
        given = x.to(parameter.dtype, copy=True).requires_grad_()
        output = layer(given)
        (output * weights).sum().backward()
        gradients.append([output, given.grad, *(p.grad for p in layer.parameters()), *layer.buffers()])
    for a, b in zip(*gradients):
        # A mean of 1000 is rounded to 6e-5.
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=1e-5 + 3e-7 * mean)


def test_statistics_are_float32_whatever_the_input():
    ours, reference = layers()
    x = (100 + torch.randn(64, 5, 7, generator=torch.Generator().manual_seed(1))).bfloat16()
    output = ours(x)
    expected = reference(x.double())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ours.running_var.double(), reference.running_var, rtol=1e-4, atol=0)


def test_evaluation_and_kept_statistics_are_those_of_batch_norm():
    ours, _ = layers()
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    plain = nn.BatchNorm1d(5)
    plain.load_state_dict(before)
    x = torch.randn(4, 5, 7)
    assert torch.equal(ours.eval()(x), plain.eval()(x))
    ours.track_running_stats = False
    ours.train()(x)
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.state_dict().items())
