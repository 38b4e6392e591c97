"""SDPN's objective against float64 NumPy, written from the formulas."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import softmax
from tiny_config import TINY_MODEL

from sdpn_k2.config import load_config
from sdpn_k2.methods import regularisation, sdpn

VIEWS, UTTERANCES, DIM, K = 3, 6, 5, 7


def sinkhorn_reference(p, iterations):
    """Scales rows and columns of the plain probabilities in turn, as the paper's pseudo-code does."""
    q = p / p.sum()
    for _ in range(iterations):
        q = q / q.sum(axis=0, keepdims=True) / q.shape[1]
        q = q / q.sum(axis=1, keepdims=True) / q.shape[0]
    return q * q.shape[0]


def random_inputs(seed=0):
    """Return an SDPN with K prototypes, embeddings, and projections of student and teacher, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model = make(f"model.embedding_dim={DIM}").double()
    e = torch.randn(VIEWS, UTTERANCES, DIM, generator=generator, dtype=torch.float64)
    z_student = torch.randn(VIEWS, UTTERANCES, 6, generator=generator, dtype=torch.float64)
    z_teacher = torch.randn(UTTERANCES, 6, generator=generator, dtype=torch.float64)
    return model, e, *(torch.nn.functional.normalize(z, dim=-1) for z in (z_student, z_teacher))


def make(*overrides):
    torch.manual_seed(1)
    return sdpn.SDPN(load_config(None, [*TINY_MODEL, f"objective.num_prototypes={K}", *overrides]))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_every_term_equals_its_formula():
    model, e, z_student, z_teacher = random_inputs()
    loss, terms = model.loss(e, z_student, z_teacher)

    prototypes = unit(model.prototypes.weight.detach().numpy())
    p_student = softmax(z_student.numpy() @ prototypes.T / 0.1, axis=-1)
    p_teacher = softmax(z_teacher.numpy() @ prototypes.T / 0.1, axis=-1) ** (1 / 0.25)
    p_teacher = sinkhorn_reference(p_teacher / p_teacher.sum(-1, keepdims=True), 3)
    cross_entropy = np.mean(
        [-np.sum(p_teacher[i] * np.log(p_student[v, i])) for v in range(VIEWS) for i in range(UTTERANCES)]
    )
    mean = p_student.reshape(-1, K).mean(0)
    entropy = -np.sum(mean * np.log(mean))
    dimension = 0.0
    for view in unit(e.numpy()):
        nearest = [
            min(np.linalg.norm(view[i] - view[j]) for j in range(UTTERANCES) if j != i) for i in range(UTTERANCES)
        ]
        dimension -= np.mean(np.log(np.array(nearest) + 1e-8))

    assert float(terms["loss_ce"]) == pytest.approx(cross_entropy, rel=1e-12)
    assert float(terms["loss_me"]) == pytest.approx(np.log(K) - entropy, rel=1e-12)
    assert float(terms["loss_dr"]) == pytest.approx(dimension, rel=1e-12)
    assert float(loss.detach()) == pytest.approx(cross_entropy + np.log(K) - entropy + 0.1 * dimension, rel=1e-12)
    assert float(terms["prototypes_in_use"]) == pytest.approx(np.exp(entropy), rel=1e-12)


def test_gradient():
    model, e, z_student, z_teacher = random_inputs()
    inputs = (e.requires_grad_(), z_student.requires_grad_())
    assert torch.autograd.gradcheck(lambda e, z_student: model.loss(e, z_student, z_teacher)[0], inputs)


def test_gradient_of_dimension_regularisation_reaches_both_ends():
    e = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [-1.0, 0.3]]], dtype=torch.float64, requires_grad=True)
    regularisation.koleo(e).backward()
    assert (e.grad.abs().sum(-1) > 0).all()


def test_identical_embeddings_give_a_finite_gradient():
    e = torch.randn(2, 4, 8)
    e[0, 1] = e[0, 0]
    e.requires_grad_()
    loss = regularisation.koleo(e)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(e.grad).all()
    # The identical pair sits at the distance floor.
    assert float(loss.detach()) > -np.log(1e-8) * 2 / 4 - 2


def test_sinkhorn_equals_the_reference_and_balances_in_the_limit():
    log_p = torch.log_softmax(
        torch.randn(40, K, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 4, 1
    )
    three = sdpn.sinkhorn(log_p, 3).exp().numpy()
    np.testing.assert_allclose(three, sinkhorn_reference(log_p.exp().numpy(), 3), rtol=1e-10)
    np.testing.assert_allclose(three.sum(1), 1.0, atol=1e-6)
    assert np.abs(three.sum(0) - 40 / K).max() > 1e-4
    many = sdpn.sinkhorn(log_p, 2000).exp().numpy()
    np.testing.assert_allclose(many.sum(0), 40 / K, rtol=1e-5)
    np.testing.assert_allclose(many.sum(1), 1.0, atol=1e-6)


def test_sinkhorn_survives_probabilities_that_underflow():
    log_p = torch.log_softmax(torch.tensor([[0.0, -300.0], [0.0, -310.0]]), 1)
    p = sdpn.sinkhorn(log_p, 3).exp()
    assert torch.isfinite(p).all()
    np.testing.assert_allclose(p.sum(1).numpy(), 1.0, atol=1e-6)


def test_embedding_statistics_in_closed_form():
    statistics = regularisation.embedding_statistics(torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]))
    assert float(statistics["effective_rank"]) == pytest.approx(2.0, rel=1e-5)
    # Six pairs: two with cosine -1, four with 0.
    assert float(statistics["mean_cosine"]) == pytest.approx(-2 / 6, rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_embedding_statistics_that_cannot_be_computed_are_nan(bad):
    embeddings = torch.randn(6, 4)
    embeddings[2, 1] = bad
    assert all(torch.isnan(value) for value in regularisation.embedding_statistics(embeddings).values())


def test_embedding_statistics_of_ill_conditioned_embeddings():
    one = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    # All but equal, then along one line, with sizes from 1e-12 to 1e12.
    for embeddings in (one.repeat(40, 1) * 1e12, one * torch.logspace(-12, 12, 40).unsqueeze(1)):
        statistics = regularisation.embedding_statistics(embeddings)
        assert 0.99 < float(statistics["effective_rank"]) < 40
        assert float(statistics["mean_cosine"]) == pytest.approx(1, abs=1e-4)


def test_teacher_follows_the_student_in_closed_form():
    model = make()
    start = [p.clone() for p in model.teacher.parameters()]
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.0)
    for _ in range(5):
        model.update_teacher(0.9)
    for teacher, student, first in zip(model.teacher.parameters(), model.student.parameters(), start):
        expected = student.double() + (first.double() - student.double()) * 0.9**5
        torch.testing.assert_close(teacher.double(), expected, rtol=1e-5, atol=1e-6)


def test_teacher_keeps_its_own_running_statistics():
    model = make().train()
    buffers = lambda network: {name: b.clone() for name, b in network.named_buffers()}
    before = buffers(model.teacher)
    model.student(torch.randn(6, 30, 80) + 3)
    model.update_teacher(0.5)
    assert all(torch.equal(before[name], value) for name, value in buffers(model.teacher).items())
    model(torch.randn(6, 40, 80), torch.randn(2, 6, 30, 80))
    assert not torch.equal(before["encoder.conv0.norm.running_mean"], model.teacher.encoder.conv0.norm.running_mean)


def test_forward_is_the_objective_of_the_networks_outputs():
    model = make().eval()
    global_view, local_views = torch.randn(6, 40, 80), torch.randn(2, 6, 30, 80)
    e, z = (torch.stack(outputs) for outputs in zip(*map(model.student, local_views)))
    expected, _ = model.loss(e, z, model.teacher(global_view)[1])
    loss, statistics = model(global_view, local_views, diagnose=True)
    torch.testing.assert_close(loss, expected)
    assert {"loss_ce", "effective_rank"} <= set(statistics)
    assert not any(value.requires_grad for value in statistics.values())


def test_gradients_reach_student_and_prototypes_alone():
    model = make().train()
    loss, _ = model(torch.randn(6, 40, 80), torch.randn(2, 6, 30, 80))
    loss.backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.student.parameters())
    assert float(model.prototypes.weight.grad.abs().sum()) > 0


def test_prototypes_learn_through_the_student_alone():
    """The gradient of the prototypes is that of the objective with the teacher's distribution held fixed."""
    model, e, z_student, z_teacher = random_inputs()
    log_p_student = torch.log_softmax(model.prototypes(z_student) / 0.1, dim=-1)
    log_p_teacher = torch.log_softmax(model.prototypes(z_teacher).detach() / 0.1, dim=-1)
    fixed = sdpn.sinkhorn(sdpn.sharpen(log_p_teacher, 0.25), 3).exp()
    loss = sdpn.cross_entropy_loss(fixed, log_p_student) + sdpn.mean_entropy_loss(log_p_student.exp())
    (expected,) = torch.autograd.grad(loss, model.prototypes.weight)
    model.loss(e, z_student, z_teacher)[0].backward()
    torch.testing.assert_close(model.prototypes.weight.grad, expected)


def test_dimension_regularisations_on_correlations_in_closed_form():
    # Two dimensions with correlation 0.8, in one view; independent of scale and mean.
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.5, -0.5], [-0.5, 0.5]], dtype=torch.float64)
    r = float(np.corrcoef(x.numpy().T)[0, 1])
    e = torch.stack([x * torch.tensor([3.0, 0.2]) + 5.0, x])
    assert float(regularisation.off_diagonal(e)) == pytest.approx(2 * (2 * r**2 / 2), rel=1e-6)
    assert float(regularisation.frobenius(e)) == pytest.approx(2 * (np.sqrt(2 * r**2) / 2), rel=1e-6)


@pytest.mark.parametrize("name", ["koleo", "off_diagonal", "frobenius"])
def test_gradients_of_dimension_regularisations(name):
    e = torch.randn(2, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(regularisation.DIMENSION_REGULARISATIONS[name], (e,))
    model, e, z_student, z_teacher = random_inputs()
    model.config = dataclasses.replace(model.config, dim_reg=name)
    _, terms = model.loss(e, z_student, z_teacher)
    assert float(terms["loss_dr"]) == pytest.approx(float(regularisation.DIMENSION_REGULARISATIONS[name](e)))
