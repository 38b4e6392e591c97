"""Audio as Kaldi's tools see it: 16-bit PCM in RIFF files, samples as float32 at int16 scale.

Everything else that libsndfile reads (FLAC, other sample rates, float files) enters a wav.scp as a command that writes
such a file, ``sdpn-k2 to-wav --rate 16000 --channel 0 FILE |``: Kaldi runs it. Starting Python for each utterance takes
longer than all that follows, so our own readers, where they meet exactly this command, do the same work themselves
(``read_command``).
"""

from __future__ import annotations

import io
import os
import re
import shlex
import struct
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.holders import HOLDERS, Holder
from sdpn_k2.kaldi.formats.io import InputStream, open_input

_PCM_GUID = (1, 0, 0x10, bytes.fromhex("800000aa00389b71"))
_PCM, _EXTENSIBLE = 1, 0xFFFE
# Sizes that programs write when they cannot know them: the data go on to the end of the stream.
_UNKNOWN_SIZES = {0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF}
_BLOCK = 1 << 20
_ONLY_PCM = "only 16-bit PCM wave files are read; others go through 'sdpn-k2 to-wav FILE |' in wav.scp"
_TO_WAV = re.compile(r"sdpn-k2 to-wav --rate (\d{1,7}) --channel (\d{1,5}) (.+) \|", re.DOTALL)


@dataclass(frozen=True)
class WaveHeader:
    """What stands before the samples.

    Attributes:
        rate: samples per second.
        channels: number of channels.
        samples: samples per channel, or None where the writer did not know.
        swapped: big-endian (RIFX).
    """

    rate: int
    channels: int
    samples: Optional[int]
    swapped: bool = False


@dataclass(frozen=True)
class Wave:
    """A recording: ``samples`` float32 (channels, samples) at int16 scale, ``rate`` in Hz."""

    samples: np.ndarray
    rate: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples.shape[1] / self.rate


def read_wave(stream: InputStream) -> Wave:
    """Read a 16-bit PCM RIFF (or RIFX) file, also WAVE_FORMAT_EXTENSIBLE, also with the sizes of a streamed header.

    A file that ends before its header says is read as far as it goes, with a warning, as Kaldi does.

    Raises:
        InputError: another format, a broken header, no samples.
    """
    header = read_header(stream)
    block = 2 * header.channels
    if header.samples is None:
        data = stream.read()
    else:
        data = stream.read(header.samples * block)
        if len(data) < header.samples * block:
            log.warn(
                f"{stream.name}: expected {header.samples * block} bytes of wave data, but read only {len(data)}; "
                "truncated file?"
            )
    count = len(data) // block
    if count == 0:
        raise stream.fail("wave file without samples")
    integers = np.frombuffer(data, ">i2" if header.swapped else "<i2", count * header.channels)
    return Wave(np.ascontiguousarray(integers.reshape(count, header.channels).T, np.float32), header.rate)


def read_header(stream: InputStream) -> WaveHeader:
    """Read up to the first sample. Raises InputError as ``read_wave``."""
    riff = _take(stream, 4)
    if riff not in (b"RIFF", b"RIFX"):
        raise stream.fail(f"expected RIFF, got {riff!r}; {_ONLY_PCM}")
    endian = "<" if riff == b"RIFF" else ">"
    riff_size, wave = struct.unpack(endian + "I4s", _take(stream, 8))
    if wave != b"WAVE":
        raise stream.fail(f"expected WAVE, got {wave!r}")
    size = _find_chunk(stream, b"fmt ", endian)
    rate, channels = _read_format(stream, size, endian)
    data_size = _find_chunk(stream, b"data", endian)
    if riff_size in _UNKNOWN_SIZES or data_size in _UNKNOWN_SIZES:
        samples = None
    elif data_size % (2 * channels):
        raise stream.fail(f"the data chunk has {data_size} bytes, no multiple of the {2 * channels} of a sample")
    else:
        samples = data_size // (2 * channels)
    return WaveHeader(rate, channels, samples, endian == ">")


def read_duration(stream: InputStream) -> float:
    """The duration in seconds that the header claims; of a streamed file, what is really there.

    The samples are not read (but where they must be counted). Raises InputError as ``read_wave``.
    """
    header = read_header(stream)
    samples = header.samples
    if samples is None:
        size = 0
        while block := stream.read(_BLOCK):
            size += len(block)
        samples = size // (2 * header.channels)
    return samples / header.rate


def encode_wave(wave: Wave) -> bytes:
    """A 16-bit PCM RIFF file. Samples are cut to whole numbers and clipped with a warning, as in Kaldi.

    Raises:
        InputError: no channels, samples that are not finite, or more than fit into a RIFF file (4 GB).
    """
    channels, count = wave.samples.shape
    size = 2 * channels * count
    if channels == 0 or size + 36 >= 1 << 32:
        raise InputError(f"a wave file cannot hold {channels} channels of {count} samples")
    samples = np.trunc(wave.samples.T)
    if not np.isfinite(samples).all():
        raise InputError("samples are NaN or infinite: not writing them")
    clipped = int(np.count_nonzero((samples < -32768) | (samples > 32767)))
    if clipped:
        log.warn(f"clipped {clipped} samples out of total {channels * count}. Reduce volume?")
        samples = np.clip(samples, -32768, 32767)
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", size + 36, b"WAVE", b"fmt ", 16, _PCM, channels, int(wave.rate), 2 * channels * int(wave.rate)),
        *(2 * channels, 16, b"data", size),
    )
    return header + samples.astype("<i2").tobytes()


