"""Micro-batches and several processes give the loss and the gradients of one process with the whole batch."""

import contextlib
import os
import subprocess
import sys

import pytest
import torch
from tiny_config import TINY_MODEL
from torch import nn

from sdpn_k2.config import load_config
from sdpn_k2.device import Process
from sdpn_k2.methods.dino import DINO
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.training.distributed import average_gradients, synchronised
from sdpn_k2.training.gradient_cache import micro_batch_gradients
from sdpn_k2.training.optimizer import make_optimizer, set_learning_rate


def make(method, *overrides):
    torch.manual_seed(0)
    model = method(load_config(None, [*TINY_MODEL, *overrides]))
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
    """Return the loss and all gradients as one vector; ``micro_batch_size`` None is the whole batch at once."""
    model.zero_grad(set_to_none=True)
    if micro_batch_size is None:
        loss, _ = model(*(inputs or views()))
        loss.backward()
    else:
        loss, _ = micro_batch_gradients(
            model, *(inputs or views()), size=micro_batch_size, precision=contextlib.nullcontext()
        )
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("method", [SDPN, DINO])
@pytest.mark.parametrize("dim_reg", ["koleo", "off_diagonal"])
@pytest.mark.parametrize("size", [1, 2, 4, 5, 12, 100])
def test_gradients_equal_those_of_one_chunk(method, dim_reg, size):
    loss, expected = gradients(make(method, f"objective.dim_reg={dim_reg}").eval(), None)
    chunked_loss, ours = gradients(make(method, f"objective.dim_reg={dim_reg}").eval(), size)
    assert float(chunked_loss) == pytest.approx(float(loss), rel=1e-6)
    assert relative(ours, expected) < 1e-5


def test_in_training_mode_both_passes_see_the_same_chunk_statistics():
    """The cached gradient is that of the objective on chunk-normalised outputs: autograd through all chunks at once."""
    model = make(SDPN).train()
    global_view, local_views = views()
    loss, ours = gradients(model, 4, (global_view, local_views))

    model = make(SDPN).train()
    with torch.no_grad():
        z_teacher = torch.cat([model.teacher(chunk)[1] for chunk in global_view.split(4)])
    outputs = [model.student(chunk) for chunk in local_views.split(4, dim=1)]
    e, z = (torch.cat(parts, dim=1) for parts in zip(*outputs))
    expected_loss, _ = model.loss(e, z, z_teacher)
    expected_loss.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert float(loss) == pytest.approx(float(expected_loss.detach()), rel=1e-6)
    assert relative(ours, expected) < 1e-5


def test_running_statistics_are_updated_once_per_chunk():
    ours, reference = make(SDPN).train(), make(SDPN).train()
    global_view, local_views = views()
    gradients(ours, 4, (global_view, local_views))
    with torch.no_grad():
        for chunk in global_view.split(4):
            reference.teacher(chunk)
        for chunk in local_views.split(4, dim=1):
            reference.student(chunk)
    for (name, a), (_, b) in zip(ours.named_buffers(), reference.named_buffers()):
        torch.testing.assert_close(a, b, msg=name)
    assert int(ours.student.encoder.conv0.norm.num_batches_tracked) == 3


def test_memory_depends_on_the_chunk_not_the_batch():
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


METHODS = {"SDPN": SDPN, "DINO": DINO}
CASES = [("SDPN", "koleo", None), ("SDPN", "koleo", 2), ("SDPN", "frobenius", None), ("DINO", "koleo", 3)]
PROCESS = Process(0, 1, torch.device("cpu"))


def two_steps(case, mode, size, inputs, process):
    """Train for two steps; return the losses, the gradients of both steps, and the state dict."""
    method, dim_reg, _ = case
    model = synchronised(make(METHODS[method], f"objective.dim_reg={dim_reg}").train(mode == "train"), process)
    optimizer = make_optimizer(model, model_config(case).train)
    set_learning_rate(optimizer, 1e-3)
    losses, parts = [], []
    for _ in range(2):
        loss, _ = gradients(model, size, inputs)
        average_gradients(model.parameters(), process)
        losses.append(float(loss))
        parts.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        optimizer.step()
        model.update_teacher(0.9)
    return losses, parts, model.state_dict()


def model_config(case):
    return load_config(None, [*TINY_MODEL, f"objective.dim_reg={case[1]}"])


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, torch.distributed as dist
from test_large_batch import CASES, two_steps, views
from sdpn_k2.device import start_process
process = start_process("cpu")
global_view, local_views = views()
part = slice(process.rank * 6, process.rank * 6 + 6)
inputs = global_view[part], local_views[:, part]
results = [two_steps(case, mode, case[2], inputs, process) for case in CASES for mode in ("eval", "train")]
if process.is_main:
    torch.save(results, sys.argv[2])
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """In training mode, micro-batch k of both processes together is normalised as one."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    (tmp_path / "worker.py").write_text(WORKER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [str(tmp_path / "worker.py"), os.path.dirname(__file__), str(tmp_path / "out.pt")]
    result = subprocess.run([*launcher, *arguments], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    results = iter(torch.load(tmp_path / "out.pt"))  # torch 1.13 reads no Python floats with weights_only
    for case in CASES:
        for mode in ("eval", "train"):
            size = case[2] or 6
            # The utterances in this order, in micro-batches twice as large: the k-th of one process, then of the other.
            order = torch.arange(12).view(2, 6 // size, size).transpose(0, 1).flatten()
            global_view, local_views = views()
            inputs = global_view[order], local_views[:, order]
            losses, parts, state = two_steps(case, mode, None if case[2] is None else 2 * size, inputs, PROCESS)
            our_losses, our_parts, our_state = next(results)
            assert our_losses == pytest.approx(losses, rel=1e-4)
            assert max(relative(a, b) for a, b in zip(our_parts, parts)) < 3e-4
            for name, tensor in state.items():
                difference = (our_state[name] - tensor).float().norm()
                assert difference <= 1e-4 * tensor.float().norm() + 1e-6, f"{case} {mode} {name}"
