"""Named vectors in files. A name means the same wherever it is given, to be written or to be read:

- ``x.ark``: a Kaldi archive
- ``x.scp``: a script file, with the archive ``x.ark`` beside it
- ``x.npy``: float32 ``(vectors, dim)``, with the names in ``x.names`` beside it, one a line
- ``x.json``, ``-``: an object of lists, in a file or on standard input or output
- ``x.jsonl``, ``x.jsonl.gz``: cuts of lhotse with the vectors as ``cut.xvector``. Here they are only read;
  ``sdpn_k2.data`` writes them
- ``ark:…``, ``scp:…``: Kaldi's specifiers, such as ``ark,scp:x.ark,x.scp``
- ``x``, ``x/``: a folder with ``xvector.ark`` and ``xvector.scp``
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import sys
import zlib
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, List, Mapping, Optional, Set, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output, make_folder
from sdpn_k2.kaldi.formats.specifiers import parse_wspecifier
from sdpn_k2.kaldi.formats.tables import TableWriter, is_table, load_vectors
from sdpn_k2.scoring.embeddings import Embeddings

Vectors = Mapping[str, np.ndarray]
Write = Callable[[Vectors], None]
KINDS = ".npy, .json, .ark, .scp, a folder, or a Kaldi wspecifier such as ark,scp:x.ark,x.scp"
XVECTOR_FIELD = "xvector"  # custom field of a cut
MANIFESTS = (".jsonl", ".jsonl.gz")


def read_vectors(source: Union[str, Path]) -> Dict[str, np.ndarray]:
    """Read named vectors, float32 ``(dim,)`` each.

    Args:
        source: a file or folder that ``write_vectors`` or ``sdpn-k2 extract`` wrote (``x.ark``, ``x.scp``, ``x.json``,
            ``x.npy`` with its ``x.names``, ``x.jsonl.gz``, a folder), ``-`` for JSON from standard input, or a Kaldi
            rspecifier.

    Raises:
        InputError: an unreadable or empty file, vectors of several dimensions, or a duplicate name.
    """
    embeddings = read_embeddings(source)
    return dict(zip(embeddings.ids, embeddings.vectors))


def read_embeddings(source: Union[str, Path]) -> Embeddings:
    """Read named vectors as one matrix; see ``read_vectors``."""
    name = str(source)
    if not is_table(name) and Path(name).is_dir():
        name = str(Path(name) / "xvector.scp")
    if is_table(name):
        ids, vectors = load_vectors(name)
    elif name == "-" or name.endswith(".json"):
        ids, vectors = _read_json(name)
    elif name.endswith(".npy"):
        ids, vectors = _read_rows(Path(name))
    elif name.endswith(MANIFESTS):
        ids, vectors = _read_cuts(Path(name))
    else:
        name = ("scp:" if name.endswith(".scp") else "ark:") + name
        ids, vectors = load_vectors(name)
    if not ids:
        raise InputError(f"{name}: no embeddings")
    if len(set(ids)) < len(ids):
        seen: Set[str] = set()
        for each in ids:
            if each in seen:
                raise InputError(f"{name}: duplicate embedding of {each}")
            seen.add(each)
    return Embeddings(ids, vectors, name)


def write_vectors(output: Union[str, Path], vectors: Vectors) -> None:
    """Write named vectors.

    Args:
        output: ``x.npy`` (float32 ``(vectors, dim)``, with the names in ``x.names``), ``x.json`` or ``-`` (an object of
            lists, in a file or on standard output), ``x.ark``, ``x.scp`` (with ``x.ark`` beside it), a folder (which
            gets ``xvector.ark`` and ``xvector.scp``) or a Kaldi wspecifier.
        vectors: vectors of one dimension by name.

    Raises:
        InputError: the output is of another kind or cannot be written; a name with white space for a Kaldi archive.
    """
    with open_vectors(output) as write:
        write(vectors)


def is_folder(output: str) -> bool:
    """Return whether an output is a folder: one that exists, or a name with ``/`` at its end or without a suffix."""
    if is_table(output) or output in ("", "-"):
        return False
    return output.endswith("/") or os.path.isdir(output) or not re.search(r"\.[A-Za-z]\w*$", os.path.basename(output))


def table_specifier(output: str) -> str:
    """Return the wspecifier that ``x.ark``, ``x.scp``, a folder or a wspecifier stands for; empty for other kinds."""
    if is_table(output):
        return output
    if is_folder(output):
        return f"ark,scp:{os.path.join(output, 'xvector.ark')},{os.path.join(output, 'xvector.scp')}"
    if output.endswith(".ark"):
        return f"ark:{output}"
    return f"ark,scp:{output[:-4]}.ark,{output}" if output.endswith(".scp") else ""


def is_stdout(output: str) -> bool:
    """Return whether vectors go to standard output."""
    return output == "-" or (is_table(output) and "-" in parse_wspecifier(output)[1:3])


@contextlib.contextmanager
def open_vectors(output: Union[str, Path]) -> Iterator[Write]:
    """Open the output of ``write_vectors``, and yield the function that writes vectors into it, as often as called.

    What cannot be written thus fails before the vectors are computed, which may take hours. The file appears at the
    end of the block; after an exception it does not. JSON and NumPy are held in memory until then.
    """
    output = str(output)
    specifier = table_specifier(output)
    if specifier:
        if is_folder(output):
            make_folder(output)
        with TableWriter(specifier, "vector") as table:

            def write(vectors: Vectors) -> None:
                for name, vector in vectors.items():
                    table.write(name, vector)

            yield write
        return
    kept: Dict[str, np.ndarray] = {}
    if output.endswith(".npy"):
        with atomic_output(Path(output).with_suffix(".names"), "w") as names, atomic_output(output) as stream:
            yield kept.update
            _write_rows(output, kept, names, stream)
    elif output == "-":
        yield kept.update
        print(_to_json(kept))
        sys.stdout.flush()
    elif output.endswith(".json"):
        with atomic_output(output, "w") as stream:
            yield kept.update
            print(_to_json(kept), file=stream)
    else:
        raise InputError(f"{output}: use {KINDS}")


def _write_rows(output: str, vectors: Vectors, names: IO[str], stream: IO[bytes]) -> None:
    if not vectors:
        raise InputError(f"{output}: there are no vectors to write")
    broken = next((name for name in vectors if len(name.splitlines()) != 1), None)
    if broken is not None:
        raise InputError(f"{output}: {broken!r} cannot be a line of a file of names; use .json")
    names.write("".join(f"{name}\n" for name in vectors))
    np.save(stream, np.stack(list(vectors.values())).astype(np.float32))


def _to_json(vectors: Vectors) -> str:
    # str() of a float32 is the shortest decimal that gives the same float32.
    lines = (
        f"{json.dumps(name)}: [{', '.join(map(str, map(float, map(str, np.asarray(vector, np.float32)))))}]"
        for name, vector in vectors.items()
    )
    return "{" + ",\n ".join(lines) + "}"


def _read_json(name: str) -> Tuple[List[str], np.ndarray]:
    try:
        stored = json.loads(sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8"))
        vectors = {key: np.array(vector, np.float32) for key, vector in stored.items()}
    except OSError as error:
        raise InputError(f"{name}: cannot read: {error.strerror or error}") from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{name}: not a JSON object of lists of numbers") from error
    return list(vectors), _stack(name, list(vectors.values()))


def _read_rows(path: Path) -> Tuple[List[str], np.ndarray]:
    beside = path.with_suffix(".names")
    if not beside.is_file():
        raise InputError(f"{path}: its rows have no names, since {beside} is missing; read it with numpy.load")
    try:
        names = beside.read_text(encoding="utf-8").splitlines()
        rows = np.load(path)
    except OSError as error:
        raise InputError(f"{error.filename or path}: cannot read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: not a NumPy file of numbers: {error}") from error
    if rows.ndim != 2 or len(rows) != len(names):
        raise InputError(f"{path}: shape {rows.shape}, but {beside} has {len(names)} names")
    return names, rows.astype(np.float32, copy=False)


def _read_cuts(path: Path) -> Tuple[List[str], np.ndarray]:
    """Read ``cut.xvector`` of cuts, without lhotse, which takes seconds to import."""
    names: List[str] = []
    vectors: List[np.ndarray] = []
    number = 0
    try:
        with open(path, "rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as lines:
            for line in lines:
                number += 1
                cut = json.loads(line)
                array = _array_of(cut)
                if array is None:
                    continue
                if array["storage_type"] != "numpy_files":
                    raise InputError(
                        f"{path}: the x-vectors are in storage of type {array['storage_type']}; "
                        "write them with sdpn-k2 lhotse export-xvectors first"
                    )
                names.append(cut["id"])
                vectors.append(np.load(Path(array["storage_path"]) / array["storage_key"]).astype(np.float32))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{getattr(error, 'filename', None) or path}: cannot read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}:{number}: not a cut of lhotse with a stored x-vector: {error}") from error
    if not names:
        raise InputError(f"{path}: no cut has an x-vector (cut.{XVECTOR_FIELD})")
    return names, _stack(str(path), vectors)


def _array_of(cut: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """Return where the x-vector of a cut is stored; that of a padded or mixed cut belongs to its first track."""
    for part in (cut, *(track["cut"] for track in cut.get("tracks", ()))):
        array = (part.get("custom") or {}).get(XVECTOR_FIELD)
        if array is not None:
            return dict(array)
    return None


def _stack(source: str, vectors: List[np.ndarray]) -> np.ndarray:
    if len({vector.shape for vector in vectors}) != 1 or vectors[0].ndim != 1:
        raise InputError(f"{source}: expected vectors of one dimension, at least one")
    return np.stack(vectors)
