"""The front end that a configuration asks for."""

from typing import Union

from sdpn_k2.config import FeaturesConfig
from sdpn_k2.signal.fbank import Fbank
from sdpn_k2.signal.melspec import MelSpectrogram

FrontEnd = Union[Fbank, MelSpectrogram]


def front_end(config: FeaturesConfig) -> FrontEnd:
    """A module from waveforms ``(batch, samples)`` in ±1 to features ``(batch, frames, bins)``, not yet normalised.

    Its ``num_frames(num_samples)`` says how many frames there will be.
    """
    return {"fbank": Fbank, "melspec": MelSpectrogram}[config.kind](config)
