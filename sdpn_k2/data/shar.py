"""Write and read lhotse Shar: shards of cuts with their data, for corpora that must be read sequentially.

Shards are visited one after another, with random access inside each. So only a few files are read at a time, and the
position in an epoch is still just a number.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import tarfile
from pathlib import Path
from typing import BinaryIO, Dict, Iterable, Iterator, List, Sequence, Tuple

import numpy as np
from lhotse import MonoCut
from lhotse.serialization import deserialize_item
from lhotse.shar.utils import fill_shar_placeholder, to_shar_placeholder
from lhotse.shar.writers import ArrayTarWriter, AudioTarWriter, JsonlShardWriter
from lhotse.utils import fastcopy

from sdpn_k2.data.cut_table import MIXED, CutTable
from sdpn_k2.data.lhotse_reading import check_commands
from sdpn_k2.errors import InputError, Skipped, check_skipped
from sdpn_k2.files import atomic_folder

log = logging.getLogger(__name__)

# Number of shards whose utterances are shuffled together.
SHARDS_AT_ONCE = 4
FIELDS = ("recording", "features")


def write_shar(cuts: Path, folder: Path, shard_size: int, seed: int) -> int:
    """Write the recordings of cuts (as FLAC) and their stored features, each if all cuts have one, as shards.

    The order is random, because neighbours in a corpus share a speaker and would fill a batch. Utterances that cannot
    be read are skipped. The folder appears when it is complete.

    Args:
        cuts: manifest of the cuts.
        folder: new folder for the shards.
        shard_size: number of cuts per shard.
        seed: random seed for shuffling.

    Returns:
        The number of cuts that were written.

    Raises:
        InputError: the folder already exists, the manifest is broken or empty, its cuts have neither recordings nor
            features, too many cannot be read, or the shards cannot be written.
    """
    if folder.exists():
        raise InputError(f"{folder}: already exists; remove it, or use another name")
    table = CutTable(cuts)
    if table.kinds & MIXED:
        raise InputError(f"{cuts}: padded, appended and mixed cuts do not fit into shards; train on the manifest")
    cuts_in_order = map(table.__getitem__, range(len(table)))
    missing = {field for cut in cuts_in_order for field in FIELDS if getattr(cut, field) is None}
    fields = [field for field in FIELDS if field not in missing]
    if not fields:
        raise InputError(f"{cuts}: cuts without recording and cuts without features: there is nothing to write")
    skipped: List[Skipped] = []
    with atomic_folder(folder) as temporary:
        _write_shards(_loaded(table, fields, seed, skipped), temporary, shard_size)
        SharTable(temporary)  # writes the table
    return len(table) - len(skipped)


def _loaded(
    table: CutTable, fields: Sequence[str], seed: int, skipped: List[Skipped]
) -> Iterator[Tuple[MonoCut, Dict[str, np.ndarray]]]:
    """Yield the cuts in random order with their data by field; append those that cannot be read to ``skipped``."""
    for index in table.permutation(np.random.default_rng(seed)).tolist():
        cut = table[index]
        loaders = {"recording": cut.load_audio, "features": cut.load_features}
        try:
            data = {field: loaders[field]() for field in fields}
        except Exception as error:  # lhotse's backends raise many kinds
            skipped.append(Skipped(cut.id, " ".join(str(error).split())[:200]))
            log.warning("skipped utterance %s: %s", *skipped[-1])
            check_skipped(skipped, len(table), where=table.path)
            continue
        yield cut, data


def _write_shards(cuts: Iterable[Tuple[MonoCut, Dict[str, np.ndarray]]], folder: Path, shard_size: int) -> None:
    """Write cuts and their data as lhotse's SharWriter does, which cannot write the audio of commands."""
    start = str(folder).replace("%", "%%")
    with (
        JsonlShardWriter(f"{start}/cuts.%06d.jsonl.gz", shard_size) as manifests,
        AudioTarWriter(f"{start}/recording.%06d.tar", shard_size) as recordings,
        ArrayTarWriter(f"{start}/features.%06d.tar", shard_size) as features,
    ):
        for cut, data in cuts:
            placeholders = {field: to_shar_placeholder(getattr(cut, field), cut) for field in data}
            if "recording" in data:
                channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
                recording = placeholders["recording"]
                recording.channel_ids = recording.sources[0].channels = channels
                recordings.write(cut.id, data["recording"], cut.sampling_rate, manifest=recording)
            if "features" in data:
                features.write(cut.id, data["features"], manifest=placeholders["features"])
            manifests.write(fastcopy(cut, start=0, **placeholders))


