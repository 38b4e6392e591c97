#!/usr/bin/env python
"""Time one training step on synthetic audio that is already in memory.

    python benchmarks/train_step.py                      2 cores: small encoder, batch 64
    python benchmarks/train_step.py --config egs/voxceleb/conf/sdpn.yaml --device cuda [--micro-batch-size 64]
    … --cuts data/manifests/selected_cuts_train.jsonl.gz       and some steps of real training, with its loader

A step is augmentation, fbank, both networks, the objective, backward, clipping, the optimiser and the EMA. The peer is
the same step with the encoder in its usual form: 1×1 convolutions behind a padding call, the attention's 9C input
concatenated, float32, eager. Compilation is timed separately. TFLOP/s count the multiplications of convolutions and
linear layers, forward (both networks) and backward (the student). bfloat16 is left out where it is only emulated.

Options of the fastest precision are timed one by one, on GPUs by default:

    cudnn-benchmark   cuDNN tries its algorithms, and keeps the fastest for each shape
    channels-last     activations (batch, frames, channels) in memory
    frames-8          crops are longer, so that their numbers of frames are multiples of 8
"""

import argparse
import contextlib
import copy
import dataclasses
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sdpn_k2.config import Config, load_config
from sdpn_k2.data.multi_crop import MultiCropBatch
from sdpn_k2.device import Process
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.models.ecapa_tdnn import AttentiveStatisticsPooling, Conv
from sdpn_k2.signal.augment import Augment, NoiseBank, RirBank
from sdpn_k2.signal.front_end import front_end
from sdpn_k2.training.gradient_cache import micro_batch_gradients
from sdpn_k2.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from sdpn_k2.training.precision import autocast, resolve
from sdpn_k2.training.trainer import Trainer
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


class ChannelsLastConv(Conv):
    """Convolution whose output lies in memory as (batch, frames, channels)."""

    def forward(self, x):
        """Map ``(batch, in_channels, frames)`` to ``(batch, out_channels, frames)``."""
        if self.reflection:
            x = F.pad(x, (self.reflection, self.reflection), mode="reflect")
        x = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, self.weight.unsqueeze(2), self.bias, dilation=(1, *self.dilation)).squeeze(2)


def with_layers(model: nn.Module, layers) -> nn.Module:
    """Return the model with layers of other classes; the weights stay the same."""
    model = copy.deepcopy(model)
    for module in model.modules():
        module.__class__ = layers.get(type(module), type(module))
    return model


def make_usual(model: nn.Module) -> nn.Module:
    """Return the model with its encoders in the usual form."""
    return with_layers(model, {Conv: UsualConv, AttentiveStatisticsPooling: UsualPooling})


def make_channels_last(model: nn.Module) -> nn.Module:
    """Return the model with convolutions in the other layout."""
    return with_layers(model, {Conv: ChannelsLastConv})


def in_eights(config: Config) -> Config:
    """Return the configuration with the shortest longer crops of a multiple of 8 frames."""
    features, fbank = config.features, front_end(config.features)

    def longer(seconds):
        samples = round(seconds * features.sample_rate)
        missing = -fbank.num_frames(samples) % 8
        return (samples + missing * fbank.shift) / features.sample_rate

    crops = config.crops
    return dataclasses.replace(
        config,
        crops=dataclasses.replace(
            crops, global_seconds=longer(crops.global_seconds), local_seconds=longer(crops.local_seconds)
        ),
    )


@contextlib.contextmanager
def cudnn_benchmark():
    """Let cuDNN choose algorithms by trial."""
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


