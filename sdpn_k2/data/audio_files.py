"""Find audio files and give them ids."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Iterator

from sdpn_k2.errors import InputError

SAMPLE_RATE = 16000  # Hz; the rate of prepared audio unless told otherwise
# fmt: off
LIBSNDFILE_SUFFIXES = {
    ".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".sph", ".nist", ".w64", ".rf64",
    ".caf", ".wv",
}
# fmt: on
FFMPEG_SUFFIXES = {".m4a", ".aac", ".mp4", ".webm", ".wma"}


def find_audio(folder: str | Path) -> Iterator[Path]:
    """Yield all audio files under ``folder``, as absolute paths in a fixed order.

    Raises:
        InputError: no such folder, no audio in it, or a file name that is not UTF-8.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    suffixes = LIBSNDFILE_SUFFIXES | FFMPEG_SUFFIXES
    found = False
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() not in suffixes:
                continue
            path = Path(parent, name)
            if not str(path).isascii() and any("\ud800" <= letter <= "\udfff" for letter in str(path)):
                raise InputError(f"{str(path)!a}: the file name is not valid UTF-8, which manifests require: rename it")
            found = True
            yield path
    if not found:
        raise InputError(f"{folder}: no audio files found (looked for {' '.join(sorted(suffixes))})")


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
