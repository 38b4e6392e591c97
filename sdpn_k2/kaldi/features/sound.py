"""Audio files of any format that libsndfile reads: the one place that opens them.

What preparation accepts, every later stage can thus read, with the same number of samples. The differences to plain
libsndfile:

- WAV files whose writer did not know their length (a pipe) extend to their end, as in Kaldi's wave-reader.cc;
- files in which libsndfile cannot seek, such as GSM in WAV, are read from the start;
- sample rates outside of 1 to 768 kHz are refused, because resampling from them could need any amount of memory;
- every failure is an InputError that names the file.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
from typing import IO, Any, Iterator, Optional, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.resample import LARGEST_RATE, LEAST_RATE

BLOCK_SAMPLES = 1 << 18  # read at a time
# What soundfile raises: OSError for files; RuntimeError for libsndfile; the others for seeking, and for odd names.
AUDIO_ERRORS = (OSError, RuntimeError, ValueError, TypeError)
# Programs write these sizes when they do not know the length: the data extend to the end of the stream.
UNKNOWN_SIZES = {0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF}
_HEAD = 1 << 12  # bytes; most headers are shorter

Source = Union[str, "os.PathLike[str]", bytes, IO[bytes]]


class Sound:
    """An audio file that is open for reading.

    Attributes:
        name: the file, for messages.
        rate: samples per second.
        channels: number of channels.
        announced: samples per channel, according to the header.
        is_pcm16_wav: whether it is a WAV file of 16-bit integers.
        read_to: number of samples per channel that were read so far.
    """

    def __init__(self, file: Any, name: str, repaired: bool):
        self.name = name
        self.rate: int = file.samplerate
        self.channels: int = file.channels
        self.announced: int = file.frames
        # A header without a length is for our readers and Kaldi's, but not for all tools.
        self.is_pcm16_wav = file.format in ("WAV", "WAVEX") and file.subtype == "PCM_16" and not repaired
        self.read_to = 0
        self._file = file

    @property
    def is_truncated(self) -> bool:
        """Whether the file has fewer samples than its header announces; valid after it was read to its end."""
        return self.read_to < self.announced or _is_cut_short(self._file.extra_info)

    def blocks(self, size: int = BLOCK_SAMPLES) -> Iterator[np.ndarray]:
        """Yield the samples from here on, float32 ``(up to size, channels)`` in ±1, until the file ends."""
        while True:
            with _failures_named(self.name):
                block: np.ndarray = self._file.read(size, dtype="float32", always_2d=True)
            if not len(block):
                return
            self.read_to += len(block)
            yield block

    def read(self, first: int = 0, count: Optional[int] = None) -> np.ndarray:
        """Return ``count`` samples from ``first`` on, or all the rest: float32 ``(samples, channels)`` in ±1."""
        if first:
            self.skip(first)
        pieces, wanted = [], count
        while wanted is None or wanted > 0:
            block = next(self.blocks(BLOCK_SAMPLES if wanted is None else min(wanted, BLOCK_SAMPLES)), None)
            if block is None:
                break
            pieces.append(block)
            wanted = None if wanted is None else wanted - len(block)
        return np.concatenate(pieces) if pieces else np.empty((0, self.channels), np.float32)

    def skip(self, count: int) -> None:
        """Skip ``count`` samples per channel."""
        with _failures_named(self.name):
            if self._file.seekable():
                self._file.seek(min(self.read_to + count, self.announced))
                self.read_to = min(self.read_to + count, self.announced)
                return
        while count > 0:
            block = next(self.blocks(min(count, BLOCK_SAMPLES)), None)
            if block is None:
                return
            count -= len(block)


@contextlib.contextmanager
def open_sound(source: Source, name: Optional[str] = None) -> Iterator[Sound]:
    """Open an audio file, its content as bytes, or an open binary file that can seek.

    Args:
        source: the file, or ``archive:offset`` of a WAV file in an archive.
        name: its name for messages, unless ``source`` is a path.

    Raises:
        InputError: the file is missing, is not audio that libsndfile reads, or has an impossible sample rate.
    """
    import soundfile

    is_path = isinstance(source, (str, os.PathLike))
    name = name or (os.fspath(source) if is_path else "the audio")  # type: ignore[arg-type]
    with contextlib.ExitStack() as opened:
        with _failures_named(name):
            # Names that are not UTF-8 need bytes; soundfile would encode them strictly.
            file: Any = os.fsencode(source) if is_path else source  # type: ignore[arg-type]
            if is_path and _in_archive(file) is not None:
                file = io.BytesIO(_content(file))
                is_path = False
            elif is_path and os.path.isfile(file):
                file = opened.enter_context(open(file, "rb"))
            elif isinstance(source, bytes):
                file = io.BytesIO(source)
            header = None if isinstance(file, bytes) else _repaired_header(file)
            if header is not None:
                file = _Overlay(file, header)
            elif is_path:
                file = os.fsencode(source)  # type: ignore[arg-type] # libsndfile reads a file faster than a stream
            sound = opened.enter_context(soundfile.SoundFile(file))
        if not LEAST_RATE <= sound.samplerate <= LARGEST_RATE:
            raise InputError(
                f"{name}: a sample rate of {sound.samplerate} Hz, outside of {LEAST_RATE} to {LARGEST_RATE} Hz"
            )
        yield Sound(sound, name, header is not None)


def sound_exists(path: Union[str, os.PathLike[str]]) -> bool:
    """Return whether there is such a file, or such an archive for ``archive:offset``."""
    return os.path.isfile(path) or _in_archive(os.fsencode(path)) is not None


def _in_archive(path: bytes) -> Optional[Tuple[bytes, int]]:
    """Return the archive and the offset that ``archive:offset`` names, or None for any other name."""
    archive, _, offset = path.rpartition(b":")
    if not archive or not offset.isdigit() or len(offset) > 18 or os.path.isfile(path) or not os.path.isfile(archive):
        return None
    return archive, int(offset)


def _content(path: bytes) -> bytes:
    """Return the bytes of a WAV file in an archive."""
    found = _in_archive(path)
    assert found is not None
    with open(found[0], "rb") as stream:
        stream.seek(found[1])
        head = stream.read(12)
        if head[:4] not in (b"RIFF", b"RIFX"):
            raise InputError(f"{os.fsdecode(path)}: there is no WAV file at this offset")
        (size,) = struct.unpack_from("<I" if head[:4] == b"RIFF" else ">I", head.ljust(12), 4)
        # As in Kaldi, a file of unknown length extends to the end of the archive.
        return head + (stream.read() if size in UNKNOWN_SIZES else stream.read(max(0, size - 4)))


@contextlib.contextmanager
def _failures_named(name: str) -> Iterator[None]:
    """Turn what soundfile raises into an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except AUDIO_ERRORS as error:
        # The text of libsndfile's errors holds the file again, or the address of a buffer.
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name}: cannot read audio: {str(reason).strip().rstrip('.')}") from error


