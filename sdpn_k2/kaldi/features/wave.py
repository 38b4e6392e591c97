"""Audio as Kaldi's tools see it: 16-bit PCM in RIFF files, samples as float32 at int16 scale.

Other audio that libsndfile reads (FLAC, other sample rates, float files) enters a wav.scp as a command that writes such
a file: ``sdpn-k2 to-wav --rate 16000 --channel 0 FILE |``. Kaldi runs the command. Starting Python for each utterance
would take longer than all later processing, so our readers recognise exactly this command and do its work themselves
(``read_command``).
"""

from __future__ import annotations

import os
import re
import shlex
import struct
from dataclasses import dataclass
from typing import Optional, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.sound import UNKNOWN_SIZES, read_channel, sound_exists
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.holders import HOLDERS, Holder, read_only
from sdpn_k2.kaldi.formats.io import InputStream, open_input
from sdpn_k2.kaldi.formats.words import strip
from sdpn_k2.pcm import INT16_SCALE, to_int16

_PCM_GUID = (1, 0, 0x10, bytes.fromhex("800000aa00389b71"))
_PCM, _EXTENSIBLE = 1, 0xFFFE
_BLOCK = 1 << 20
_ONLY_PCM = "only 16-bit PCM wave files can be read; use 'sdpn-k2 to-wav --rate HZ FILE |' in wav.scp for others"
_TO_WAV = re.compile(r"sdpn-k2 to-wav --rate (\d{1,7}) --channel (\d{1,5}) (.+) \|", re.DOTALL)


@dataclass(frozen=True)
class WaveHeader:
    """The description of the samples in the header of a file.

    Attributes:
        rate: samples per second.
        channels: number of channels.
        samples: samples per channel, or None if the writer did not know.
        swapped: whether samples are big-endian (RIFX).
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
        """Duration in seconds."""
        return float(self.samples.shape[1] / self.rate)


def read_wave(stream: InputStream) -> Wave:
    """Read a 16-bit PCM RIFF (or RIFX) file, including WAVE_FORMAT_EXTENSIBLE and streamed headers.

    If a file is shorter than its header says, it is read to its end with a warning, as in Kaldi.

    Raises:
        InputError: the file has another format, its header is broken, or it has no samples.
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
        raise stream.fail("the wave file has no samples")
    integers = np.frombuffer(data, ">i2" if header.swapped else "<i2", count * header.channels)
    return Wave(np.ascontiguousarray(integers.reshape(count, header.channels).T, np.float32), header.rate)


def read_header(stream: InputStream) -> WaveHeader:
    """Read up to the first sample. Raises InputError as ``read_wave`` does."""
    riff = _read_part(stream, 4)
    if riff not in (b"RIFF", b"RIFX"):
        raise stream.fail(f"expected RIFF, got {riff!r}; {_ONLY_PCM}")
    endian = "<" if riff == b"RIFF" else ">"
    riff_size, wave = struct.unpack(endian + "I4s", _read_part(stream, 8))
    if wave != b"WAVE":
        raise stream.fail(f"expected WAVE, got {wave!r}")
    size = _find_chunk(stream, b"fmt ", endian)
    rate, channels = _read_format(stream, size, endian)
    data_size = _find_chunk(stream, b"data", endian)
    streamed = riff_size in UNKNOWN_SIZES or data_size in UNKNOWN_SIZES
    samples = None if streamed else data_size // (2 * channels)  # as in Kaldi, part of a sample at the end is dropped
    return WaveHeader(rate, channels, samples, endian == ">")