class SharTable(CutTable):
    """The cuts of a Shar folder with their data, each read on access."""

    def __init__(self, path: Path, fields: Sequence[str] = FIELDS):
        """Read the manifests of all shards, and attach those of ``fields`` that are stored.

        Raises:
            InputError: no shards in ``path``, a tar file is missing, or a manifest is broken.
        """
        self.path = Path(path)
        manifests = sorted(self.path.glob("cuts.*.jsonl.gz"))
        if not manifests:
            raise InputError(f"{self.path}: no shards (cuts.*.jsonl.gz); write them with sdpn-k2 shar")
        numbers = [manifest.name.split(".")[1] for manifest in manifests]
        self._fields = [field for field in fields if next(self.path.glob(f"{field}.*.tar"), None)]
        self._tars = [{field: self.path / f"{field}.{number}.tar" for field in self._fields} for number in numbers]
        for tar in (tar for tars in self._tars for tar in tars.values()):
            if not tar.is_file():
                raise InputError(f"{tar}: no such file, but other shards have one")
        self._open(manifests, self.path / "cuts.table")

    def __reduce__(self):
        return type(self), (self.path, self._fields)

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """Return the cuts' indices in random order, a few shards at a time."""
        shards = rng.permutation(len(self._tars))
        groups = [shards[first : first + SHARDS_AT_ONCE] for first in range(0, len(shards), SHARDS_AT_ONCE)]
        ends = self._shard_ends
        return np.concatenate(
            [
                rng.permutation(np.concatenate([np.arange(ends[shard], ends[shard + 1]) for shard in group]))
                for group in groups
            ]
        )

    def __getitem__(self, index: int) -> MonoCut:
        cut = super().__getitem__(index)
        shard = int(np.searchsorted(self._shard_ends, index, side="right")) - 1
        for field in self._fields:
            setattr(cut, field, _member(self._tars[shard][field], index - int(self._shard_ends[shard])))
        return cut


def _member(tar: Path, position: int):
    """Read the recording or features number ``position`` of a tar file, with its data in memory."""
    stream, members = _open_tar(tar)
    if 2 * position + 1 >= len(members):
        raise InputError(f"{tar}: cut short: it holds only {len(members) // 2} utterances")
    data, manifest = (_read(stream, *members[2 * position + part]) for part in (0, 1))
    try:
        fields = json.loads(manifest)
        check_commands(fields, str(tar))
        item = deserialize_item(fields)
        fill_shar_placeholder(item, data, Path(members[2 * position][0]))
    except InputError:
        raise
    except Exception as error:  # lhotse raises many kinds for a damaged manifest
        raise InputError(f"{tar}: a broken manifest of {members[2 * position][0]!a}: {error}") from error
    return item


@functools.lru_cache(maxsize=2 * SHARDS_AT_ONCE)
def _open_tar(path: Path) -> Tuple[BinaryIO, List[Tuple[str, int, int]]]:
    """Open a tar file; return it with (name, offset, size) of each member."""
    members: List[Tuple[str, int, int]] = []
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                members.append((member.name, member.offset_data, member.size))
    except (tarfile.TarError, EOFError):
        pass  # _member reports what is missing
    except OSError as error:
        raise InputError(f"{path}: cannot read the shard: {error.strerror or error}") from error
    return open(path, "rb"), members


def _read(stream: BinaryIO, name: str, offset: int, size: int) -> bytes:
    # pread keeps no position, since forked processes share the open file.
    data = os.pread(stream.fileno(), size, offset)
    if len(data) < size:
        raise InputError(f"{stream.name}: cut short in {name}")
    return data
