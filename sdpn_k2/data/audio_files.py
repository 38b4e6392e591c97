"""Find audio files and give them ids."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import Callable, Iterator

from sdpn_k2.errors import InputError

SAMPLE_RATE = 16000  # Hz; the rate of prepared audio unless told otherwise
# fmt: off
LIBSNDFILE_SUFFIXES = {
    ".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".sph", ".nist", ".w64", ".rf64",
    ".caf", ".wv",
}
# fmt: on
FFMPEG_SUFFIXES = {".m4a", ".aac", ".mp4", ".webm", ".wma"}

log = logging.getLogger(__name__)


def find_audio(folder: str | Path) -> Iterator[Path]:
    """Yield all audio files under ``folder``, as absolute paths in a fixed order.

    Left out, and counted in the log: what :func:`walk` leaves out, and names that manifests cannot hold (not UTF-8).

    Raises:
        InputError: no such folder, or no audio in it.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    suffixes = LIBSNDFILE_SUFFIXES | FFMPEG_SUFFIXES
    found = False
    left_out: Counter[str] = Counter()
    for parent, names in walk(folder, left_out):
        for name in names:
            if os.path.splitext(name)[1].lower() not in suffixes:
                continue
            path = Path(parent, name)
            if not is_utf8(str(path)):
                left_out["files whose names are not UTF-8"] += 1
                continue
            found = True
            yield path
    for what, count in left_out.items():
        log.warning("%s: left out %d %s", folder, count, what)
    if not found:
        raise InputError(f"{folder}: no audio files found (looked for {' '.join(sorted(suffixes))})")


def walk(
    folder: str | Path, left_out: Counter[str], wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder below ``folder``, itself included, with the names of its files, in a fixed order.

    Links are followed, but not back to a folder on the way. Such links are counted in ``left_out``, and so are hidden
    files and folders: ``._x.wav`` of macOS, ``.ipynb_checkpoints``. ``wanted`` chooses folders by name.
    """
    for parent, folders, names in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(filter(wanted, folders)):
            path = os.path.join(parent, name)
            if name.startswith("."):
                left_out["hidden folders"] += 1
            elif os.path.islink(path) and _leads_back(path, str(folder)):
                left_out["links back to a folder above"] += 1
            else:
                kept.append(name)
        folders[:] = kept
        visible = [name for name in sorted(names) if not name.startswith(".")]
        if len(visible) < len(names):
            left_out["hidden files"] += len(names) - len(visible)
        yield parent, visible


def _leads_back(link: str, start: str) -> bool:
    """Return whether a link leads to a folder on the way to it from ``start``, or to one above ``start``."""
    target, parent = os.path.realpath(link), os.path.dirname(link)
    if f"{os.path.realpath(start)}/".startswith(f"{target.rstrip('/')}/"):
        return True
    while len(parent) > len(start):
        if os.path.realpath(parent) == target:
            return True
        parent = os.path.dirname(parent)
    return False


def is_utf8(name: str) -> bool:
    """Return whether a file name is UTF-8; Python marks other bytes with halves of surrogate pairs."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def list_recordings(folder: str | Path, rate: int = SAMPLE_RATE) -> dict[str, str]:
    """List the audio under a folder as id (its path below the folder) → location, as :func:`locate` does.

    Raises:
        InputError: no audio in the folder, or a duplicate id.
    """
    locations: dict[str, str] = {}
    for path in find_audio(folder):
        add_location(locations, make_id(*path.relative_to(os.path.abspath(folder)).with_suffix("").parts), path, rate)
    return locations


def add_location(locations: dict[str, str], name: str, path: Path, rate: int = SAMPLE_RATE) -> None:
    """Add the file ``path`` to ``locations`` under the id ``name``.

    Raises:
        InputError: another file has the same id, or ffmpeg is needed and not installed.
    """
    if name in locations:
        raise InputError(f"duplicate id '{name}': {locations[name]} and {path}; rename one of them")
    locations[name] = locate(path, rate)


def locate(path: str | Path, rate: int = SAMPLE_RATE) -> str:
    """Return how to read a file: its path, or an ffmpeg command ending in "|" if libsndfile cannot decode the format.

    The command resamples to ``rate`` Hz.

    Raises:
        InputError: ffmpeg is needed and not installed.
    """
    path, suffix = str(path), os.path.splitext(path)[1]
    if suffix.lower() not in FFMPEG_SUFFIXES:
        return path
    if shutil.which("ffmpeg") is None:
        raise InputError(
            f"{path}: decoding {suffix} needs ffmpeg, which is not installed: install it, or convert to wav"
        )
    return f"ffmpeg -v 8 -i {shlex.quote(path)} -f wav -acodec pcm_s16le -ar {rate} -ac 1 - |"


def make_id(*parts: str) -> str:
    """Join the parts of a path into an id that Kaldi accepts.

    >>> make_id("id10270", "my video", "00001")
    'id10270-my_video-00001'
    """
    return "-".join("_".join(part.split()) for part in parts)
