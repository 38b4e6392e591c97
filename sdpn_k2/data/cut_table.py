"""Random access to the cuts of manifests that are too large to hold in memory.

The first use of a manifest writes a table beside it, which later uses and all processes of a node share through the
system's file cache::

    lines        the cuts, one JSON object each
    line starts  int64: where each line starts, and where the last one ends
    shard ends   int64: 0, then the number of cuts in the manifests up to each one
    trailer      TRAILER: what the table was made of, and a summary
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import struct
import tempfile
from array import array
from pathlib import Path
from typing import IO, Any, Optional, Sequence, Tuple, Union

import numpy as np
from lhotse import CutSet, MonoCut
from lhotse.cut import Cut, MixedCut, PaddingCut

from sdpn_k2.data.manifest_files import parse_item, read_lines
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output

log = logging.getLogger(__name__)

MAGIC = b"sdpn-k2 cuts 2\n\0"
# MAGIC, checksum of the manifests, digest of the cuts, longest duration, kinds, number of cuts, number of manifests
TRAILER = struct.Struct("=16s16s8sdqqq")
# Kinds of cuts that not every training can read: a table knows which it holds.
MIXED, WITHOUT_RECORDING, WITHOUT_FEATURES = 1, 2, 4
POSITIONS = struct.Struct("=qq")
CHUNK = 1 << 20


class CutTable:
    """The cuts of a manifest, each read and parsed on access.

    The table is in a file that belongs to the content of the manifest. If it is absent, or belongs to other content,
    one process writes it and others wait. In a folder that cannot be written, each process has a temporary file.

    Attributes:
        path: the manifest.
        digest: hexadecimal digest of the cuts' ids, starts, durations and order, wherever the files are.
        longest_seconds: duration of the longest cut.
        kinds: MIXED (padded, appended or mixed cuts), WITHOUT_RECORDING and WITHOUT_FEATURES, added up as found.
    """

    def __init__(self, path: Union[str, Path]):
        """Open ``path`` (``.jsonl`` or ``.jsonl.gz``).

        Raises:
            InputError: missing, empty or broken file, or a line that is not a cut.
        """
        self.path = Path(path)
        self._open([self.path], Path(f"{path}.table"))

    def _open(self, manifests: Sequence[Path], table: Path) -> None:
        """Open the table of ``manifests``; write it first where necessary."""
        checksum = _checksum(manifests)
        self._stream = _matching(table, checksum) or _write_once(table, manifests, checksum)
        size = os.fstat(self._stream.fileno()).st_size
        _, _, digest, self.longest_seconds, self.kinds, self._count, shards = TRAILER.unpack(
            self._read(size - TRAILER.size, TRAILER.size)
        )
        self.digest = digest.hex()
        ends = size - TRAILER.size - 8 * (shards + 1)
        self._starts = ends - 8 * (self._count + 1)
        self._shard_ends = np.frombuffer(self._read(ends, 8 * (shards + 1)), np.int64)

    def __reduce__(self):
        return type(self), (self.path,)  # a process that gets a copy opens the same file

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """Return the cuts' indices in random order."""
        return rng.permutation(len(self))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> MonoCut:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = POSITIONS.unpack(self._read(self._starts + 8 * index, POSITIONS.size))
        return parse_item(self._read(start, end - start), self.path, index + 1, CutSet)

    def _read(self, start: int, size: int) -> bytes:
        # pread keeps no position, since forked processes share the open file. A mapped file would count as memory.
        return os.pread(self._stream.fileno(), size, start)


def cut_kinds(cut: Cut) -> int:
    """Return the kinds of a cut, see :attr:`CutTable.kinds`."""
    if not isinstance(cut, MixedCut):
        return (0 if cut.has_recording else WITHOUT_RECORDING) | (0 if cut.has_features else WITHOUT_FEATURES)
    parts = [track.cut for track in cut.tracks if not isinstance(track.cut, PaddingCut)]
    return MIXED | (0 if parts and all(part.has_recording for part in parts) else WITHOUT_RECORDING)


def _checksum(manifests: Sequence[Path]) -> bytes:
    """Return a checksum of the bytes of the manifests. Raises InputError."""
    checksum = hashlib.blake2b(digest_size=16)
    for manifest in manifests:
        try:
            with open(manifest, "rb") as stream:
                while chunk := stream.read(CHUNK):
                    checksum.update(chunk)
        except OSError as error:
            raise InputError(f"{manifest}: cannot read the cut manifest: {error.strerror}") from error
    return checksum.digest()


def _matching(table: Path, checksum: bytes) -> Optional[IO[bytes]]:
    """Open a table if it exists and was made of manifests with this checksum."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
        stream = opened.enter_context(open(table, "rb", buffering=0))
        start = os.fstat(stream.fileno()).st_size - TRAILER.size
        if start >= 0 and os.pread(stream.fileno(), TRAILER.size, start).startswith(MAGIC + checksum):
            opened.pop_all()
            return stream
    return None


def _write_once(table: Path, manifests: Sequence[Path], checksum: bytes) -> IO[bytes]:
    """Open a table that one of several processes writes, while the others wait for it. Raises InputError."""
    with open(manifests[0], "rb") as lock:
        with contextlib.suppress(OSError):  # some file systems have no locks; then each process writes the same table
            fcntl.flock(lock, fcntl.LOCK_EX)
        stream = _matching(table, checksum)
        if stream is not None:
            return stream
        if os.access(table.parent, os.W_OK):
            log.info("writing %s", table)
            with atomic_output(table) as output:
                _write(output, manifests, checksum)
            return open(table, "rb", buffering=0)
    log.warning("%s: cannot write here; each process writes a temporary file instead", table)
    try:
        temporary = tempfile.TemporaryFile()
        _write(temporary, manifests, checksum)
        temporary.flush()
    except OSError as error:
        raise InputError(f"{table}: cannot write, nor a file in {tempfile.gettempdir()}: {error.strerror}") from error
    return temporary


def _write(output: IO[bytes], manifests: Sequence[Path], checksum: bytes) -> None:
    """Write the table of ``manifests``. Raises InputError."""
    digest, longest, kinds = hashlib.blake2b(digest_size=8), 0.0, 0
    starts, shard_ends = array("q", [0]), array("q", [0])
    for manifest in manifests:
        for number, line in enumerate(read_lines(manifest), start=1):
            try:
                item = json.loads(line)
                if "tracks" in item:
                    cut = parse_item(line, manifest, number, CutSet)
                    tracks = [(each.cut.id, each.offset, each.cut.duration, each.snr) for each in cut.tracks]
                    span: Tuple[Any, ...] = cut.id, tracks, cut.duration
                    kinds |= cut_kinds(cut)
                else:
                    span = item["id"], item["start"], item["duration"]
                    kinds |= 0 if item.get("recording") else WITHOUT_RECORDING
                    kinds |= 0 if item.get("features") else WITHOUT_FEATURES
                digest.update(repr(span).encode())
                longest = max(longest, span[2])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                name = type(parse_item(line, manifest, number, CutSet)).__name__  # which may know better
                raise InputError(f"{manifest}:{number}: a {name} without valid id, start or duration") from error
            output.write(line)
            starts.append(starts[-1] + len(line))
        shard_ends.append(len(starts) - 1)
    count = shard_ends[-1]
    if not count:
        raise InputError(f"{manifests[0]}: the manifest has no cuts")
    output.write(starts.tobytes())
    output.write(shard_ends.tobytes())
    output.write(TRAILER.pack(MAGIC, checksum, digest.digest(), longest, kinds, count, len(manifests)))
