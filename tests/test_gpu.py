"""Training and extraction on a GPU: ``pytest -m gpu``. With two or more GPUs, also several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tiny_config import TINY, set_options
from tiny_models import write_model
from tiny_training import same_weights

from sdpn_k2.config import load_config
from sdpn_k2.data.multi_crop import MultiCropBatch
from sdpn_k2.device import Process
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.methods.collectives import _Gather
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.models.checkpoint import list_checkpoints, load_checkpoint
from sdpn_k2.training.gradient_cache import micro_batch_gradients
from sdpn_k2.training.optimizer import make_optimizer
from sdpn_k2.training.precision import autocast, resolve
from sdpn_k2.training.trainer import Trainer
from sdpn_k2.training.views import on_device

pytestmark = pytest.mark.gpu

CONF = Path(__file__).resolve().parents[1] / "egs" / "voxceleb" / "conf"
# What a process draws does not depend on the number of processes.
CLEAN = ["augment.clean_prob=1", "augment.single_prob=0", "augment.mask_prob=0"]


@pytest.fixture
def device():
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    return torch.device("cuda")


@pytest.fixture
def run(device):
    """Return a function that trains on the device, and returns final.pt."""
    yield lambda cuts, exp, *settings, **options: Trainer(
        load_config(None, [*TINY, *settings]), cuts, cuts.parent, exp, Process(0, 1, device), **options
    ).run()
    torch.use_deterministic_algorithms(False)


def losses(final):
    """Return the logged losses of a run."""
    return [json.loads(line)["loss"] for line in (final.parent / "metrics.jsonl").read_text().splitlines()]


def relative(a, b):
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))


@pytest.mark.parametrize("settings", [[], ["train.micro_batch_size=3"], ["method=dino"]])
def test_a_run_has_the_losses_of_one_on_the_cpu(run, tiny_cuts, tmp_path, settings):
    cpu = Trainer(
        load_config(None, [*TINY, *settings]),
        tiny_cuts,
        tiny_cuts.parent,
        tmp_path / "cpu",
        Process(0, 1, torch.device("cpu")),
    )
    # Differences grow from step to step; the first logged one is that of two steps.
    assert losses(run(tiny_cuts, tmp_path / "gpu", *settings))[0] == pytest.approx(losses(cpu.run())[0], rel=0.02)


def test_compiled_networks_compute_the_same(run, tiny_cuts, tmp_path):
    torch._dynamo.utils.counters.clear()
    compiled = losses(run(tiny_cuts, tmp_path / "compiled", "train.compile=on"))
    assert not torch._dynamo.utils.counters["graph_break"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert compiled[0] == pytest.approx(losses(run(tiny_cuts, tmp_path / "eager", "train.compile=off"))[0], rel=0.02)


def test_bfloat16_stays_close_to_float32(device, run, tiny_cuts, tmp_path):
    if resolve("auto", device) != "bfloat16":
        pytest.skip("this device only emulates bfloat16")
    low, high = (
        losses(run(tiny_cuts, tmp_path / name, f"train.precision={name}"))[0] for name in ("bfloat16", "float32")
    )
    assert low == pytest.approx(high, rel=0.1)


def test_copies_on_the_side_stream_are_complete(device):
    """Each batch is used while the next is copied."""
    rng = np.random.default_rng(0)

    def pinned(*shape):
        tensor = torch.from_numpy(rng.integers(-9999, 9999, size=shape).astype(np.int16))
        return tensor.pin_memory() if device.type == "cuda" else tensor

    originals = [(pinned(64, 64000), pinned(4, 64, 32000)) for _ in range(6)]
    batches = [MultiCropBatch(*crops, ids=[]) for crops in originals]
    work = torch.randn(1024, 1024, device=device)
    sums = []
    for batch in on_device(batches, device):
        for _ in range(20):
            work = torch.tanh(work @ work)
        sums.append([batch.global_crops.long().sum(), batch.local_crops.long().sum()])
    assert [[int(value) for value in pair] for pair in sums] == [
        [int(crops.long().sum()) for crops in pair] for pair in originals
    ]


def test_the_published_recipe_fits_24_gb_in_micro_batches(device):
    config = load_config(CONF / "sdpn.yaml")
    torch.manual_seed(0)
    model = SDPN(config).to(device).train()
    optimizer = make_optimizer(model, config.train)
    size = config.train.batch_size
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(2):
        inputs = torch.randn(size, 398, 80, device=device), torch.randn(4, size, 198, 80, device=device)
        loss, _ = micro_batch_gradients(model, *inputs, size=32, precision=autocast("auto", device))
        optimizer.step()
    assert torch.isfinite(loss)
    assert torch.cuda.max_memory_allocated(device) < 24 * 2**30


def test_a_resumed_run_ends_with_the_same_bits(run, tiny_cuts, tmp_path):
    whole = run(tiny_cuts, tmp_path / "whole", "train.deterministic=on")
    first = list_checkpoints(whole.parent / "checkpoints")[0]
    assert same_weights(whole, run(tiny_cuts, tmp_path / "again", "train.deterministic=on", resume=str(first)))


def test_embeddings_equal_those_of_the_cpu(device, tmp_path):
    model = write_model(tmp_path / "model.pt")
    rng = np.random.default_rng(0)
    waveforms = [(rng.normal(size=samples) * 0.1).astype(np.float32) for samples in (8000, 8000, 40000, 160000)]
    ours, reference = (Extractor.load(model, where).embed_waveforms(waveforms) for where in (device, "cpu"))
    assert all(relative(a, b) < 1e-4 for a, b in zip(ours, reference))


def test_nccl_gathers_with_one_process(device, tmp_path):
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", init_method=f"file://{tmp_path}/start", rank=0, world_size=1
    )
    try:
        x = torch.randn(3, 4, device=device, requires_grad=True)
        gathered = _Gather.apply(x, 1)
        (gathered * 2).sum().backward()
        assert torch.equal(gathered, x) and torch.equal(x.grad, torch.full_like(x, 2))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("settings", [[], ["train.micro_batch_size=3"], ["train.compile=on"]])
def test_two_processes_train_like_one(device, run, tiny_cuts, tmp_path, settings):
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    exp = tmp_path / "two"
    options = set_options([*TINY, *CLEAN, *settings])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "sdpn_k2", "train", "--device", device.type, *options, str(tiny_cuts), str(exp)]
    environment = dict(os.environ, GLOO_SOCKET_IFNAME="lo")
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    one = run(tiny_cuts, tmp_path / "one", *CLEAN)
    assert losses(exp / "final.pt")[0] == pytest.approx(losses(one)[0], rel=0.02)
    ours, others = (load_checkpoint(final).model for final in (exp / "final.pt", one))
    name = "teacher.encoder.conv0.norm.running_mean"
    assert relative(ours[name], others[name]) < 0.02
