"""Audio as lhotse and Kaldi describe it: a Recording, and an entry of wav.scp."""

from __future__ import annotations

from typing import NamedTuple

from lhotse import Recording
from lhotse.audio import AudioSource

from sdpn_k2.data.audio_files import SAMPLE_RATE
from sdpn_k2.kaldi.features.wave import to_wav_command


class Audio(NamedTuple):
    """Audio that was decoded from start to end without errors."""

    location: str  # an absolute path, or a command ending in "|" that writes a WAV
    sample_rate: int  # Hz
    num_samples: int  # per channel, at sample_rate
    num_channels: int
    is_plain: bool  # a 16-bit 16 kHz mono WAV file, which every Kaldi tool can read directly

    @property
    def is_command(self) -> bool:
        """Whether the audio comes from a command rather than a file."""
        return self.location.endswith("|")

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate


def make_recording(name: str, audio: Audio) -> Recording:
    """Return a lhotse Recording at 16 kHz; audio at another rate is resampled on reading."""
    source = AudioSource(
        type="command" if audio.is_command else "file",
        channels=list(range(audio.num_channels)),
        source=audio.location.rstrip("| ") if audio.is_command else audio.location,
    )
    recording = Recording(
        id=name,
        sources=[source],
        sampling_rate=audio.sample_rate,
        num_samples=audio.num_samples,
        duration=audio.duration,
    )
    return recording if audio.sample_rate == SAMPLE_RATE else recording.resample(SAMPLE_RATE)


def wav_scp_entry(audio: Audio, channel: int = 0) -> str:
    """Return the wav.scp entry for one channel at 16 kHz: the path if Kaldi's tools can read it, else a command."""
    if audio.is_plain:
        return audio.location
    if not audio.is_command:
        return to_wav_command(audio.location, SAMPLE_RATE, channel)
    if audio.sample_rate != SAMPLE_RATE:
        return f"{audio.location} sdpn-k2 to-wav --rate {SAMPLE_RATE} --channel {channel} - |"
    return audio.location
