#!/usr/bin/env python
"""Time one training step on synthetic audio that is already in memory.

    python benchmarks/train_step.py                      2 cores: small encoder, batch 64
    python benchmarks/train_step.py --config egs/voxceleb/conf/sdpn.yaml --device cuda [--micro-batch-size 64]

A step is augmentation, fbank, both networks, the objective, backward, clipping, the optimiser and the EMA. The peer is
the same step with the encoder in its usual form: 1×1 convolutions behind a padding call, the attention's 9C input
concatenated, float32, eager. Compilation is timed separately. TFLOP/s count the multiplications of convolutions and
linear layers, forward (both networks) and backward (the student).
"""

import argparse
import copy
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sdpn_k2.config import Config, load_config
from sdpn_k2.data.multi_crop import MultiCropBatch
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.models.ecapa_tdnn import AttentiveStatisticsPooling, Conv
from sdpn_k2.signal.augment import Augment, NoiseBank, RirBank
from sdpn_k2.training.gradient_cache import micro_batch_gradients
from sdpn_k2.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from sdpn_k2.training.precision import autocast
from sdpn_k2.training.views import Views


class UsualConv(Conv):
    """Convolution that is always padded."""

    def forward(self, x):
        """Map ``(batch, in_channels, frames)`` to ``(batch, out_channels, frames)``."""
        return nn.Conv1d.forward(self, F.pad(x, (self.reflection, self.reflection), mode="reflect"))


class UsualPooling(AttentiveStatisticsPooling):
    """Pooling that concatenates the input of the attention."""

    def forward(self, x):
        """Map ``(batch, channels, frames)`` to ``(batch, 2 * channels)``."""
        mean, std = x.mean(2, keepdim=True), x.var(2, unbiased=False, keepdim=True).clamp_min(1e-12).sqrt()
        weights = torch.softmax(
            self.conv(torch.tanh(self.tdnn(torch.cat([x, mean.expand_as(x), std.expand_as(x)], 1)))), 2
        )
        mean = (weights * x).sum(2)
        return torch.cat([mean, (weights * (x - mean.unsqueeze(2)) ** 2).sum(2).clamp_min(1e-12).sqrt()], 1)


def make_usual(model: nn.Module) -> nn.Module:
    """Return the model with its encoders in the usual form; the weights stay the same."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if type(module) is Conv:
            module.__class__ = UsualConv
        elif type(module) is AttentiveStatisticsPooling:
            module.__class__ = UsualPooling
    return model


def synthetic(config: Config, device: torch.device):
    """Return one batch of noise, and views whose augmentation has banks of noise."""
    rng = np.random.default_rng(0)
    rate, crops, size = config.features.sample_rate, config.crops, config.train.batch_size

    def noise(*shape):
        return rng.integers(-3000, 3000, size=shape).astype(np.int16)

    batch = MultiCropBatch(
        torch.from_numpy(noise(size, round(crops.global_seconds * rate))).to(device),
        torch.from_numpy(noise(crops.num_local, size, round(crops.local_seconds * rate))).to(device),
        [str(i) for i in range(size)],
    )
    banks = nn.ModuleDict({kind: NoiseBank([noise(5 * rate) for _ in range(100)]) for kind in ("noise", "music")})
    rirs = RirBank([rng.normal(size=rate) * np.exp(-np.arange(rate) / 2000) for _ in range(50)], rate)
    return batch, Views(config, Augment(config.augment, banks, rirs)).to(device)


class Stepper:
    """One variant of the step."""

    def __init__(self, config, model, views, batch, *, device, precision):
        self.config, self.model, self.views, self.batch, self.device = config, model, views, batch, device
        self.precision, self.count = precision, 0
        self.optimizer = make_optimizer(model, config.train)
        set_learning_rate(self.optimizer, 0.01)

    def inputs(self):
        """Return the views of the next step."""
        self.count += 1
        return self.views(self.batch, np.random.default_rng(self.count))

    def __call__(self):
        """Do one step."""
        global_view, local_views = self.inputs()
        self.optimizer.zero_grad(set_to_none=True)
        precision, size = autocast(self.precision, self.device), self.config.train.micro_batch_size
        if size is None:
            with precision:
                loss, _ = self.model(global_view, local_views)
            loss.backward()
        else:
            micro_batch_gradients(self.model, global_view, local_views, size=size, precision=precision)
        clip_gradients(self.model.student, self.config.train.clip_norm)
        self.optimizer.step()
        self.model.update_teacher(0.99)


def seconds(function, device, times: int) -> float:
    """Return the median over ``times`` runs, after one untimed run."""
    taken = []
    for _ in range(times + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="egs/voxceleb/conf/sdpn_small.yaml")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--micro-batch-size", type=int)
    parser.add_argument("--steps", type=int, default=7, help="timed steps per variant")
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    micro = [f"train.micro_batch_size={arguments.micro_batch_size}"] if arguments.micro_batch_size else []
    config = load_config(arguments.config, micro)
    torch.manual_seed(0)
    model = SDPN(config).train()
    batch, views = synthetic(config, device)
    size = config.train.batch_size
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}; batch {size}, C = {config.model.channels}")

    plain = Stepper(config, copy.deepcopy(model).to(device), views, batch, device=device, precision="float32")
    with FlopCounterMode(display=False) as counter:
        plain()
    flops = counter.get_total_flops()
    front = seconds(plain.inputs, device, arguments.steps)

    def report(label, stepper, remark=""):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        taken = seconds(stepper, device, arguments.steps)
        memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:8.1f} GB" if device.type == "cuda" else ""
        speed = f"{size / taken:8.0f} utt/s {flops / taken / 1e12:8.2f} TFLOP/s"
        print(f"{label:<42} {taken:8.3f} s {speed} {memory} {remark}", flush=True)
        return taken

    fresh = lambda precision, form=copy.deepcopy: Stepper(
        config, form(model).to(device), views, batch, device=device, precision=precision
    )
    peer = report("peer: usual encoder, float32", fresh("float32", make_usual))
    ours = [report("float32", plain), report("bfloat16", fresh("bfloat16"))]
    if not arguments.no_compile:
        for precision in ("float32", "bfloat16"):
            stepper = fresh(precision)
            stepper.model.student.compile()
            stepper.model.teacher.compile()
            start = time.perf_counter()
            stepper()
            ours.append(report(f"{precision}, compiled", stepper, f"(first step {time.perf_counter() - start:.0f} s)"))
    print(f"{'augmentation and fbank in each of these':<42} {front:8.3f} s")
    print(f"fastest: {peer / min(ours):.2f} × the peer; augmentation and fbank {front / min(ours):.0%} of it")


if __name__ == "__main__":
    main()
