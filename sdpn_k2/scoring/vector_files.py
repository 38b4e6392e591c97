"""Named vectors in files: Kaldi archives, JSON and NumPy, by the name of the file."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Callable, Dict, Iterator, Mapping, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.formats.tables import TableWriter, is_table
from sdpn_k2.scoring.embeddings import read_embeddings

Vectors = Mapping[str, np.ndarray]
KINDS = ".npy, .json, .ark, .scp, or a Kaldi wspecifier such as ark,scp:x.ark,x.scp"


def read_vectors(source: Union[str, Path]) -> Dict[str, np.ndarray]:
    """Read named vectors, float32 ``(dim,)`` each.

    Args:
        source: a ``.ark``, ``.scp`` or ``.json`` file, a Kaldi rspecifier, or a folder of ``sdpn-k2 extract``.

    Raises:
        InputError: an unreadable or empty file, vectors of several dimensions, or a duplicate name.
    """
    name = str(source)
    if name.endswith(".npy"):
        raise InputError(f"{name}: rows of a .npy file have no names; read it with numpy.load")
    if name.endswith(".json") and not is_table(name):
        return _read_json(Path(name))
    if not is_table(name) and Path(name).is_dir():
        name = str(Path(name) / "xvector.scp")
    embeddings = read_embeddings(name)
    return dict(zip(embeddings.ids, embeddings.vectors))


def write_vectors(output: Union[str, Path], vectors: Vectors) -> None:
    """Write named vectors.

    Args:
        output: ``x.npy`` (float32 ``(vectors, dim)``, without names), ``x.json`` or ``-`` (an object of lists, in a
            file or on standard output), ``x.ark``, ``x.scp`` (with ``x.ark`` beside it) or a Kaldi wspecifier.
        vectors: vectors of one dimension by name.

    Raises:
        InputError: the output is of another kind or cannot be written; a name with white space for a Kaldi archive.
    """
    with open_vectors(output) as write:
        write(vectors)


def table_specifier(output: str) -> str:
    """Return the wspecifier that ``x.ark``, ``x.scp`` or a wspecifier stands for; empty for other kinds of file."""
    if is_table(output):
        return output
    if output.endswith(".ark"):
        return f"ark:{output}"
    return f"ark,scp:{output[:-4]}.ark,{output}" if output.endswith(".scp") else ""


@contextlib.contextmanager
def open_vectors(output: Union[str, Path]) -> Iterator[Callable[[Vectors], None]]:
    """Open the output of ``write_vectors``, and yield the function that writes the vectors into it.

    What cannot be written thus fails before the vectors are computed, which may take hours.
    """
    output = str(output)
    specifier = table_specifier(output)
    if specifier:
        with TableWriter(specifier, "vector") as table:

            def write(vectors: Vectors) -> None:
                for name, vector in vectors.items():
                    table.write(name, vector)

            yield write
    elif output.endswith(".npy"):
        with atomic_output(output) as stream:
            yield lambda vectors: np.save(stream, np.stack(list(vectors.values())).astype(np.float32))
    elif output == "-":
        yield lambda vectors: print(_to_json(vectors))
        sys.stdout.flush()
    elif output.endswith(".json"):
        with atomic_output(output, "w") as stream:
            yield lambda vectors: print(_to_json(vectors), file=stream)
    else:
        raise InputError(f"{output}: use {KINDS}")


def _to_json(vectors: Vectors) -> str:
    # str() of a float32 is the shortest decimal that gives the same float32.
    lines = (
        f"{json.dumps(name)}: [{', '.join(map(str, map(float, map(str, np.asarray(vector, np.float32)))))}]"
        for name, vector in vectors.items()
    )
    return "{" + ",\n ".join(lines) + "}"


def _read_json(path: Path) -> Dict[str, np.ndarray]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        vectors = {name: np.array(vector, np.float32) for name, vector in stored.items()}
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON object of lists of numbers") from error
    if len({vector.shape for vector in vectors.values()}) != 1 or next(iter(vectors.values())).ndim != 1:
        raise InputError(f"{path}: expected vectors of one dimension, at least one")
    return vectors
