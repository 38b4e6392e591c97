"""The graphs of compiled networks: one for each network and shape, none broken. No C++ compiler is needed."""

import contextlib
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_config import TINY_MODEL

from sdpn_k2.config import load_config
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.training import trainer
from sdpn_k2.training.distributed import synchronised
from sdpn_k2.training.gradient_cache import micro_batch_gradients

pytestmark = pytest.mark.skipif(not hasattr(torch, "compiler"), reason="needs torch 2.1 or later")


@contextlib.contextmanager
def uncompiled_code():
    """Let ``compile`` trace the graphs, and then run them in Python; forget them afterwards."""
    original = torch.nn.Module.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "compile", lambda module, **kw: original(module, backend="eager", **kw))
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        yield
    torch.compiler.reset()


def compiled(process):
    """Return a network as the trainer compiles it, with few layers."""
    torch.manual_seed(0)
    model = synchronised(SDPN(load_config(None, [*TINY_MODEL, "model.res2net_scale=2"])), process).train()
    train = SimpleNamespace(compile="on")
    trainer.Trainer._compile(
        SimpleNamespace(config=SimpleNamespace(train=train), model=model, process=process, num_steps=1, step=0)
    )
    return model


def graphs():
    """Return the number of graphs, and the graph breaks."""
    counters = torch._dynamo.utils.counters
    return counters["stats"]["unique_graphs"], dict(counters["graph_break"])


def views(frames, rank=0):
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(4, frames, 80, generator=generator), torch.randn(2, 4, frames - 5, 80, generator=generator)


def test_each_crop_length_has_one_graph_for_each_network():
    with uncompiled_code():
        model = compiled(SimpleNamespace(world_size=1, device=torch.device("cpu")))
        for stage in range(2):
            for _ in range(2):
                model(*views(20 + stage))[0].backward()
            assert graphs() == (2 * (stage + 1), {})


@pytest.mark.slow
def test_more_graphs_than_torch_allows_by_default_with_micro_batches():
    with uncompiled_code():
        model = compiled(SimpleNamespace(world_size=1, device=torch.device("cpu")))
        for stage in range(3):
            for _ in range(2):
                micro_batch_gradients(model, *views(20 + stage), size=2, precision=contextlib.nullcontext())
            # The student runs without gradient, and then with it.
            assert graphs() == (3 * (stage + 1), {})


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, torch.distributed as dist
from test_compile import compiled, graphs, uncompiled_code, views
from sdpn_k2.device import start_process
process = start_process("cpu")
inputs = views(20, process.rank)
results = []
with uncompiled_code():
    model = compiled(process)
    for disabled in (False, True):
        torch.compiler.set_stance("force_eager" if disabled else "default")
        model.zero_grad(set_to_none=True)
        loss, _ = model(*inputs)
        loss.backward()
        results.append(torch.cat([p.grad.flatten() for p in model.student.parameters()]))
    found = graphs()
torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
assert found == (2, {}), found
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_unbroken_graphs_with_the_same_gradient(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    arguments = [*launcher, str(tmp_path / "worker.py"), os.path.dirname(__file__)]
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