def end_to_end(config: Config, cuts: Path, device: torch.device, steps: int):
    """Print the speed of real training, and its share of waiting for data, over the last half of the steps."""
    half = max(1, steps // 2)
    train = dataclasses.replace(config.train, steps=2 * half, log_every=half, checkpoint_every=2 * half)
    with tempfile.TemporaryDirectory() as exp:
        config = dataclasses.replace(config, train=train)
        Trainer(config, cuts, cuts.parent, Path(exp), Process(0, 1, device)).run()
        last = json.loads((Path(exp) / "metrics.jsonl").read_text().splitlines()[-1])
    speed, waiting = last["utterances_per_second"], last["data_wait_share"]
    print(f"{'end to end, ' + cuts.name:<42} {speed:17.0f} utt/s, {waiting:.1%} waiting for data")


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
    return batch, Views(config, Augment(config.augment, banks, rirs, config.features.sample_rate)).to(device)


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


EXTRAS = ("cudnn-benchmark", "channels-last", "frames-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    conf = Path(__file__).resolve().parents[1] / "egs" / "voxceleb" / "conf"
    parser.add_argument("--config", type=Path, default=conf / "sdpn_small.yaml")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--micro-batch-size", type=int)
    parser.add_argument("--steps", type=int, default=7, help="timed steps per variant")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--extras", nargs="*", choices=EXTRAS, help="options to time (default: on GPUs all, else none)")
    parser.add_argument("--cuts", type=Path, help="also train for 40 steps on these cuts")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    extras = arguments.extras if arguments.extras is not None else EXTRAS if device.type == "cuda" else ()
    micro = [f"train.micro_batch_size={arguments.micro_batch_size}"] if arguments.micro_batch_size else []
    config = load_config(arguments.config, [*arguments.overrides, *micro])
    torch.manual_seed(0)
    model = SDPN(config).train()
    batch, views = synthetic(config, device)
    size = config.train.batch_size
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}; batch {size}, C = {config.model.channels}")

    def stepper(precision, form=copy.deepcopy, compiled=False, config=config, batch=batch):
        new = Stepper(config, form(model).to(device), views, batch, device=device, precision=precision)
        if compiled:
            torch.compiler.reset()  # the graphs of other variants count towards torch's limit
            new.model.student.compile(dynamic=False)
            new.model.teacher.compile(dynamic=False)
        return new

    plain = stepper("float32")
    with FlopCounterMode(display=False) as counter:
        plain()
    flops = counter.get_total_flops()
    front = seconds(plain.inputs, device, arguments.steps)

    def report(label, make, *, count_flops=True):
        """Time what ``make`` returns; print and return the time of a step."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        step = make()
        start = time.perf_counter()
        step()
        first = time.perf_counter() - start
        taken = seconds(step, device, arguments.steps)
        memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:8.1f} GB" if device.type == "cuda" else ""
        rate = f"{flops / taken / 1e12:8.2f} TFLOP/s" if count_flops else " " * 16
        print(
            f"{label:<42} {taken:8.3f} s {size / taken:8.0f} utt/s {rate} {memory} (first step {first:.0f} s)",
            flush=True,
        )
        return taken

    peer = report("peer: usual encoder, float32", lambda: stepper("float32", make_usual))
    ours = {("float32", False): report("float32", lambda: plain)}
    precisions = ["float32"]
    if resolve("auto", device) == "bfloat16":
        precisions.append("bfloat16")
        ours["bfloat16", False] = report("bfloat16", lambda: stepper("bfloat16"))
    else:
        print(f"{'bfloat16':<42} left out, as the hardware only emulates it")
    if not arguments.no_compile:
        for precision in precisions:
            ours[precision, True] = report(f"{precision}, compiled", partial(stepper, precision, compiled=True))

    precision, compiled = min(ours, key=ours.__getitem__)
    label = f"{precision}{', compiled' if compiled else ''}, "
    if "cudnn-benchmark" in extras:
        with cudnn_benchmark():
            report(label + "cudnn-benchmark", lambda: stepper(precision, compiled=compiled))
    if "channels-last" in extras:
        report(label + "channels-last", lambda: stepper(precision, make_channels_last, compiled))
    if "frames-8" in extras:
        longer = in_eights(config)
        crops, _ = synthetic(longer, device)
        report(label + "frames-8", lambda: stepper(precision, compiled=compiled, batch=crops), count_flops=False)

    fastest = min(ours.values())
    print(f"{'augmentation and fbank in each of these':<42} {front:8.3f} s")
    print(f"fastest: {peer / fastest:.2f} × the peer; augmentation and fbank {front / fastest:.0%} of it")
    if arguments.cuts is not None:
        end_to_end(config, arguments.cuts, device, steps=40)


if __name__ == "__main__":
    main()
