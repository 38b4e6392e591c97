"""The files of a gallery: Kaldi's tables of enrolled voices, which grow without ever losing one.

    gallery.json                    the model that the embeddings come from
    xvector.ark, xvector.scp        an embedding per recording, under the key NAME-00001
    spk2utt                         the recordings of each voice
    spk_xvector.ark, .scp           the mean embedding of each voice, as ivector-mean computes it
    num_utts.ark                    how many recordings each mean is of

Our commands read ``gallery.json`` and ``xvector.ark`` only; all others follow from these, for Kaldi's tools. Entries
stay where they are while voices are added, so a script file fits the archive before and after.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.files import locked, make_folder, write_together
from sdpn_k2.kaldi.formats.matrix import vector_header
from sdpn_k2.kaldi.formats.tables import load_vectors
from sdpn_k2.kaldi.formats.words import is_key
from sdpn_k2.scoring.embeddings import Embeddings

FORMAT = "sdpn_k2 gallery"
VERSION = 1
UNKNOWN = "unknown"  # the answer for a voice that is not enrolled, so not a name
SAME_RECORDING = 1e-4  # relative distance of two embeddings of one recording, on other devices or in other batches
MODEL_FILE, UTTERANCES = "gallery.json", "xvector.ark"
FILES = (MODEL_FILE, UTTERANCES, "spk_xvector.ark", "xvector.scp", "spk_xvector.scp", "spk2utt", "num_utts.ark")


Stamp = Tuple[int, ...]


class GalleryModel(NamedTuple):
    """The model of a gallery: the digest of its weights, the dimension of its embeddings, and its checkpoint."""

    digest: str
    dim: int
    checkpoint: str

    def __str__(self) -> str:
        return f"{self.digest[:12]}" + (f" ({self.checkpoint})" if self.checkpoint else "")


@dataclass(frozen=True, eq=False)
class Voices:
    """The embeddings of a gallery in memory, in the order of enrolment.

    Attributes:
        keys: one per recording, such as ``alice-00001``.
        vectors: float32 ``(recordings, dim)``.
        rows: the rows of each voice, by name.
    """

    keys: List[str]
    vectors: np.ndarray
    rows: Dict[str, List[int]]

    @classmethod
    def empty(cls, dim: int) -> Voices:
        """Return no voices."""
        return cls([], np.empty((0, dim), np.float32), {})

    @classmethod
    def of(cls, keys: List[str], vectors: np.ndarray) -> Voices:
        """Group the embeddings by voice."""
        rows: Dict[str, List[int]] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key.rpartition("-")[0], []).append(row)
        return cls(keys, vectors, rows)

    def embeddings(self, names: List[str]) -> Tuple[Embeddings, Dict[str, List[str]]]:
        """Return the embeddings of some voices, and the keys of each voice."""
        rows = [row for name in names for row in self.rows[name]]
        spk2utt = {name: [self.keys[row] for row in self.rows[name]] for name in names}
        return Embeddings([self.keys[row] for row in rows], self.vectors[rows], "the gallery"), spk2utt

    def with_added(self, added: Mapping[str, np.ndarray]) -> Voices:
        """Add embeddings ``(n, dim)`` by name; leave out those of recordings that the voice has already."""
        keys, new = list(self.keys), []
        for name, vectors in added.items():
            rows = self.rows.get(name, [])
            known = list(self.vectors[rows])
            number = max((int(self.keys[row].rpartition("-")[2]) for row in rows), default=0)
            for vector in vectors:
                least = SAME_RECORDING * np.linalg.norm(vector)
                if all(np.linalg.norm(vector - other) > least for other in known):
                    number += 1
                    keys.append(f"{name}-{number:05d}")
                    known.append(vector)
                    new.append(vector)
        return Voices.of(keys, np.concatenate([self.vectors, np.array(new, np.float32)]) if new else self.vectors)

    def without(self, name: str) -> Voices:
        """Remove a voice. Raises InputError if there is none of this name."""
        self._check_has(name)
        kept = np.setdiff1d(np.arange(len(self.keys)), self.rows[name])
        return Voices.of([self.keys[row] for row in kept], self.vectors[kept])

    def with_renamed(self, name: str, new_name: str) -> Voices:
        """Rename a voice. Raises InputError if there is none of this name, or one of the new name."""
        self._check_has(name)
        if new_name in self.rows:
            raise InputError(f"the gallery has a voice {new_name} already")
        keys = list(self.keys)
        for row in self.rows[name]:
            keys[row] = f"{new_name}-{keys[row].rpartition('-')[2]}"
        return Voices.of(keys, self.vectors)

    @property
    def num_utts(self) -> Dict[str, int]:
        """The number of recordings of each voice."""
        return {name: len(rows) for name, rows in self.rows.items()}

    def _check_has(self, name: str) -> None:
        if name not in self.rows:
            raise InputError(f"the gallery has no voice {name}")


def check_name(name: str) -> None:
    """Raise InputError for a name that no voice can have."""
    if not is_key(name) or name == UNKNOWN:
        reason = "it is the answer for other voices" if name == UNKNOWN else "Kaldi's tables have keys without blanks"
        raise InputError(f"{name!r} cannot be the name of a voice: {reason}")


def is_gallery(folder: Path) -> bool:
    """Return whether the folder is a gallery."""
    return (folder / MODEL_FILE).is_file()


def read_model(folder: Path) -> GalleryModel:
    """Read which model the embeddings of a gallery come from.

    Raises:
        InputError: the folder is not a gallery, or one of a later version.
    """
    path = folder / MODEL_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError("another format")
        version = content["version"]
        model = GalleryModel(str(content["model"]), int(content["dim"]), str(content["checkpoint"]))
    except OSError as error:
        raise InputError(f"{folder}: not a gallery ({MODEL_FILE}: {error.strerror or error})") from error
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: not the {MODEL_FILE} of a gallery") from error
    if version != VERSION:
        raise InputError(f"{path}: gallery version {version}; this release reads version {VERSION}")
    return model


def check_model(folder: Path, model: GalleryModel) -> None:
    """Raise InputError, with both digests, if the gallery has embeddings of another model."""
    own = read_model(folder)
    if own.digest != model.digest:
        raise InputError(
            f"{folder}: this gallery was enrolled with the model {own}, but this is the model {model}; "
            "use that one, or enrol into another gallery"
        )


def stamp(folder: Path) -> Stamp:
    """Return numbers that change whenever the voices do."""
    try:
        status = (folder / UTTERANCES).stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


def read_voices(folder: Path) -> Voices:
    """Read all voices of a gallery.

    Raises:
        InputError: the folder is not a gallery, or its archive is missing or broken.
    """
    model = read_model(folder)
    archive = folder / UTTERANCES
    if not archive.is_file():
        if (folder / "spk_xvector.ark").exists():
            raise InputError(f"{archive}: no such file, but the gallery has voices; restore it from a copy")
        return Voices.empty(model.dim)
    if not archive.stat().st_size:
        return Voices.empty(model.dim)
    keys, vectors = load_vectors(f"ark:{archive}")
    for key in keys:
        name, _, number = key.rpartition("-")
        if not name or not number.isdecimal():
            raise InputError(f"{archive}: the key {key} is not a voice and a number, such as alice-00001")
    if len(set(keys)) < len(keys) or vectors.shape[1] != model.dim:
        what = "duplicate keys" if len(set(keys)) < len(keys) else f"vectors of {vectors.shape[1]} dimensions"
        raise InputError(f"{archive}: {what}, in a gallery of {model.dim} dimensions")
    return Voices.of(keys, vectors)


def update(
    folder: Path, change: Callable[[Voices], Voices], model: Optional[GalleryModel] = None
) -> Tuple[Stamp, Voices]:
    """Replace the voices by ``change`` of them, one process at a time; return the new ones and their stamp.

    Args:
        folder: the gallery. With a ``model``, it is made if the folder is empty or does not exist.
        change: the change; an error in it leaves the gallery as it is.
        model: the model of embeddings to add.

    Raises:
        InputError: not a gallery, one of another model, or one that cannot be read or written.
    """
    if model is not None:
        make_folder(folder)
        _check_usable(folder)
    elif not is_gallery(folder):
        read_model(folder)
    with locked(folder / ".lock"):
        for path in folder.glob(".*"):  # of processes that were killed
            if path.name.startswith(tuple(f".{name}." for name in FILES)):
                path.unlink(missing_ok=True)
        if model is not None and not is_gallery(folder):
            _check_usable(folder)
            before, after = None, change(Voices.empty(model.dim))
        else:
            if model is not None:
                check_model(folder, model)
            before = read_voices(folder)
            after = change(before)
            model = read_model(folder)
        moved = before is not None and after.keys[: len(before.keys)] != before.keys
        outdated = [folder / "xvector.scp", folder / "spk_xvector.scp"] if moved else []
        write_together(_contents(folder, model, after), outdated)
        return stamp(folder), after


def _check_usable(folder: Path) -> None:
    """Raise InputError if the folder has files, but is not a gallery."""
    files = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if files and not is_gallery(folder):
        raise InputError(f"{folder}: not a gallery, and not empty (it has {files[0]}); choose another folder")


def remove_voice(folder: Path, name: str) -> None:
    """Remove a voice with all its embeddings. Raises InputError if there is none of this name."""
    update(folder, lambda voices: voices.without(name))


def rename_voice(folder: Path, name: str, new_name: str) -> None:
    """Rename a voice. Raises InputError if there is none of this name, or one of the new name already."""
    check_name(new_name)
    update(folder, lambda voices: voices.with_renamed(name, new_name))


def _contents(folder: Path, model: GalleryModel, voices: Voices) -> Dict[Path, Iterable[bytes]]:
    """Return the pieces of each file, in the order of ``FILES``: archives come before what points into them."""
    described = {
        "format": FORMAT,
        "version": VERSION,
        "model": model.digest,
        "dim": model.dim,
        "checkpoint": model.checkpoint,
    }
    keys, names = [_bytes(key) for key in voices.keys], [_bytes(name) for name in voices.rows]
    members = sorted((name, [keys[row] for row in rows]) for name, rows in zip(names, voices.rows.values()))
    vectors = voices.vectors
    means = (
        vectors[rows[0]] if len(rows) == 1 else vectors[rows].mean(axis=0, dtype=np.float64)
        for rows in voices.rows.values()
    )
    pieces: Dict[str, Iterable[bytes]] = {
        MODEL_FILE: [_bytes(json.dumps(described, indent=2) + "\n")],
        UTTERANCES: _archive(keys, vectors, model.dim),
        "spk_xvector.ark": _archive(names, means, model.dim),
        "xvector.scp": _script(folder / UTTERANCES, keys, model.dim),
        "spk_xvector.scp": _script(folder / "spk_xvector.ark", names, model.dim),
        "spk2utt": (b"%s %s\n" % (name, b" ".join(utterances)) for name, utterances in members),
        "num_utts.ark": (b"%s %d \n" % (name, len(utterances)) for name, utterances in members),
    }
    return {folder / name: pieces[name] for name in FILES}


def _archive(keys: List[bytes], vectors: Iterable[np.ndarray], dim: int) -> Iterator[bytes]:
    header = b" " + vector_header(np.dtype(np.float32), dim)
    for key, vector in zip(keys, vectors):
        yield key + header + vector.astype("<f4").tobytes()


def _script(archive: Path, keys: List[bytes], dim: int) -> Iterator[bytes]:
    """Yield the lines of a script file, sorted; its paths are absolute, so that it can be read from any folder."""
    path, size = _bytes(os.path.abspath(archive)), len(vector_header(np.dtype(np.float32), dim)) + 4 * dim
    offset, offsets = 0, []
    for key in keys:
        offset += len(key) + 1
        offsets.append(offset)
        offset += size
    for key, offset in sorted(zip(keys, offsets)):
        yield b"%s %s:%d\n" % (key, path, offset)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
