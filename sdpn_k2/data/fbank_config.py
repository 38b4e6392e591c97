"""Check that training and extraction agree with the features that compute-fbank-feats stores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from sdpn_k2.config import FeaturesConfig
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.fbank_mfcc import FbankOptions
from sdpn_k2.kaldi.tools.command_line import STANDARD_OPTIONS, parse
from sdpn_k2.kaldi.tools.fbank_mfcc import compute_fbank_feats

# Options of compute-fbank-feats → their keys in the configuration. Others have Kaldi's defaults, but without dither.
KEYS = {
    "sample_frequency": "sample_rate",
    "frame_length": "frame_length_ms",
    "frame_shift": "frame_shift_ms",
    "num_mel_bins": "num_mel_bins",
    "low_freq": "low_freq",
    "high_freq": "high_freq",
}


def check_fbank_config(path: Path, features: FeaturesConfig) -> None:
    """Compare an option file of compute-fbank-feats with the features of a configuration.

    Models with another front end never use stored features, so there is nothing to compare.

    Raises:
        InputError: an option differs, the file cannot be read, or a line is not a valid option.
    """
    if features.kind != "fbank":
        return
    stored = _read(path)
    computed = FbankOptions(dither=0.0, **{option: getattr(features, key) for option, key in KEYS.items()})
    for option, value in dataclasses.asdict(computed).items():
        if getattr(stored, option) != value:
            name, key = option.replace("_", "-"), KEYS.get(option)
            raise InputError(
                f"{path}: stored features have --{name}={_kaldi(getattr(stored, option))}, but training would use "
                f"--{name}={_kaldi(value)}: change " + (f"features.{key} or the option" if key else "the option")
            )


def check_sample_rate(data_dir: Path, features: FeaturesConfig) -> None:
    """Check that the features of a data directory have the sample rate of a configuration.

    steps/make_fbank.sh leaves its options in ``conf/fbank.conf``, in a split directory that of the whole. Without that
    file, nothing is known about the features.

    Raises:
        InputError: another sample rate.
    """
    folders = [data_dir, data_dir.parent.parent] if data_dir.parent.name.startswith("split") else [data_dir]
    for path in (folder / "conf" / "fbank.conf" for folder in folders):
        if path.is_file() and _read(path).sample_frequency != features.sample_rate:
            raise InputError(
                f"{data_dir / 'feats.scp'}: features at {_read(path).sample_frequency:g} Hz, according to {path}, but "
                f"the model expects {features.sample_rate} Hz: compute them again, or remove feats.scp"
            )


def _read(path: Path) -> Any:
    """Return the options that a file of options of compute-fbank-feats sets, or their defaults. Raises InputError."""
    return parse(compute_fbank_feats.options + STANDARD_OPTIONS, [f"--config={path}"])[0]


def _kaldi(value: object) -> str:
    """Format a value as Kaldi does."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
