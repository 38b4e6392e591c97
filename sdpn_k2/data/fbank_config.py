"""Whether stored features (by compute-fbank-feats and its options) are those that training computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sdpn_k2.config import FeaturesConfig
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.fbank_mfcc import FbankOptions
from sdpn_k2.kaldi.tools.command_line import STANDARD_OPTIONS, parse
from sdpn_k2.kaldi.tools.fbank_mfcc import compute_fbank_feats

# Options of compute-fbank-feats → their names in the configuration; the others are at Kaldi's defaults, without dither.
KEYS = {
    "sample_frequency": "sample_rate",
    "frame_length": "frame_length_ms",
    "frame_shift": "frame_shift_ms",
    "num_mel_bins": "num_mel_bins",
    "low_freq": "low_freq",
    "high_freq": "high_freq",
}


def check_fbank_config(path: Path, features: FeaturesConfig) -> None:
    """Compare a file of options of compute-fbank-feats with the features of a configuration.

    Models that do not work on Kaldi's fbank never see stored features, so that nothing is compared.

    Raises:
        InputError: an option differs, the file cannot be read, or a line of it is no option.
    """
    if features.kind != "fbank":
        return
    stored, _ = parse(compute_fbank_feats.options + STANDARD_OPTIONS, [f"--config={path}"])
    computed = FbankOptions(dither=0.0, **{option: getattr(features, key) for option, key in KEYS.items()})
    for option, value in dataclasses.asdict(computed).items():
        if getattr(stored, option) != value:
            name, key = option.replace("_", "-"), KEYS.get(option)
            raise InputError(
                f"{path}: stored features would have --{name}={_kaldi(getattr(stored, option))}, but training computes "
                f"its own with --{name}={_kaldi(value)}" + (f" (features.{key}): make them agree" if key else "")
            )


def _kaldi(value) -> str:
    """A value as Kaldi writes it."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
