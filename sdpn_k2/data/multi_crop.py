"""Multi-crop batches: one decode per utterance, random global and local crops, int16 waveforms.

Nothing here keeps state: the utterances of step ``s`` and their crops depend only on the seed and ``s``. So a run can
resume anywhere, with any number of loader processes, and get the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from lhotse.cut import Cut, MixedCut

from sdpn_k2.config import Config
from sdpn_k2.data.cut_sets import load_cut_audio
from sdpn_k2.data.cut_table import MIXED, WITHOUT_FEATURES, WITHOUT_RECORDING, CutTable
from sdpn_k2.data.shar import SharTable
from sdpn_k2.errors import InputError, Skipped
from sdpn_k2.pcm import to_int16
from sdpn_k2.signal.fbank import Fbank

# Crops of an utterance that lie within this many seconds are cut from one decoded span. Otherwise each is read alone.
MAX_SPAN_SECONDS = 60.0


class BatchKey(NamedTuple):
    """What decides a batch."""

    epoch: int
    indices: Tuple[int, ...]  # of utterances
    share: float = 1.0  # of the lengths of the crops


class StepBatches:
    """Choose the utterances of each step from ``first_step`` to ``num_steps``.

    Every epoch has its own permutation of the table. Each process gets its own part of every global batch. Utterances
    that do not fill the last batch are left out of that epoch.
    """

    def __init__(
        self,
        table: Union[CutTable, SharTable],
        batch_size: int,
        num_steps: int,
        *,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        growth: Sequence[float] = (1.0,),
    ):
        """Prepare the batches of one process.

        Args:
            table: the corpus.
            batch_size: utterances per step, of all processes together.
            num_steps: number of training steps.
            seed: random seed of the permutations.
            first_step: step to start with.
            rank: number of this process.
            world_size: number of processes.
            growth: shares of the crops' lengths, each for an equal part of the run.

        Raises:
            InputError: fewer utterances than a batch, or a batch size that is not a multiple of ``world_size``.
        """
        if len(table) < batch_size:
            raise InputError(
                f"the corpus has {len(table)} utterances, fewer than train.batch_size = {batch_size}: "
                "use a smaller batch or more data"
            )
        if batch_size % world_size:
            raise InputError(f"train.batch_size = {batch_size} is not a multiple of the {world_size} processes")
        self.table, self.batch_size, self.seed, self.growth = table, batch_size, seed, growth
        self.first_step, self.num_steps = first_step, num_steps
        self.steps_per_epoch = len(table) // batch_size
        self.share = batch_size // world_size
        self.part = slice(rank * self.share, (rank + 1) * self.share)

    def __len__(self) -> int:
        return max(0, self.num_steps - self.first_step)

    def __iter__(self) -> Iterator[BatchKey]:
        epoch, order = -1, np.empty(0, np.int64)
        for step in range(self.first_step, self.num_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self.table.permutation(np.random.default_rng([self.seed, epoch]))
            start = step % self.steps_per_epoch * self.batch_size
            indices = tuple(order[start : start + self.batch_size][self.part].tolist())
            yield BatchKey(epoch, indices, self.growth[step * len(self.growth) // self.num_steps])


@dataclass
class MultiCropBatch:
    """Crops of a batch of utterances: int16 waveforms (time = samples), or float32 fbank (time = frames, then bins).

    Attributes:
        global_crops: ``(utterances, time[, bins])``.
        local_crops: ``(views, utterances, time[, bins])``.
        ids: the utterances.
        skipped: utterances that could not be used and were replaced by others.
    """

    global_crops: torch.Tensor
    local_crops: torch.Tensor
    ids: List[str]
    skipped: List[Skipped] = field(default_factory=list)

    def pin_memory(self) -> MultiCropBatch:
        """Pin the crops, so that copies to the GPU are asynchronous; the loader calls this."""
        self.global_crops = self.global_crops.pin_memory()
        self.local_crops = self.local_crops.pin_memory()
        return self


class MultiCropDataset:
    """Map a :data:`BatchKey` to a :class:`MultiCropBatch`.

    Unusable utterances are replaced by others. If the corpus has none left, the batch is short.
    """

    def __init__(self, cuts: Union[CutTable, SharTable], config: Config):
        """Read crops of ``cuts`` with the sizes, number and kind (waveforms or fbank) of the configuration.

        Raises:
            InputError: ``cuts`` holds cuts of a kind that this input cannot read.
        """
        check_kinds(cuts.kinds, config, str(cuts.path))
        self.cuts, self.crops, self.seed = cuts, config.crops, config.seed
        self.source = (WaveformSource if config.input == "waveform" else FbankSource)(config)

    def __getitem__(self, key: BatchKey) -> MultiCropBatch:
        epoch, indices, share = BatchKey(*key)
        sizes = [self.source.size(share * seconds) for seconds in (self.crops.global_seconds, self.crops.local_seconds)]
        used = set(indices)
        global_crops = np.empty((len(indices), sizes[0], *self.source.shape), self.source.dtype)
        local_crops = np.empty((self.crops.num_local, len(indices), sizes[1], *self.source.shape), self.source.dtype)
        ids: List[str] = []
        skipped: List[Skipped] = []
        for first_choice in indices:
            index: Optional[int] = first_choice
            while index is not None:
                name = f"utterance {index + 1}"
                try:
                    cut = self.cuts[index]
                    name = cut.id
                    crops = self.read_crops(cut, sizes, np.random.default_rng([self.seed, epoch, index]))
                except Exception as error:  # lhotse's backends raise many kinds
                    skipped.append(Skipped(name, " ".join(str(error).split())[:200]))
                    index = self._substitute(index, used)
                    continue
                global_crops[len(ids)] = crops[0]
                local_crops[:, len(ids)] = crops[1:]
                ids.append(name)
                break
        count = len(ids)
        return MultiCropBatch(
            torch.from_numpy(global_crops[:count]), torch.from_numpy(local_crops[:, :count]), ids, skipped
        )

    def _substitute(self, index: int, used: set) -> Optional[int]:
        """Return the next utterance of the manifest that is not in ``used``, and add it; None if there is none."""
        for step in range(1, len(self.cuts)):
            candidate = (index + step) % len(self.cuts)
            if candidate not in used:
                used.add(candidate)
                return candidate
        return None

    def read_crops(self, cut: Cut, sizes: Sequence[int], rng: np.random.Generator) -> List[np.ndarray]:
        """Return the global crop, then the local crops of ``cut``. Crops longer than the utterance wrap around.

        Args:
            cut: the utterance.
            sizes: samples or frames of the global crop, and of each local crop.
            rng: decides where the crops lie.

        Raises:
            InputError: NaN, or nothing but silence was read. Also whatever lhotse raises if it cannot decode the cut.
        """
        total = self.source.length(cut)
        sizes = [sizes[0]] + [sizes[1]] * self.crops.num_local
        starts = [int(rng.integers(total - size + 1 if total >= size else total)) for size in sizes]
        spans = [(start, start + size) if total >= size else (0, total) for start, size in zip(starts, sizes)]
        first, last = min(start for start, _ in spans), max(end for _, end in spans)
        if last - first <= self.source.size(MAX_SPAN_SECONDS):
            whole = self.source.read(cut, first, last)
            read = [whole]
            pieces = [whole[start - first : end - first] for start, end in spans]
        else:
            read = pieces = [self.source.read(cut, start, end) for start, end in spans]
        if not any(piece.any() for piece in read):
            raise InputError("silent: every sample is zero")
        return [
            piece if len(piece) == size else np.take(piece, np.arange(start, start + size), axis=0, mode="wrap")
            for piece, start, size in zip(pieces, starts, sizes)
        ]


def check_kinds(kinds: int, config: Config, source: str) -> None:
    """Refuse kinds of cuts that cannot be trained on, before the first one is read.

    Args:
        kinds: as in :attr:`CutTable.kinds`.
        config: its ``input`` decides what is needed.
        source: the cut or the manifest, for the message.

    Raises:
        InputError: no recording for waveforms; mixed cuts, or no stored features, for fbank.
    """
    if config.input == "waveform":
        if kinds & WITHOUT_RECORDING:
            raise InputError(f"{source}: no recording to train on; for stored features, use --set input=fbank")
    elif kinds & MIXED:
        raise InputError(
            f"{source}: stored fbank of padded, appended or mixed cuts cannot be used; try --set input=waveform"
        )
    elif kinds & WITHOUT_FEATURES:
        raise InputError(f"{source}: no stored features, which input: fbank needs (run stage 1)")


class WaveformSource:
    """Read cuts as int16 samples."""

    dtype: Any = np.int16
    shape: Tuple[int, ...] = ()

    def __init__(self, config: Config):
        """Read samples at the rate of the features."""
        self.sample_rate = config.features.sample_rate

    def size(self, seconds: float) -> int:
        """Return the number of samples in a crop of ``seconds``."""
        return round(seconds * self.sample_rate)

    def length(self, cut: Cut) -> int:
        """Return the number of samples in ``cut``."""
        return round(cut.duration * self.sample_rate)

    def read(self, cut: Cut, first: int, last: int) -> np.ndarray:
        """Return samples ``first`` to ``last`` of the cut, resampled if its recording has another rate."""
        if isinstance(cut, MixedCut):
            # Mixed as a whole, since lhotse derives the gain of a track from the energy of what it loads.
            resampled = cut if cut.sampling_rate == self.sample_rate else cut.resample(self.sample_rate)
            audio = load_cut_audio(resampled)[first:last]
        else:
            audio = cut.recording.resample(self.sample_rate).load_audio(
                channels=cut.channel,
                offset=cut.start + first / self.sample_rate,
                duration=(last - first) / self.sample_rate,
            )[0]
        if not np.isfinite(audio).all():
            raise InputError("NaN or infinite samples")
        samples = to_int16(audio)
        if len(samples) != last - first:
            # Manifests round durations, and a resampled file may be a sample short.
            if last - first - len(samples) > self.sample_rate // 100:
                raise InputError(f"decoded {len(samples)} samples, expected {last - first}")
            samples = np.resize(samples, last - first)
        return samples


class FbankSource:
    """Read cuts as their stored fbank; a crop has as many frames as its waveform would give."""

    dtype: Any = np.float32

    def __init__(self, config: Config):
        """Expect stored features with the bins and frames of the configuration."""
        self.shape = (config.features.num_mel_bins,)
        self._fbank = Fbank(config.features)
        self._sample_rate = config.features.sample_rate

    def size(self, seconds: float) -> int:
        """Return the number of frames in a crop of ``seconds``."""
        return self._fbank.num_frames(round(seconds * self._sample_rate))

    def length(self, cut: Cut) -> int:
        """Return the number of frames in ``cut``.

        Raises:
            InputError: the cut has no features, or features of another dimension.
        """
        if not cut.has_features:
            raise InputError("no stored features, which input: fbank needs (run stage 1)")
        if cut.num_features != self.shape[0]:
            raise InputError(f"stored features have {cut.num_features} bins, expected {self.shape[0]}")
        return cut.num_frames

    def read(self, cut: Cut, first: int, last: int) -> np.ndarray:
        """Return frames ``first`` to ``last`` of the cut."""
        fbank = cut.load_features()[first:last]
        if not np.isfinite(fbank).all():
            raise InputError("NaN or infinite features")
        return fbank
