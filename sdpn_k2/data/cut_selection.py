"""Select the cuts to train on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

from lhotse.cut import Cut

from sdpn_k2.config import Config
from sdpn_k2.data.cut_table import CutTable, cut_kinds
from sdpn_k2.data.manifest_files import manifest_writer
from sdpn_k2.data.multi_crop import check_kinds
from sdpn_k2.errors import InputError


@dataclass
class CutSelection:
    """Counts of the selected and dropped cuts. Durations are in seconds, crops are per epoch."""

    utterances: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    dropped_short: int = 0
    wrapped: int = 0
    global_crops: int = 0
    local_crops: int = 0
    sample_rate: int = 0  # Hz, of the model
    upsampled: int = 0  # utterances at a lower sample rate
    downsampled: int = 0  # utterances at a higher one

    def lines(self) -> str:
        """Return the summary for people."""
        others = "".join(
            f"; {count} {what} to {self.sample_rate} Hz"
            for what, count in (("upsampled", self.upsampled), ("downsampled", self.downsampled))
            if count
        )
        return (
            f"{self.utterances} utterances, {self.seconds / 3600:.2f} hours; "
            f"{self.dropped_short} dropped as too short; {self.wrapped} shorter than a global crop, to be wrapped; "
            f"{self.global_crops} global and {self.local_crops} local crops an epoch{others}"
        )


def select_cuts(cuts: Iterable[Cut], config: Config, output: Path) -> CutSelection:
    """Write the cuts that are long enough to train on to the manifest ``output``, without speaker labels.

    Also write the table that training reads (:class:`sdpn_k2.data.cut_table.CutTable`).
    Only whole cuts are written: each epoch draws its own crops (:class:`sdpn_k2.data.multi_crop.MultiCropDataset`).

    Raises:
        InputError: a cut of a kind that cannot be trained on (``check_kinds``); no cut is long enough; a crop is longer
            than the longest utterance, so that every crop would wrap.
    """
    crops, selection = config.crops, CutSelection(sample_rate=config.features.sample_rate)
    with manifest_writer(output) as write:
        for cut in cuts:
            check_kinds(cut_kinds(cut), config, f"cut '{cut.id}'")
            if cut.duration < crops.min_seconds:
                selection.dropped_short += 1
                continue
            selection.utterances += 1
            selection.seconds += cut.duration
            selection.longest = max(selection.longest, cut.duration)
            selection.wrapped += cut.duration < crops.global_seconds
            selection.upsampled += cut.sampling_rate < selection.sample_rate
            selection.downsampled += cut.sampling_rate > selection.sample_rate
            selection.global_crops += crops.num_global
            selection.local_crops += crops.num_local
            write(cut.drop_supervisions())
        if selection.utterances:
            check_crop_lengths(config, selection.longest)
    CutTable(output)
    return selection


def check_crop_lengths(config: Config, longest: float) -> None:
    """Refuse crops that are longer than the longest training utterance.

    Cuts with features end before the window of their last frame, so a crop may be longer by one window.

    Args:
        config: the crops and the frame length.
        longest: duration of the longest utterance, in seconds.

    Raises:
        InputError: a global or local crop is longer.
    """
    window = config.features.frame_length_ms / 1000
    for name, seconds in (("global", config.crops.global_seconds), ("local", config.crops.local_seconds)):
        if seconds > longest + window:
            raise InputError(
                f"crops.{name}_seconds = {seconds:g} is longer than the longest utterance ({longest:.2f} s): "
                "use shorter crops"
            )
