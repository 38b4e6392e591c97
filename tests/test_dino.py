"""DINO, the baseline, against its formulas."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from tiny_config import TINY_MODEL

from sdpn_k2.config import load_config
from sdpn_k2.methods.dino import DINO

K = 11


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DINO(load_config(None, [*TINY_MODEL, "method=dino", f"dino.num_outputs={K}"]))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_loss_and_centre_equal_the_formulas(model):
    rng = np.random.default_rng(0)
    z_student, z_teacher = unit(rng.normal(size=(3, 5, 6))), unit(rng.normal(size=(5, 6)))
    model.teacher.output.weight.data.normal_()
    model.centre.normal_()
    centre = model.centre.double().numpy().copy()
    loss, _ = model.loss(torch.randn(3, 5, 8), *(torch.from_numpy(z).float() for z in (z_student, z_teacher)))
    student = z_student @ unit(model.student.output.weight.detach().double().numpy()).T
    teacher = z_teacher @ unit(model.teacher.output.weight.double().numpy()).T
    p_teacher, p_student = softmax((teacher - centre) / 0.04, axis=-1), softmax(student / 0.1, axis=-1)
    expected = np.mean([-np.sum(p_teacher[i] * np.log(p_student[v, i])) for v in range(3) for i in range(5)])
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    # The centre moves after use.
    np.testing.assert_allclose(model.centre.numpy(), 0.9 * centre + 0.1 * teacher.mean(0), rtol=1e-5, atol=1e-6)


def test_output_layer_is_frozen_in_the_first_epoch_and_tracked_by_the_teacher(model):
    assert model.frozen_parameters(0) == [model.student.output.weight] and model.frozen_parameters(1) == []
    before = model.teacher.output.weight.clone()
    with torch.no_grad():
        model.student.output.weight.add_(1.0)
    model.update_teacher(0.75)
    torch.testing.assert_close(model.teacher.output.weight, before + 0.25)


def test_gradients_reach_the_student_alone(model):
    loss, _ = model.train()(torch.randn(6, 40, 80), torch.randn(2, 6, 30, 80))
    loss.backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.student.parameters())