def read_duration(stream: InputStream) -> float:
    """Return the duration in seconds that the header states; for a streamed file, count the samples.

    Raises InputError as ``read_wave`` does.
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
    """Encode a 16-bit PCM RIFF file. Samples are truncated to integers, and clipped with a warning, as in Kaldi.

    Raises:
        InputError: there are no channels, samples are not finite, or a RIFF file (4 GB) cannot hold them.
    """
    channels, count = wave.samples.shape
    size = 2 * channels * count
    if channels == 0 or size + 36 >= 1 << 32:
        raise InputError(f"a wave file cannot hold {channels} channels of {count} samples")
    samples: np.ndarray = np.trunc(wave.samples.T)
    if not np.isfinite(samples).all():
        raise InputError("cannot write samples that are NaN or infinite")
    clipped = int(np.count_nonzero((samples < -INT16_SCALE) | (samples > INT16_SCALE - 1)))
    if clipped:
        log.warn(f"clipped {clipped} samples out of total {channels * count}. Reduce volume?")
        samples = np.clip(samples, -INT16_SCALE, INT16_SCALE - 1)
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", size + 36, b"WAVE", b"fmt ", 16, _PCM, channels, int(wave.rate), 2 * channels * int(wave.rate)),
        *(2 * channels, 16, b"data", size),
    )
    data: bytes = samples.astype("<i2").tobytes()
    return header + data


def read_audio(path: str, rate: int = 16000, channel: int = 0) -> np.ndarray:
    """Read one channel of any audio file that libsndfile reads: float32 (samples,), integers at int16 scale.

    16-bit audio at ``rate`` is returned unchanged; other audio is resampled (``resample.py``) and rounded to int16.

    Args:
        path: a file, a FIFO such as bash's ``<(…)``, ``-`` (standard input), or a command that ends in ``|``.
        rate: sample rate of the result in Hz.
        channel: 0-based.

    Raises:
        InputError: the file is missing, is not audio, has no samples, or lacks the channel.
    """
    return convert_audio(*decode_audio(path_or_content(path), path, channel), rate)


def path_or_content(path: str) -> Union[str, bytes]:
    """Return the name of a file, or the content of a FIFO, standard input or command. Raises InputError."""
    if sound_exists(path):
        return path
    if path != "-" and not path.endswith("|") and not os.path.exists(path):
        raise InputError(f"{path}: no such file")
    with open_input(path) as stream:
        return stream.read()


def decode_audio(source: Union[str, bytes], name: str, channel: int = 0) -> Tuple[np.ndarray, int]:
    """Read one channel of a file, or of a file's content: float32 (samples,) in ±1, and the sample rate in Hz.

    ``name`` is for messages. Raises InputError as ``read_audio`` does.
    """
    samples, rate_in, is_truncated = read_channel(source, name, channel)
    if is_truncated:
        log.warn(f"{name}: read only {len(samples)} samples, fewer than the header announces; truncated file?")
    if not np.isfinite(samples).all():
        raise InputError(f"{name}: samples are NaN or infinite")
    return samples, rate_in


def convert_audio(samples: np.ndarray, rate_in: int, rate: int) -> np.ndarray:
    """Resample samples in ±1, and round them to int16: float32 (samples,), integers at int16 scale."""
    return to_int16(resample(samples, rate_in, rate)).astype(np.float32)


def to_wav_command(path: str, rate: int = 16000, channel: int = 0) -> str:
    """Return the wav.scp entry that converts an audio file to a wave file for Kaldi, quoted for the shell."""
    if "\n" in path or "\0" in path:
        raise InputError(f"{path!r}: file names in wav.scp cannot contain a line break or NUL")
    return f"sdpn-k2 to-wav --rate {rate} --channel {channel} {shlex.quote(path)} |"


def read_command(command: str) -> Optional[Wave]:
    """Return the wave that a command from ``to_wav_command`` would write, or None for any other command.

    No process is started, so this is safe even when commands are disabled.

    Raises:
        InputError: as ``read_audio``.
    """
    arguments = parse_to_wav(command)
    return None if arguments is None else Wave(read_audio(*arguments)[None], arguments[1])


def parse_to_wav(command: str) -> Optional[Tuple[str, int, int]]:
    """Return file, rate and channel of a command from ``to_wav_command``, or None for any other command.

    The command must equal the output of ``to_wav_command`` character by character. A shell would then pass on exactly
    these words and do nothing else.
    """
    match = _TO_WAV.fullmatch(strip(command))
    if match is None:
        return None
    rate, channel = int(match.group(1)), int(match.group(2))
    try:
        words = shlex.split(match.group(3))
    except ValueError:
        return None
    if len(words) != 1 or to_wav_command(words[0], rate, channel) != strip(command):
        return None
    return words[0], rate, channel


def _read_part(stream: InputStream, size: int) -> bytes:
    return stream.read_exactly(size, "the header of a wave file")


def _find_chunk(stream: InputStream, name: bytes, endian: str) -> int:
    """Skip chunks up to the one named ``name``, and return its size."""
    padded = False
    while True:
        if padded and stream.peek(1) == b"\0":  # the pad byte after a chunk of odd size; no name begins with it
            stream.read(1)
        found, size = struct.unpack(endian + "4sI", _read_part(stream, 8))
        if found == name:
            return int(size)
        padded = size % 2 == 1
        while size > 0:
            skipped = len(stream.read(min(size, _BLOCK)))
            if not skipped:
                raise stream.fail(f"the wave file ends in its chunk {found!r}, before a chunk {name!r}")
            size -= skipped


def _read_format(stream: InputStream, size: int, endian: str) -> Tuple[int, int]:
    """Return sample rate and number of channels from a format chunk, which must state 16-bit PCM."""
    if size < 16 or size > _BLOCK:
        raise stream.fail(f"the format chunk of a wave file has {size} bytes")
    chunk = _read_part(stream, size)
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


HOLDERS["wave"] = Holder(read_wave, lambda wave, binary: encode_wave(wave), marked=False, run=read_command)
HOLDERS["wave_duration"] = Holder(read_duration, read_only, marked=False, run=_run_duration)
