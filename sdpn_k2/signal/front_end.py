"""Choose the front end of a configuration."""

from typing import Union

from sdpn_k2.config import FeaturesConfig
from sdpn_k2.signal.fbank import Fbank
from sdpn_k2.signal.melspec import MelSpectrogram

FrontEnd = Union[Fbank, MelSpectrogram]


def front_end(config: FeaturesConfig) -> FrontEnd:
    """Return the module from waveforms ``(batch, samples)`` in ±1 to features ``(batch, frames, bins)``.

    The features are not yet normalised. ``num_frames(num_samples)`` of the module returns their number of frames.
    """
    return Fbank(config) if config.kind == "fbank" else MelSpectrogram(config)