def read_audio(path: str, rate: int = 16000, channel: int = 0) -> np.ndarray:
    """One channel of any audio file that libsndfile reads: float32 (samples,), whole numbers at int16 scale.

    The path may be ``-`` (standard input), a FIFO such as bash's ``<(…)``, or a command that ends in ``|``.

    16-bit audio at ``rate`` is returned as it is; anything else is resampled (``resample.py``) and rounded to int16.

    Raises:
        InputError: the file is missing or no audio, has no samples or not this channel.
    """
    import soundfile

    source = path
    if not os.path.isfile(path):
        if path != "-" and not path.endswith("|") and not os.path.exists(path):
            raise InputError(f"{path}: no such file")
        with open_input(path) as stream:
            source = io.BytesIO(stream.read())
    try:
        samples, rate_in = soundfile.read(source, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot read audio: {error}") from None
    if not 0 <= channel < samples.shape[1]:
        raise InputError(f"{path}: there is no channel {channel}: the file has {samples.shape[1]}, counted from 0")
    if len(samples) == 0:
        raise InputError(f"{path}: audio without samples")
    mono = resample(samples[:, channel], rate_in, rate) * np.float32(32768)
    if not np.isfinite(mono).all():
        raise InputError(f"{path}: samples are NaN or infinite")
    return np.clip(np.rint(mono), -32768, 32767)


def to_wav_command(path: str, rate: int = 16000, channel: int = 0) -> str:
    """The entry of a wav.scp that turns an audio file into what Kaldi reads, quoted for the shell."""
    if "\n" in path or "\0" in path:
        raise InputError(f"{path!r}: a file name with a line end cannot stand in a wav.scp")
    return f"sdpn-k2 to-wav --rate {rate} --channel {channel} {shlex.quote(path)} |"


def read_command(command: str) -> Optional[Wave]:
    """What the command of ``to_wav_command`` would write; None for any other command.

    No process is started, so this is safe where commands are switched off.

    Raises:
        InputError: as ``read_audio``.
    """
    arguments = parse_to_wav(command)
    return None if arguments is None else Wave(read_audio(*arguments)[None], arguments[1])


def parse_to_wav(command: str) -> Optional[Tuple[str, int, int]]:
    """File, rate and channel of the command of ``to_wav_command``; None for any other command.

    Taken is only what is, character by character, the output of ``to_wav_command`` for its file: a shell would pass on
    the very same words and do nothing else.
    """
    match = _TO_WAV.fullmatch(command.strip())
    if match is None:
        return None
    rate, channel = int(match.group(1)), int(match.group(2))
    try:
        words = shlex.split(match.group(3))
    except ValueError:
        return None
    if len(words) != 1 or to_wav_command(words[0], rate, channel) != command.strip():
        return None
    return words[0], rate, channel


def _take(stream: InputStream, size: int) -> bytes:
    return stream.read_exactly(size, "the header of a wave file")


def _find_chunk(stream: InputStream, name: bytes, endian: str) -> int:
    """Skip chunks up to the one called ``name``; return its size."""
    while True:
        found, size = struct.unpack(endian + "4sI", _take(stream, 8))
        if found == name:
            return size
        while size > 0:
            size -= len(_take(stream, min(size, _BLOCK)))


def _read_format(stream: InputStream, size: int, endian: str):
    """Sample rate and number of channels of a format chunk, which must say 16-bit PCM."""
    if size < 16 or size > _BLOCK:
        raise stream.fail(f"the format chunk of a wave file has {size} bytes")
    chunk = _take(stream, size)
    kind, channels, rate, byte_rate, align, bits = struct.unpack_from(endian + "HHIIHH", chunk)
    if kind == _EXTENSIBLE:
        if size < 40 or struct.unpack_from(endian + "IHH8s", chunk, 24) != _PCM_GUID:
            raise stream.fail(f"WAVE_FORMAT_EXTENSIBLE without PCM; {_ONLY_PCM}")
    elif kind != _PCM:
        raise stream.fail(f"format id {kind}; {_ONLY_PCM}")
    if bits != 16:
        raise stream.fail(f"{bits} bits per sample; {_ONLY_PCM}")
    if channels == 0 or rate == 0:
        raise stream.fail(f"a wave file with {channels} channels at {rate} Hz")
    if align != 2 * channels or byte_rate != rate * align:
        raise stream.fail(f"{channels} channels at {rate} Hz, but {align} bytes per sample and {byte_rate} per second")
    return rate, channels


# The kinds "wave" and "wave_duration" of tables


def _run_duration(command: str) -> Optional[float]:
    wave = read_command(command)
    return None if wave is None else wave.duration


def _refuse_to_write(value: object, binary: bool) -> bytes:
    raise InputError("a duration cannot be written as a wave file")


HOLDERS["wave"] = Holder(read_wave, lambda wave, binary: encode_wave(wave), marked=False, run=read_command)
HOLDERS["wave_duration"] = Holder(read_duration, _refuse_to_write, marked=False, run=_run_duration)
