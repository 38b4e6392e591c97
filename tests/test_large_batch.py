"""Micro-batches and several processes give the loss and the gradients of one process with the whole batch."""

import contextlib
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from sdpn_k2.config import load_config
from sdpn_k2.methods.dino import DINO
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.training.gradient_cache import loss_and_gradients

TINY = [
    "model.channels=16",
    "model.attention_channels=4",
    "model.se_channels=4",
    "model.embedding_dim=8",
    "model.mlp_hidden_dim=16",
    "model.projection_dim=6",
    "objective.num_prototypes=5",
    "dino.num_outputs=9",
]


def make(method, *overrides):
    torch.manual_seed(0)
    model = method(load_config(None, TINY + list(overrides)))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            # Not the identity, so that evaluation mode is a real test.
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def views(utterances=12):
    """Utterances far enough apart that rounding does not change who is nearest to whom in KoLeo."""
    generator = torch.Generator().manual_seed(1)
    means = 2 * torch.randn(utterances, 1, 80, generator=generator)
    return (
        means + torch.randn(utterances, 30, 80, generator=generator),
        means + torch.randn(3, utterances, 20, 80, generator=generator),
    )


def gradients(model, micro_batch_size, inputs=None):
    model.zero_grad(set_to_none=True)
    loss, statistics = loss_and_gradients(model, *(inputs or views()), contextlib.nullcontext(), micro_batch_size)
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return loss, flat, statistics


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("method", [SDPN, DINO])
@pytest.mark.parametrize("dim_reg", ["koleo", "off_diagonal"])
@pytest.mark.parametrize("size", [1, 2, 4, 5, 12, 100])
def test_gradients_equal_those_of_one_chunk(method, dim_reg, size):
    loss, expected, _ = gradients(make(method, f"objective.dim_reg={dim_reg}").eval(), None)
    chunked_loss, ours, _ = gradients(make(method, f"objective.dim_reg={dim_reg}").eval(), size)
    assert float(chunked_loss) == pytest.approx(float(loss), rel=1e-6)
    assert relative(ours, expected) < 1e-5


def test_in_training_mode_both_passes_see_the_same_chunk_statistics():
    """The cached gradient is that of the objective on chunk-normalised outputs: autograd through all chunks at once."""
    model = make(SDPN).train()
    global_view, local_views = views()
    loss, ours, _ = gradients(model, 4, (global_view, local_views))

    model = make(SDPN).train()
    with torch.no_grad():
        z_teacher = torch.cat([model.teacher(chunk)[1] for chunk in global_view.split(4)])
    outputs = [
        [x.unflatten(0, chunk.shape[:2]) for x in model.student(chunk.flatten(0, 1))]
        for chunk in local_views.split(4, dim=1)
    ]
    e, z = (torch.cat(parts, dim=1) for parts in zip(*outputs))
    expected_loss, _ = model.loss(e, z, z_teacher)
    expected_loss.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert float(loss) == pytest.approx(float(expected_loss.detach()), rel=1e-6)
    assert relative(ours, expected) < 1e-5


def test_running_statistics_move_once_a_chunk():
    ours, reference = make(SDPN).train(), make(SDPN).train()
    global_view, local_views = views()
    gradients(ours, 4, (global_view, local_views))
    with torch.no_grad():
        for chunk in global_view.split(4):
            reference.teacher(chunk)
        for chunk in local_views.split(4, dim=1):
            reference.student(chunk.flatten(0, 1))
    for (name, a), (_, b) in zip(ours.named_buffers(), reference.named_buffers()):
        torch.testing.assert_close(a, b, msg=name)
    assert int(ours.student.encoder.conv0.norm.num_batches_tracked) == 3


def test_what_is_kept_follows_the_chunk_not_the_batch():
    """Bytes that autograd saves for backward at any one time."""

    def peak(size, utterances):
        model, alive, most = make(SDPN).train(), 0, 0

        class Saved:
            def __init__(self, tensor):
                nonlocal alive, most
                self.tensor, self.bytes = tensor, tensor.numel() * tensor.element_size()
                alive += self.bytes
                most = max(most, alive)

            def __del__(self):
                nonlocal alive
                alive -= self.bytes

        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            gradients(model, size, views(utterances))
        return most

    whole, chunked, larger_batch = peak(None, 16), peak(4, 16), peak(4, 32)
    assert chunked < 0.4 * whole
    assert larger_batch < 1.3 * chunked


WORKER = """
import contextlib, os, sys, torch, torch.distributed as dist
sys.path.insert(0, os.environ["TESTS"])
from test_large_batch import make, views
from sdpn_k2.device import start_process
from sdpn_k2.training.distributed import average_gradients
from sdpn_k2.training.gradient_cache import loss_and_gradients
from sdpn_k2.methods import dino, sdpn
process = start_process("cpu")
model = make({"SDPN": sdpn.SDPN, "DINO": dino.DINO}[sys.argv[1]], *sys.argv[4:]).eval()
g, l = views()
part = slice(process.rank * 6, process.rank * 6 + 6)
size = int(sys.argv[2]) or None
loss, _ = loss_and_gradients(model, g[part], l[:, part], contextlib.nullcontext(), size)
average_gradients(model.parameters(), process)
if process.is_main:
    torch.save([loss, [p.grad for p in model.parameters() if p.grad is not None]], sys.argv[3])
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    "method, dim_reg, size",
    [("SDPN", "koleo", 0), ("SDPN", "koleo", 2), ("SDPN", "frobenius", 0), ("DINO", "koleo", 3)],
)
def test_two_processes_equal_one(tmp_path, method, dim_reg, size):
    environment = dict(os.environ, TESTS=os.path.dirname(__file__), OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    (tmp_path / "worker.py").write_text(WORKER)
    arguments = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(tmp_path / "worker.py"),
        method,
        str(size),
        str(tmp_path / "out.pt"),
        f"objective.dim_reg={dim_reg}",
    ]
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    loss, parts = torch.load(tmp_path / "out.pt", weights_only=True)
    model = make({"SDPN": SDPN, "DINO": DINO}[method], f"objective.dim_reg={dim_reg}").eval()
    expected_loss, expected, _ = gradients(model, None)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    assert relative(torch.cat([p.flatten() for p in parts]), expected) < 1e-5
