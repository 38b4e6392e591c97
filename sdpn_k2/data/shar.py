"""Write and read lhotse Shar: shards of cuts with their data, for corpora that must be read sequentially.

Shards are visited one after another, with random access inside each. So only a few files are read at a time, and the
position in an epoch is still just a number.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO, Iterator, List, Sequence, Tuple

import numpy as np
from lhotse import CutSet, MonoCut
from lhotse.serialization import deserialize_item
from lhotse.shar.utils import fill_shar_placeholder

from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.errors import InputError
from sdpn_k2.files import make_folder

# Number of shards whose utterances are shuffled together.
SHARDS_AT_ONCE = 4
FIELDS = ("recording", "features")


def write_shar(cuts: CutSet, folder: Path, shard_size: int, seed: int) -> int:
    """Write the recordings (FLAC) of ``cuts``, and their stored features if all have some, as shards.

    The order is random, because neighbours in a corpus share a speaker and would fill a batch. The folder appears when
    it is complete.

    Args:
        cuts: the cuts.
        folder: new folder for the shards.
        shard_size: number of cuts per shard.
        seed: random seed for shuffling.

    Returns:
        The number of cuts.

    Raises:
        InputError: the folder already exists, there are no cuts, or something cannot be read or written.
    """
    if folder.exists():
        raise InputError(f"{folder}: already exists; remove it, or use another name")
    cuts = cuts.to_eager()
    if not len(cuts):
        raise InputError(f"{folder}: no cuts to write")
    order = np.random.default_rng(seed).permutation(len(cuts))
    items = list(cuts)
    has_features = all(cut.has_features for cut in items)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}"
    make_folder(temporary)
    try:
        fields = {"recording": "flac", **({"features": "numpy"} if has_features else {})}
        CutSet.from_cuts(items[index] for index in order).to_shar(temporary, fields=fields, shard_size=shard_size)
        temporary.rename(folder)
    except Exception as error:  # lhotse's backends raise many kinds
        raise InputError(f"{folder}: cannot write shards: {' '.join(str(error).split())[:300]}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(items)


class SharTable:
    """Random access to the cuts of a Shar folder with their data, through the interface of :class:`CutTable`."""

    def __init__(self, path: Path, fields: Sequence[str] = FIELDS):
        """Read the manifests of all shards, and attach those of ``fields`` that are stored.

        Raises:
            InputError: no shards in ``path``, or a tar file is missing.
        """
        self.path = Path(path)
        manifests = sorted(self.path.glob("cuts.*.jsonl.gz"))
        if not manifests:
            raise InputError(f"{self.path}: no shards (cuts.*.jsonl.gz); write them with sdpn-k2 shar")
        self._tables = [CutTable(manifest) for manifest in manifests]
        self._ends = np.cumsum([len(table) for table in self._tables])
        numbers = [manifest.name.split(".")[1] for manifest in manifests]
        self._fields = [field for field in fields if list(self.path.glob(f"{field}.*.tar"))]
        self._tars = [{field: self.path / f"{field}.{number}.tar" for field in self._fields} for number in numbers]
        for tar in (tar for tars in self._tars for tar in tars.values()):
            if not tar.is_file():
                raise InputError(f"{tar}: no such file, but other shards have one")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """Return the cuts' indices in random order, a few shards at a time."""
        starts = np.concatenate([[0], self._ends[:-1]])
        shards = rng.permutation(len(self._tables))
        groups = [shards[first : first + SHARDS_AT_ONCE] for first in range(0, len(shards), SHARDS_AT_ONCE)]
        return np.concatenate(
            [
                rng.permutation(np.concatenate([np.arange(starts[shard], self._ends[shard]) for shard in group]))
                for group in groups
            ]
        )

    def spans(self) -> Iterator[Tuple[str, float, float]]:
        """Yield id, start and duration (seconds) of each cut. Raises InputError."""
        for table in self._tables:
            yield from table.spans()

    def __getitem__(self, index: int) -> MonoCut:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        position = index - (int(self._ends[shard - 1]) if shard else 0)
        cut = self._tables[shard][position]
        for field in self._fields:
            setattr(cut, field, _member(self._tars[shard][field], position))
        return cut


def _member(tar: Path, position: int):
    """Read the recording or features number ``position`` of a tar file, with its data in memory."""
    stream, members = _open_tar(tar)
    if 2 * position + 1 >= len(members):
        raise InputError(f"{tar}: cut short: it holds only {len(members) // 2} utterances")
    data, manifest = (_read(stream, *members[2 * position + part]) for part in (0, 1))
    item = deserialize_item(json.loads(manifest))
    fill_shar_placeholder(item, data, Path(members[2 * position][0]))
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
