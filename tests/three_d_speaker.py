"""An independent reference for 3D-Speaker's SDPN: its computation, written out from a state dict with its names."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

INTEROP = Path(__file__).parent / "data" / "interop"


def random_branch(rng, channels, bins, scale, se, attention, embedding, hidden, projection, se_blocks=3):
    """Return a state dict in their layout with random weights and statistics."""
    state = {}

    def add(name, *shape, positive=False):
        values = rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))
        state[f"module.{name}"] = torch.tensor(np.abs(values) + 0.5 if positive else values, dtype=torch.float32)

    def conv(name, out, into, kernel):
        add(f"{name}.conv.weight", out, into, kernel)
        add(f"{name}.conv.bias", out)

    def norm(name, size):
        add(f"{name}.weight", size, positive=True)
        add(f"{name}.bias", size)
        add(f"{name}.running_mean", size)
        add(f"{name}.running_var", size, positive=True)
        state[f"module.{name}.num_batches_tracked"] = torch.tensor(7)

    def tdnn(name, out, into, kernel):
        conv(f"{name}.conv", out, into, kernel)
        norm(f"{name}.norm.norm", out)

    tdnn("backbone.blocks.0", channels, bins, 5)
    for block in (f"backbone.blocks.{index}" for index in range(1, se_blocks + 1)):
        tdnn(f"{block}.tdnn1", channels, channels, 1)
        for piece in range(scale - 1):
            tdnn(f"{block}.res2net_block.blocks.{piece}", channels // scale, channels // scale, 3)
        tdnn(f"{block}.tdnn2", channels, channels, 1)
        conv(f"{block}.se_block.conv1", se, channels, 1)
        conv(f"{block}.se_block.conv2", channels, se, 1)
    wide = 3 * channels
    tdnn("backbone.mfa", wide, wide, 1)
    tdnn("backbone.asp.tdnn", attention, 3 * wide, 1)
    conv("backbone.asp.conv", wide, attention, 1)
    norm("backbone.asp_bn.norm", 2 * wide)
    conv("backbone.fc", embedding, 2 * wide, 1)
    for index, (out, into) in zip((0, 3, 6), ((hidden, embedding), (hidden, hidden), (projection, hidden))):
        add(f"head.mlp.{index}.weight", out, into)
        add(f"head.mlp.{index}.bias", out)
    norm("head.mlp.1", hidden)
    norm("head.mlp.4", hidden)
    return state


def embed(state, mel):
    """Compute embedding and projection of mel powers ``(bins, frames)`` as the released code does."""
    state = {name[len("module.") :]: tensor for name, tensor in state.items()}

    def conv(name, x, dilation=1):
        weight = state[f"{name}.conv.weight"]
        reflection = dilation * (weight.shape[2] - 1) // 2
        x = F.pad(x, (reflection, reflection), mode="reflect")
        return F.conv1d(x, weight, state[f"{name}.conv.bias"], dilation=dilation)

    def norm(name, x):
        statistics = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *statistics)

    def tdnn(name, x, dilation=1):
        return norm(f"{name}.norm.norm", F.relu(conv(f"{name}.conv", x, dilation)))

    def statistics(x, weights):
        mean = (weights * x).sum(2, keepdim=True)
        return mean, (weights * (x - mean) ** 2).sum(2, keepdim=True).clamp(1e-12).sqrt()

    x = F.instance_norm(torch.as_tensor(mel)[None].add(1e-6).log())
    x = tdnn("backbone.blocks.0", x)
    outputs = []
    for index in (1, 2, 3):
        block, residual = f"backbone.blocks.{index}", x
        x = tdnn(f"{block}.tdnn1", x)
        pieces = len([name for name in state if name.startswith(f"{block}.res2") and name.endswith("conv.weight")])
        first, *rest = x.chunk(pieces + 1, dim=1)
        done, last = [first], 0
        for number, piece in enumerate(rest):
            last = tdnn(f"{block}.res2net_block.blocks.{number}", piece + last, dilation=index + 1)
            done.append(last)
        x = tdnn(f"{block}.tdnn2", torch.cat(done, dim=1))
        gate = F.relu(conv(f"{block}.se_block.conv1", x.mean(2, keepdim=True)))
        x = x * torch.sigmoid(conv(f"{block}.se_block.conv2", gate)) + residual
        outputs.append(x)
    x = tdnn("backbone.mfa", torch.cat(outputs, dim=1))
    mean, std = statistics(x, torch.full_like(x, 1 / x.shape[2]))
    context = torch.cat([x, mean.expand_as(x), std.expand_as(x)], dim=1)
    attention = torch.softmax(conv("backbone.asp.conv", torch.tanh(tdnn("backbone.asp.tdnn", context))), dim=2)
    pooled = norm("backbone.asp_bn.norm", torch.cat(statistics(x, attention), dim=1))
    embedding = conv("backbone.fc", pooled)[:, :, 0]

    z = embedding
    for index in (0, 3, 6):
        z = F.linear(z, state[f"head.mlp.{index}.weight"], state[f"head.mlp.{index}.bias"])
        if index < 6:
            z = F.gelu(norm(f"head.mlp.{index + 1}", z))
    return embedding[0].numpy(), F.normalize(z)[0].numpy()
