"""Load the noise, speech, music and impulse responses of a data folder into banks on the device."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Set

import numpy as np
import torch
from lhotse import CutSet, RecordingSet
from torch import nn

from sdpn_k2.config import Config
from sdpn_k2.data.background import Task
from sdpn_k2.data.manifest_files import load_manifest
from sdpn_k2.errors import InputError, Skipped, check_skipped
from sdpn_k2.pcm import to_int16
from sdpn_k2.signal.augment import Augment, NoiseBank, RirBank
from sdpn_k2.signal.fbank import Fbank

log = logging.getLogger(__name__)

NOISE_KINDS = ("noise", "speech", "music")


class Banks:
    """The audio of ``recordings_{noise,speech,music,rir}.jsonl.gz`` in a folder; each manifest is optional.

    Each has an equal share of ``augment.bank_gb``. Noise larger than its share rotates: the device holds a random part
    for ``augment.rotate_steps`` steps, while the next part is read in the background. Both fit the share. The parts
    depend on the seed.

    With ``input: fbank``, noise is converted to fbank on reading, or read as such from
    ``cuts_{noise,speech,music}.jsonl.gz`` if there are cuts with stored features. Impulse responses are not used then.
    """

    def __init__(self, manifests: Path, config: Config, device: torch.device, step: int = 0):
        """Read the banks of ``step``.

        Raises:
            InputError: an empty manifest; more than 5 % of the recordings of one kind are unreadable, NaN or silent;
                stored fbank with another number of bins.
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
            log.info("no noise recordings: babble is mixed from other utterances of the batch")
        responses = manifests / "recordings_rir.jsonl.gz"
        has_responses = responses.is_file() and config.input == "waveform"
        self.share = int(config.augment.bank_gb * 2**30 / max(1, len(self.sources) + has_responses))  # bytes
        self.turn = self._turn(step)
        self.partial: Set[Path] = set()  # manifests too large to be on the device as a whole
        banks = self._read_noise(self.turn, self.sources)
        for kind, bank in banks.items():
            log.info("%s: %d recordings", kind, len(bank.lengths))
        rirs = self._read_rirs(responses) if has_responses else None
        self.augment = Augment(config.augment, nn.ModuleDict(banks), rirs, config.features.sample_rate).to(device)
        self._next: Optional[Task[Dict[str, NoiseBank]]] = None

    def rotate(self, step: int, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Replace the banks with those of ``step`` if a new turn begins.

        Return False if ``stopping()`` became true while the next part was read; the banks are then unchanged.
        """
        if not self.partial:
            return True
        if self._next is None:
            kinds = [kind for kind, path in self.sources.items() if path in self.partial]
            self._next = Task(functools.partial(self._read_noise, self.turn + 1, kinds))
        if self._turn(step) != self.turn:
            if not self._next.wait(stopping):
                return False
            self.turn = self._turn(step)
            for kind, bank in self._next.result().items():
                self.augment.banks[kind] = bank.to(self.device, non_blocking=True)
            self._next = None
        return True

    def _turn(self, step: int) -> int:
        return step // self.config.augment.rotate_steps

    def _read_noise(self, turn: int, kinds: Iterable[str]) -> Dict[str, NoiseBank]:
        """Read the banks of ``turn`` on the host; for a GPU into pinned memory, so that copies do not delay a step."""
        banks = {kind: NoiseBank(self._read(self.sources[kind], turn)) for kind in kinds}
        if self.device.type == "cuda":
            for bank in banks.values():
                bank.recordings = bank.recordings.pin_memory()
        return banks

    def _read_rirs(self, path: Path) -> RirBank:
        augment, sample_rate = self.config.augment, self.config.features.sample_rate
        # They are float32, and padded to a common length of at most augment.rir_seconds.
        most = max(1, int(self.share / 4 / (augment.rir_seconds * sample_rate)))
        responses = self._read(path, 0, max_responses=most)
        log.info("rir: %d impulse responses", len(responses))
        return RirBank(responses, round(augment.rir_seconds * sample_rate))

    def _read(self, path: Path, turn: int, max_responses: Optional[int] = None) -> List[np.ndarray]:
        """Read recordings of a manifest in a random order that depends on ``turn``, as many as fit.

        They are noise in its stored form or, with ``max_responses``, waveforms. If all noise fits, the order is always
        that of turn 0. A recording that does not fit alone is cut.
        """
        stored = path.name.startswith("cuts")
        items = list(load_manifest(path, CutSet if stored else RecordingSet))
        load = self._load_fbank if stored else self._load_waveform
        usable: List[np.ndarray] = []
        skipped: List[Skipped] = []
        held, limit = 0, self.share
        if max_responses is None and sum(item.duration for item in items) * self._bytes_per_second() > limit:
            self.partial.add(path)
            limit //= 2  # for this part, and for the next
        else:
            turn = 0
        for index in np.random.default_rng([self.config.seed, turn]).permutation(len(items)):
            if len(usable) == max_responses or held >= limit:
                break
            try:
                values = load(items[index])
                if not values.size or not np.isfinite(values).all() or not values.any():
                    raise InputError("empty, NaN or silent")
            except Exception as error:  # lhotse's backends raise many kinds
                skipped.append(Skipped(items[index].id, " ".join(str(error).split())[:200]))
                continue
            if max_responses is None:
                values = values if stored else self._stored_form(values)
                if usable and held + values.nbytes > limit:
                    break
                values = values[: max(1, limit // values[0].nbytes)]
                held += values.nbytes
            usable.append(values)
        check_skipped(skipped, len(items), where=path, what="recordings")
        if skipped:
            log.warning("%s: skipped %d of %d recordings; the first: %s", path, len(skipped), len(items), skipped[0])
        if not usable:
            raise InputError(f"{path}: the manifest has no recordings; remove it to train without them")
        if len(usable) + len(skipped) < len(items):
            log.info("%s: %d of %d recordings fit augment.bank_gb", path, len(usable), len(items))
        return usable

    def _bytes_per_second(self) -> float:
        """Return the size of a second of noise on the device."""
        features = self.config.features
        if self.config.input == "waveform":
            return 2 * features.sample_rate  # int16
        return 4 * features.num_mel_bins * 1000 / features.frame_shift_ms  # float32

    def _load_waveform(self, recording: Any) -> np.ndarray:
        """Read the first channel, float32 in ±1."""
        resampled = recording.resample(self.config.features.sample_rate)
        return resampled.load_audio(channels=recording.channel_ids[0])[0]

    def _load_fbank(self, cut: Any) -> np.ndarray:
        if cut.num_features != self.config.features.num_mel_bins:
            raise InputError(
                f"stored features have {cut.num_features} bins, expected {self.config.features.num_mel_bins}"
            )
        return cut.load_features()

    def _stored_form(self, samples: np.ndarray) -> np.ndarray:
        """Convert a waveform to the form stored on the device: int16, or fbank (repeated to at least one frame)."""
        if self.config.input == "waveform":
            return to_int16(samples)
        fbank = Fbank(self.config.features)
        return fbank(torch.from_numpy(np.resize(samples, max(len(samples), fbank.length)))[None])[0].numpy()
