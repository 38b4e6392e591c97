"""Noise, speech, music and impulse responses of a data folder, in banks on the device."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Set

import numpy as np
import torch
from lhotse import CutSet, RecordingSet
from torch import nn

from sdpn_k2.config import Config
from sdpn_k2.data.cuts import load_manifest
from sdpn_k2.errors import InputError
from sdpn_k2.signal.augment import Augment, NoiseBank, RirBank
from sdpn_k2.signal.fbank import Fbank

log = logging.getLogger(__name__)

NOISE_KINDS = ("noise", "speech", "music")
MAX_BAD_SHARE = 0.05


class Banks:
    """What ``recordings_{noise,speech,music,rir}.jsonl.gz`` in a folder hold; each may be absent.

    A collection larger than its share of ``augment.bank_gb`` takes turns: for each ``augment.rotate_steps`` steps a part
    of it, drawn by the seed, is on the device, and the next part is read in the background.

    With ``input: fbank``, noise becomes fbank when it is read (or is read as such from
    ``cuts_{noise,speech,music}.jsonl.gz``, where there are cuts with stored features), and impulse responses are not used.
    """

    def __init__(self, manifests: Path, config: Config, device: torch.device, step: int = 0):
        """Read what ``step`` needs.

        Raises:
            InputError: an empty manifest, or more than 5 % of the recordings of one kind are unreadable, NaN or silent,
                or stored fbank of another number of bins.
        """
        self.config, self.device = config, device
        self.sources: Dict[str, Path] = {}
        for kind in NOISE_KINDS:
            stored, recorded = manifests / f"cuts_{kind}.jsonl.gz", manifests / f"recordings_{kind}.jsonl.gz"
            if config.input == "fbank" and stored.is_file():
                self.sources[kind] = stored
            elif recorded.is_file():
                self.sources[kind] = recorded
        if not self.sources:
            log.info("no noise recordings: babble is made from the batch's other utterances")
        # Seconds of each kind that fit. An fbank frame of 80 floats has as many bytes as its 160 samples as int16.
        sample_bytes = 2 * config.features.sample_rate
        self.max_seconds = config.augment.bank_gb * 2**30 / sample_bytes / max(1, len(self.sources))
        self.turn = self._turn(step)
        self.partial: Set[Path] = set()  # manifests of which only a part is on the device
        banks = nn.ModuleDict(self._read_noise(self.turn, self.sources))
        for kind, bank in banks.items():
            log.info("%s: %d recordings", kind, len(bank.lengths))
        rirs = self._read_rirs(manifests / "recordings_rir.jsonl.gz")
        self.augment = Augment(config.augment, banks, rirs).to(device)
        self._reader = ThreadPoolExecutor(1)
        self._next: Optional[Future] = None

    def rotate(self, step: int) -> None:
        """Make the banks those of ``step``."""
        if not self.partial:
            return
        if self._next is None:
            kinds = [kind for kind, path in self.sources.items() if path in self.partial]
            self._next = self._reader.submit(self._read_noise, self.turn + 1, kinds)
        if self._turn(step) != self.turn:
            self.turn = self._turn(step)
            for kind, bank in self._next.result().items():
                self.augment.banks[kind] = bank.to(self.device, non_blocking=True)
            self._next = None

    def _turn(self, step: int) -> int:
        return step // self.config.augment.rotate_steps

    def _read_noise(self, turn: int, kinds: Iterable[str]) -> Dict[str, NoiseBank]:
        """The banks of ``turn`` on the host, for GPUs in pinned memory, from which a copy does not hold up the step."""
        banks = {kind: NoiseBank(self._read(self.sources[kind], turn, self.max_seconds)) for kind in kinds}
        if self.device.type == "cuda":
            for bank in banks.values():
                bank.recordings = bank.recordings.pin_memory()
        return banks

    def _read_rirs(self, path: Path) -> Optional[RirBank]:
        if not path.is_file() or self.config.input == "fbank":
            return None
        augment, sample_rate = self.config.augment, self.config.features.sample_rate
        # float32, and each takes as long as the longest.
        most = int(augment.bank_gb * 2**30 / 4 / (augment.rir_seconds * sample_rate))
        responses = self._read(path, 0, max_count=max(1, most), as_waveform=True)
        log.info("rir: %d impulse responses", len(responses))
        return RirBank(responses, round(augment.rir_seconds * sample_rate))

    def _read(
        self,
        path: Path,
        turn: int,
        max_seconds: float = float("inf"),
        max_count: int = 1 << 40,
        as_waveform: bool = False,
    ) -> List[np.ndarray]:
        """What of a manifest is read in ``turn``: in random order, as much as fits; what fits whole, as in turn 0."""
        stored = path.name.startswith("cuts")
        items = list(load_manifest(path, CutSet if stored else RecordingSet))
        load = self._load_fbank if stored else self._load_waveform
        usable, failed, seconds = [], [], 0.0
        if sum(item.duration for item in items) > max_seconds:
            self.partial.add(path)
        else:
            turn = 0
        for position, index in enumerate(np.random.default_rng([self.config.seed, turn]).permutation(len(items))):
            if seconds >= max_seconds or len(usable) >= max_count:
                log.info("%s: %d of %d recordings fit augment.bank_gb", path, position, len(items))
                break
            try:
                values = load(items[index])
                if not values.size or not np.isfinite(values).all() or not values.any():
                    raise InputError("empty, NaN or silent")
            except Exception as error:  # lhotse's backends raise many kinds
                failed.append(f"{items[index].id}: {' '.join(str(error).split())[:200]}")
                continue
            usable.append(values if stored or as_waveform else self._stored_form(values))
            seconds += items[index].duration
        if failed:
            log.warning("%s: %d of %d recordings skipped; the first: %s", path, len(failed), len(items), failed[0])
        if len(failed) > MAX_BAD_SHARE * len(items):
            raise InputError(f"{path}: {len(failed)} of {len(items)} recordings are unusable; the first: {failed[0]}")
        if not usable:
            raise InputError(f"{path}: no recordings in it; remove the file to train without them")
        return usable

    def _load_waveform(self, recording) -> np.ndarray:
        """First channel, float32 in ±1."""
        resampled = recording.resample(self.config.features.sample_rate)
        return resampled.load_audio(channels=recording.channel_ids[0])[0]

    def _load_fbank(self, cut) -> np.ndarray:
        if cut.num_features != self.config.features.num_mel_bins:
            raise InputError(f"stored features of {cut.num_features} bins, not {self.config.features.num_mel_bins}")
        return cut.load_features()

    def _stored_form(self, samples: np.ndarray) -> np.ndarray:
        """A waveform as the device keeps it: int16, or fbank (of at least one frame: what is shorter is repeated)."""
        if self.config.input == "waveform":
            return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
        fbank = Fbank(self.config.features)
        return fbank(torch.from_numpy(np.resize(samples, max(len(samples), fbank.length)))[None])[0].numpy()
