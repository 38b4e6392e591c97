#!/usr/bin/env python
"""Measure augmentation and fbank of one batch, against one crop at a time on the CPU.

    python benchmarks/augment.py [--config FILE] [--device cuda]

The peer works crop by crop, as data loaders commonly do: SciPy's fftconvolve with a random impulse response, noise at a
random SNR, then kaldi-native-fbank. It computes the same number of reverberations and mixtures.
"""

import argparse
import time

import numpy as np
import torch
from scipy.signal import fftconvolve
from train_step import seconds, synthetic

from sdpn_k2.config import load_config
from sdpn_k2.pcm import INT16_SCALE


def main() -> None:
    """Measure our augmentation, step by step, and the peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="egs/voxceleb/conf/sdpn_small.yaml")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device, config = torch.device(arguments.device), load_config(arguments.config)
    batch, views = synthetic(config, device)
    num_local, size, _ = batch.local_crops.shape
    count = [0]

    def draw():
        count[0] += 1
        return views.augment.draw(num_local, size, np.random.default_rng(count[0]))

    crops = batch.local_crops.flatten(0, 1).float() / INT16_SCALE
    print(f"{device}, {torch.get_num_threads()} threads: {num_local * size} local crops, {size} global crops")
    rows = {
        "draw (on the host)": draw,
        "augmentation of the local crops": lambda: views.augment(crops, draw()),
        "fbank of the local crops": lambda: views.fbank(crops),
        "all, with global crops, norm and masks": lambda: views(batch, np.random.default_rng(draw() and count[0])),
    }
    for name, function in rows.items():
        total = seconds(function, device, 7)
        print(f"{name:<42} {1000 * total:9.1f} ms", flush=True)

    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    options.frame_opts.dither, options.mel_opts.num_bins = 0, config.features.num_mel_bins
    plan, samples = draw(), crops.cpu().numpy()
    whole = batch.global_crops.cpu().numpy() / np.float32(INT16_SCALE)
    taps = views.augment.rirs.taps.cpu().numpy()
    noise = np.random.default_rng(0).normal(size=samples.shape[1]).astype(np.float32)

    def fbank(waveform):
        extractor = knf.OnlineFbank(options)
        extractor.accept_waveform(config.features.sample_rate, waveform * np.float32(INT16_SCALE))
        return np.stack([extractor.get_frame(i) for i in range(extractor.num_frames_ready)])

    start = time.perf_counter()
    output = samples.copy()
    for row, index in zip(plan.reverb_rows, plan.reverb_index):
        output[row] = fftconvolve(output[row], taps[index])[: output.shape[1]]
    for _, mixture in plan.mixtures:
        for row, snr in zip(mixture.rows, mixture.snr):
            gain = np.sqrt(np.mean(output[row] ** 2) / np.mean(noise**2) / 10 ** (snr / 10))
            output[row] += np.float32(gain) * noise
    for waveform in (*output, *whole):
        fbank(waveform)
    peer = time.perf_counter() - start
    print(f"{'peer: crop by crop, 1 CPU core':<42} {1000 * peer:9.1f} ms   ours needs {total / peer:.2f} of it")


if __name__ == "__main__":
    main()
