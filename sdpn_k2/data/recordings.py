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
    is_plain: bool  # a 16-bit mono WAV file at target_rate, which every Kaldi tool can read directly
    target_rate: int = SAMPLE_RATE  # Hz of the prepared set; audio at another rate is resampled on reading

    @property
    def is_command(self) -> bool:
        """Whether the audio comes from a command rather than a file."""
        return self.location.endswith("|")

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate


def make_recording(name: str, audio: Audio) -> Recording:
    """Return a lhotse Recording at ``target_rate``; audio at another rate is resampled on reading."""
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
    return recording if audio.sample_rate == audio.target_rate else recording.resample(audio.target_rate)


def wav_scp_entry(audio: Audio, channel: int = 0) -> str:
    """Return the wav.scp entry for one channel at ``target_rate``: the path, or a command that converts the audio."""
    if audio.is_plain:
        return audio.location
    if not audio.is_command:
        return to_wav_command(audio.location, audio.target_rate, channel)
    if audio.sample_rate != audio.target_rate:
        return f"{audio.location} sdpn-k2 to-wav --rate {audio.target_rate} --channel {channel} - |"
    return audio.location
