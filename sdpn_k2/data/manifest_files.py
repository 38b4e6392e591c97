"""Read and write lhotse manifests: sets of cuts, recordings or supervisions.

Read are ``.jsonl``, ``.json`` and ``.yaml``, each also as ``.gz``; written are ``.jsonl`` and ``.jsonl.gz``, with an
item in each line.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from pathlib import Path
from typing import IO, Any, Callable, ContextManager, Iterable, Iterator

import yaml
from lhotse import CutSet, Features, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.audio import AudioSource
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from sdpn_k2.data.lhotse_reading import check_commands, use_our_reader
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output

AUDIO = "audio"  # kind of a manifest of cuts or of recordings
# Kind of manifest → class of its items, and their name in messages.
ITEMS = {
    CutSet: (Cut, "cut"),
    RecordingSet: (Recording, "recording"),
    SupervisionSet: (SupervisionSegment, "supervision"),
    AUDIO: ((Cut, Recording), "cut or recording"),
}
JSON, YAML = (".json", ".json.gz"), (".yaml", ".yml", ".yaml.gz", ".yml.gz")
WRITTEN = (".jsonl", ".jsonl.gz")
SUFFIXES = (*WRITTEN, *JSON, *YAML)
LONGEST_LINE = 1 << 26  # bytes; recordings may hold their audio
# Classes whose fields JSON can hold as they are, or after conversion of their own fields.
PLAIN = (MonoCut, Recording, AudioSource, SupervisionSegment, Features)


use_our_reader()


def load_manifest(path: Path, kind: type = CutSet) -> Any:
    """Open a lhotse manifest lazily.

    Args:
        path: the manifest.
        kind: CutSet, RecordingSet or SupervisionSet.

    Raises:
        InputError: no such file; during iteration, a truncated file or a line that is not an item of this kind.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such manifest; run the stage that writes it first")
    return kind(_Items(path, kind))


class _Items:
    """The items of a manifest; every iteration reads the file again."""

    def __init__(self, path: Path, kind: type):
        self.path, self.kind = path, kind

    def __iter__(self) -> Iterator[Any]:
        for number, line in enumerate(read_lines(self.path), start=1):
            yield parse_item(line, self.path, number, self.kind)


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a manifest; those of JSON and YAML are made of their items, and the whole file is in memory.

    Raises:
        InputError: the manifest is missing, truncated or, for JSON and YAML, not a list of items.
    """
    number = 0
    try:
        with open(path, "rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as stream:
            by_line = iter(lambda: stream.readline(LONGEST_LINE + 1), b"")
            for line in _lines_of_items(path, stream) if path.name.endswith((*JSON, *YAML)) else by_line:
                number += 1
                if len(line) > LONGEST_LINE:  # a small packed file can unpack to any size
                    raise InputError(f"{path}:{number}: over {LONGEST_LINE >> 20} MB; not a line of a manifest")
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read the manifest beyond line {number}: {error}") from error


def _lines_of_items(path: Path, stream: Any) -> Iterator[bytes]:
    """Yield a JSON line for each item of a list in JSON or YAML. Raises InputError."""
    try:
        if path.name.endswith(JSON):
            items = json.load(stream)
        else:
            items = yaml.load(stream, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a manifest of lhotse: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(items, list):
        raise InputError(f"{path}: not a manifest of lhotse: expected a list of items, got {type(items).__name__}")
    for item in items:
        yield json.dumps(item, ensure_ascii=False).encode("utf-8") + b"\n"


def parse_item(line: bytes, path: Path, number: int, kind: Any) -> Any:
    """Parse line ``number`` of the manifest ``path``. Raises InputError."""
    expected, name = ITEMS[kind]
    try:
        fields = json.loads(line)
        check_commands(fields, f"{path}:{number}")
        item = deserialize_item(fields)
    except InputError:
        raise
    except Exception as error:  # lhotse's classes raise many kinds
        raise InputError(f"{path}:{number}: not a valid lhotse {name}: {error}") from error
    if not isinstance(item, expected):
        raise InputError(f"{path}:{number}: expected a lhotse {name}, got a {type(item).__name__}")
    return item


def write_manifest(items: Iterable, path: Path, allow_empty: bool = False) -> int:
    """Write lhotse items as ``.jsonl`` or ``.jsonl.gz``, atomically; return their number.

    Raises:
        InputError: there are no items (unless ``allow_empty``), or the file cannot be written.
    """
    count = 0
    with manifest_writer(path, allow_empty) as write:
        for item in items:
            write(item)
            count += 1
    return count


@contextlib.contextmanager
def manifest_writer(path: Path, allow_empty: bool = False) -> Iterator[Callable[[Any], None]]:
    """Open a ``.jsonl`` or ``.jsonl.gz`` manifest and yield the function that appends an item.

    The file appears at the end of the block; after an exception it does not.

    Raises:
        InputError: nothing was appended (unless ``allow_empty``), the name has another suffix, or the file cannot be
            written.
    """
    if not path.name.endswith(WRITTEN):
        raise InputError(f"{path}: manifests are written as {' or '.join(WRITTEN)}; use one of these suffixes")
    count = 0
    with atomic_output(path) as stream, _packed(stream, path) as lines:

        def write(item: Any) -> None:
            nonlocal count
            lines.write(to_line(item))
            count += 1

        yield write
        if not count and not allow_empty:
            raise InputError(f"{path}: nothing to write: there are no usable items")


def _packed(stream: IO[bytes], path: Path) -> ContextManager[Any]:
    if not path.name.endswith(".gz"):
        return contextlib.nullcontext(stream)
    # No time and no name in the gzip header: the same items give the same bytes.
    return gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0, compresslevel=5)


def to_line(item: Any) -> bytes:
    """Return the line of a lhotse item in a manifest: the JSON of ``item.to_dict()``, several times as fast."""
    return json.dumps(item, default=_to_dict, ensure_ascii=False).encode("utf-8") + b"\n"


def _to_dict(item: Any) -> dict:
    """Return the fields of an item that have values, whose own fields JSON converts in turn."""
    if type(item) not in PLAIN:
        return item.to_dict()
    fields = {name: value for name, value in vars(item).items() if value is not None}
    return {**fields, "type": "MonoCut"} if isinstance(item, MonoCut) else fields
