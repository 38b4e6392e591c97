"""From batches of crops to the views that the method sees, on its device."""

from __future__ import annotations

from typing import Iterable, Iterator, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from sdpn_k2.config import Config
from sdpn_k2.data.multi_crop import MultiCropBatch
from sdpn_k2.pcm import INT16_SCALE
from sdpn_k2.signal.augment import Augment
from sdpn_k2.signal.fbank import instance_norm
from sdpn_k2.signal.front_end import front_end
from sdpn_k2.signal.silence import wrap_signal


class Views(nn.Module):
    """Augmentation, fbank without digital silence, instance norm, masks."""

    def __init__(self, config: Config, augment: Augment):
        super().__init__()
        self.fbank = front_end(config.features)
        self.augment = augment
        self.drops_silence = config.features.silence == "drop"

    def forward(self, batch: MultiCropBatch, rng: np.random.Generator) -> Tuple[Tensor, Tensor]:
        """Return the global view ``(utterances, frames, bins)`` and local views ``(views, utterances, frames, bins)``.

        Args:
            batch: crops, on this module's device.
            rng: random generator of the augmentation.
        """
        global_crops, local_crops = batch.global_crops, batch.local_crops
        views, utterances = local_crops.shape[:2]
        plan = self.augment.draw(views, utterances, rng)
        if local_crops.dtype == torch.int16:
            global_crops, local_crops = (
                self.augment.change_speed(crops.float() / INT16_SCALE, plan) for crops in (global_crops, local_crops)
            )
            global_view = self.fbank(global_crops)
            local_views = self.fbank(self.augment(local_crops.flatten(0, 1), plan))
        else:
            global_view = global_crops
            local_views = self.augment(local_crops.flatten(0, 1), plan)
        local_views = self.augment.mask(self._normalise(local_views), plan)
        return self._normalise(global_view), local_views.unflatten(0, (views, utterances))

    def _normalise(self, fbank: Tensor) -> Tensor:
        """Normalise crops ``(crops, frames, bins)``; of those with digital silence, the rest is wrapped around."""
        return instance_norm(wrap_signal(fbank) if self.drops_silence else fbank)


def on_device(batches: Iterable[MultiCropBatch], device: torch.device) -> Iterator[MultiCropBatch]:
    """Yield the batches with their crops on ``device``. On GPUs the copy runs on a stream of its own."""
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(stream):
            batch.global_crops = batch.global_crops.to(device, non_blocking=True)
            batch.local_crops = batch.local_crops.to(device, non_blocking=True)
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for crops in (batch.global_crops, batch.local_crops):
            crops.record_stream(current)
        yield batch
