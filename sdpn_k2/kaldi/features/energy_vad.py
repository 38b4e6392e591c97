"""Kaldi's energy-based voice activity detection (compute-vad)."""

from __future__ import annotations

import numpy as np

from sdpn_k2.errors import InputError


def energy_vad(
    features: np.ndarray,
    energy_threshold: float = 5.0,
    energy_mean_scale: float = 0.5,
    frames_context: int = 0,
    proportion_threshold: float = 0.6,
) -> np.ndarray:
    """Decide for each frame whether it is voiced: bool (frames,).

    A frame is loud if its log energy exceeds ``energy_threshold`` + ``energy_mean_scale`` · the mean over the file. It
    is voiced if at least ``proportion_threshold`` of the frames within ``frames_context`` of it are loud.

    Args:
        features: (frames, dim) with the log energy in column 0, as MFCC with --use-energy=true, or (frames,).
        energy_threshold: constant term of the threshold.
        energy_mean_scale: weight of the mean log energy, 0 or more.
        frames_context: number of frames on each side that take part in a decision.
        proportion_threshold: minimum share of loud frames, between 0 and 1.

    Raises:
        InputError: a parameter is out of range.
    """
    if energy_mean_scale < 0:
        raise InputError(f"--vad-energy-mean-scale={energy_mean_scale:g} must not be negative")
    if frames_context < 0:
        raise InputError(f"--vad-frames-context={frames_context} must not be negative")
    if not 0 < proportion_threshold < 1:
        raise InputError(f"--vad-proportion-threshold={proportion_threshold:g} must lie between 0 and 1")
    features = np.asarray(features, np.float32)
    log_energy = features if features.ndim == 1 else features[:, 0]
    count = len(log_energy)
    if count == 0:
        return np.zeros(0, bool)
    # Float32, in Kaldi's order of operations: frames at the threshold must fall on the same side of it.
    threshold = np.float32(energy_threshold)
    if energy_mean_scale:
        total = np.float32(log_energy.sum(dtype=np.float64))
        threshold = threshold + np.float32(energy_mean_scale) * total / np.float32(count)
    loud = np.concatenate([[0], np.cumsum(log_energy > threshold)])
    first = np.maximum(np.arange(count) - frames_context, 0)
    end = np.minimum(np.arange(count) + frames_context + 1, count)
    needed = (end - first).astype(np.float32) * np.float32(proportion_threshold)
    voiced: np.ndarray = loud[end] - loud[first] >= needed
    return voiced