def _is_cut_short(libsndfile_log: str) -> bool:
    """Return whether a WAV or AIFF header announces more bytes than the file has.

    Programs that write into a pipe do not know the length and announce about 2 or 4 GiB. Such sizes are ignored.
    """
    sizes = re.findall(r"^\s*(?:data|SSND)\s*: (\d+) \(should be (\d+)\)", libsndfile_log, flags=re.MULTILINE)
    return any(int(announced) > int(actual) and int(announced) < 0x7FFF0000 for announced, actual in sizes)


def _repaired_header(file: IO[bytes]) -> Optional[bytes]:
    """Return the header of a WAV file with its true sizes, or None if it is not one of unknown length."""
    file.seek(0)
    head = file.read(_HEAD)
    try:
        if head[:4] not in (b"RIFF", b"RIFX") or head[8:12] != b"WAVE":
            return None
        order = "<I" if head[:4] == b"RIFF" else ">I"
        (riff_size,) = struct.unpack_from(order, head, 4)
        position = 12
        while True:
            if position + 8 > len(head):  # a long chunk before the data
                file.seek(0)
                head = file.read(position + 8)
            found, size = head[position : position + 4], struct.unpack_from(order, head, position + 4)[0]
            if found == b"data":
                break
            if size > 1 << 24:
                return None
            position += 8 + size + size % 2
        if riff_size not in UNKNOWN_SIZES and size not in UNKNOWN_SIZES:
            return None
        end = file.seek(0, io.SEEK_END)
    except struct.error:  # the file ends in its header
        return None
    finally:
        file.seek(0)
    start = position + 8
    known = min(end - start, 0xFFFFFFFF - start)
    header = bytearray(head[:start])
    struct.pack_into(order, header, 4, start - 8 + known)
    struct.pack_into(order, header, position + 4, known)
    return bytes(header)


class _Overlay(io.RawIOBase):
    """A file whose first bytes are replaced; libsndfile reads, seeks and tells."""

    def __init__(self, file: IO[bytes], header: bytes):
        self._file, self._header, self._position = file, header, 0
        self._end = file.seek(0, io.SEEK_END)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move as ``io.IOBase.seek`` does."""
        self._position = (0, self._position, self._end)[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``; return the number of bytes."""
        wanted = len(buffer)
        data = self._header[self._position : self._position + wanted]
        if len(data) < wanted:
            self._file.seek(self._position + len(data))
            data += self._file.read(wanted - len(data))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def read_channel(source: Source, name: Optional[str], channel: int) -> Tuple[np.ndarray, int, bool]:
    """Return one channel, float32 ``(samples,)`` in ±1, the rate in Hz, and whether the file is cut short.

    Raises:
        InputError: as :func:`open_sound`; the channel does not exist; there are no samples.
    """
    with open_sound(source, name) as sound:
        check_channel(sound, channel)
        pieces = [block[:, channel].copy() for block in sound.blocks()]
        if not pieces:
            raise InputError(f"{sound.name}: the audio has no samples")
        return np.concatenate(pieces), sound.rate, sound.is_truncated


def check_not_silent(samples: np.ndarray) -> None:
    """Raise InputError if all samples are equal: silence, or a constant."""
    if samples.size and samples.min() == samples.max():
        raise InputError(f"silent: every sample is {samples.flat[0]:g}")


def check_channel(sound: Sound, channel: int) -> None:
    """Raise InputError unless ``channel`` (0-based) exists."""
    if not 0 <= channel < sound.channels:
        raise InputError(f"{sound.name}: channel {channel} does not exist ({sound.channels} channels, numbered from 0)")
