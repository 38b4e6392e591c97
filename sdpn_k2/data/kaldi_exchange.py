"""Convert lhotse's manifests to Kaldi data directories and back, keeping all that both can represent.

Both directions keep ids, audio sources, rates, segments, channels, durations, speakers, texts, languages and genders.
Unlike ``lhotse kaldi export`` and ``import``, this module

- writes files that are not 16-bit mono WAV as a command, ``sdpn-k2 to-wav … |``, and reads it back as the file;
- writes spk2utt and spk2gender;
- distinguishes the channels of a recording by Kaldi's ``reco2file_and_channel``;
- restores durations to the sample.

A recording with a single used channel has its own id in wav.scp. Otherwise each channel has an entry
``<recording>-<channel>``, with channels counted from 1 as in Kaldi. If a Kaldi directory used another id, such as
``sw02001-A``, the supervisions keep it as ``custom["wav_scp_id"]``.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from pathlib import Path
from types import MappingProxyType
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Set, Tuple

from lhotse import Recording, SupervisionSegment
from lhotse.audio import AudioSource

from sdpn_k2.errors import InputError, error_context
from sdpn_k2.files import atomic_folder
from sdpn_k2.kaldi.datadir.data_dir import Segment, read_map, read_numbers
from sdpn_k2.kaldi.datadir.data_dir_ops import write_data_dir
from sdpn_k2.kaldi.datadir.utterances import Part, read_parts, sample_range
from sdpn_k2.kaldi.datadir.validation import validate
from sdpn_k2.kaldi.features.sound import open_sound
from sdpn_k2.kaldi.features.wave import parse_to_wav, read_header, to_wav_command
from sdpn_k2.kaldi.formats import words
from sdpn_k2.kaldi.formats.io import open_input, split_offset

log = logging.getLogger(__name__)

DURATION_TOLERANCE = 1e-6  # seconds: an utt2dur this close to its segment is the exact duration
ENTRY_FIELD = "wav_scp_id"  # custom field of a supervision: the wav.scp id of its channel
GENDERS = {"m": "m", "male": "m", "f": "f", "female": "f"}


class Exchange(NamedTuple):
    """Counts of what was written."""

    recordings: int
    utterances: int
    speakers: int


# lhotse → Kaldi


def write_kaldi_dir(
    recordings: Iterable[Recording],
    supervisions: Iterable[SupervisionSegment],
    directory: Path,
    prefix_speaker: bool = False,
) -> Exchange:
    """Write a new data directory. It appears when it is complete.

    It always has wav.scp, utt2spk, spk2utt, utt2dur and reco2dur; segments, text, utt2lang, spk2gender and
    reco2file_and_channel only if the manifests provide them.

    An utterance without a speaker becomes its own speaker, as is customary in Kaldi.

    Args:
        recordings: recordings of the supervisions; others are left out with a warning.
        supervisions: the utterances.
        directory: data directory to write; it must be new or empty.
        prefix_speaker: write utterance ids as ``<speaker>-<id>``, for ids that do not begin with the speaker.

    Raises:
        InputError: Kaldi's tables cannot represent a recording or utterance, the result is not valid, or the directory
            is not empty.
    """
    if directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory}: already exists and is not empty; remove it, or use another name")
    by_id = {recording.id: recording for recording in recordings}
    utterances = _named(supervisions, by_id, prefix_speaker)
    if not utterances:
        raise InputError(f"{directory}: no utterances to write")
    _warn_of_loss(by_id, utterances.values())
    entries = _wav_scp_ids(utterances.values())
    wav = {entry: _wav_entry(by_id[recording], channel) for (recording, channel), entry in entries.items()}

    speaker_of = {name: supervision.speaker or name for name, supervision in utterances.items()}
    segments = {name: _segment(supervision, entries) for name, supervision in utterances.items()}
    whole = all(
        segments[name] == (name, 0.0, by_id[supervision.recording_id].duration)
        for name, supervision in utterances.items()
    )
    tables = {
        "utt2dur": {name: supervision.duration for name, supervision in utterances.items()},
        "reco2dur": {entry: by_id[recording].duration for (recording, _), entry in entries.items()},
        "text": {name: _one_line(supervision.text) for name, supervision in utterances.items()},
        "utt2lang": _complete({name: supervision.language for name, supervision in utterances.items()}),
        "spk2gender": _complete(_genders(utterances, speaker_of)),
    }
    if not whole:
        tables["segments"] = segments
    elif not any(tables["text"].values()):
        del tables["text"]  # lhotse's import requires it only beside segments
    if any(_implied(entry, wav[entry]) != file for file, entry in entries.items()):
        tables["reco2file_and_channel"] = {
            entry: (recording, channel + 1) for (recording, channel), entry in entries.items()
        }
    _write_whole(directory, wav, speaker_of, {name: table for name, table in tables.items() if table})
    num_recordings = len({recording for recording, _ in entries})
    return Exchange(num_recordings, len(utterances), len(set(speaker_of.values())))


def _named(
    supervisions: Iterable[SupervisionSegment], recordings: Dict[str, Recording], prefix_speaker: bool
) -> Dict[str, SupervisionSegment]:
    """Map Kaldi's utterance ids to the supervisions. Raises InputError."""
    utterances: Dict[str, SupervisionSegment] = {}
    for supervision in supervisions:
        if supervision.recording_id not in recordings:
            raise InputError(
                f"utterance '{supervision.id}' refers to recording '{supervision.recording_id}', which is "
                "not in the recordings"
            )
        if isinstance(supervision.channel, (list, tuple)) and len(supervision.channel) != 1:
            raise InputError(f"utterance '{supervision.id}' has channels {supervision.channel}: Kaldi allows one")
        name = f"{supervision.speaker}-{supervision.id}" if prefix_speaker and supervision.speaker else supervision.id
        if name in utterances:
            raise InputError(f"duplicate utterance '{name}'")
        utterances[name] = supervision
    return utterances


def _wav_scp_ids(supervisions: Iterable[SupervisionSegment]) -> Dict[Tuple[str, int], str]:
    """Map each used recording and channel to its id in wav.scp. Raises InputError."""
    channels: Dict[str, Set[int]] = defaultdict(set)
    kept: Dict[Tuple[str, int], str] = {}
    for supervision in supervisions:
        channels[supervision.recording_id].add(_channel(supervision))
        if ENTRY_FIELD in (supervision.custom or {}):
            kept[supervision.recording_id, _channel(supervision)] = str(supervision.custom[ENTRY_FIELD])
    # Copies of a recording, as after speed perturbation, share a kept id: none of them may use it.
    uses = Counter(kept.values())
    kept = {file: entry for file, entry in kept.items() if uses[entry] == 1}
    entries = {
        (recording, channel): kept.get((recording, channel), _entry(recording, channel, used))
        for recording, used in channels.items()
        for channel in used
    }
    duplicate, uses_of_it = Counter(entries.values()).most_common(1)[0]
    if uses_of_it > 1:
        raise InputError(
            f"two recordings would have the id '{duplicate}' in wav.scp, since channels become recording-1, "
            "recording-2 …: rename one of them"
        )
    return entries


def _write_whole(directory: Path, wav: Dict[str, str], speaker_of: Dict[str, str], tables: Dict[str, dict]) -> None:
    """Write the directory under a temporary name, and rename it once it is valid."""
    with atomic_folder(directory) as temporary:
        try:
            write_data_dir(temporary, wav, speaker_of, tables)
        except InputError as error:
            raise InputError(str(error).replace(str(temporary), str(directory))) from None


def _entry(recording: str, channel: int, used: Set[int]) -> str:
    """Return the default wav.scp id of a channel; ``used`` are all used channels of the recording."""
    return recording if len(used) == 1 else f"{recording}-{channel + 1}"


def _channel(supervision: SupervisionSegment) -> int:
    return supervision.channel if isinstance(supervision.channel, int) else supervision.channel[0]


def _segment(supervision: SupervisionSegment, entries: Dict[Tuple[str, int], str]) -> Segment:
    entry = entries[supervision.recording_id, _channel(supervision)]
    return Segment(entry, float(supervision.start), float(supervision.start + supervision.duration))


def _wav_entry(recording: Recording, channel: int) -> str:
    """Return the wav.scp entry for one channel of a recording."""
    for transform in recording.transforms or []:
        name = transform["name"] if isinstance(transform, dict) else type(transform).__name__
        if name != "Resample":
            raise InputError(
                f"recording '{recording.id}' has the transform {name}, which wav.scp cannot represent: "
                "save the transformed audio first (lhotse's save_audio)"
            )
    source = next((source for source in recording.sources if channel in source.channels), None)
    if source is None:
        raise InputError(f"recording '{recording.id}' has no channel {channel}")
    if source.type == "command":
        command = words.strip(source.source)
        if recording.transforms or len(source.channels) > 1:
            index = source.channels.index(channel)
            command = f"({command}) | sdpn-k2 to-wav --rate {recording.sampling_rate} --channel {index} -"
        return f"{command} |"
    if source.type != "file":
        raise InputError(
            f"recording '{recording.id}' has a source of type {source.type}, but Kaldi reads only files and commands: "
            "save its audio first (lhotse's save_audio)"
        )
    with error_context(f"recording '{recording.id}'"), open_sound(source.source) as sound:
        is_plain = sound.is_pcm16_wav and sound.channels == 1 and sound.rate == recording.sampling_rate
    if is_plain and source.source == words.strip(source.source):
        return source.source
    return to_wav_command(source.source, recording.sampling_rate, source.channels.index(channel))


def _warn_of_loss(recordings: Dict[str, Recording], supervisions: Iterable[SupervisionSegment]) -> None:
    """Log what a Kaldi directory cannot represent."""
    supervisions = list(supervisions)
    unused = len(set(recordings) - {supervision.recording_id for supervision in supervisions})
    if unused:
        log.warning("%d recordings without an utterance are left out: Kaldi's tables cannot represent them", unused)
    for field, count in (
        ("custom", sum(bool(set(supervision.custom or {}) - {ENTRY_FIELD}) for supervision in supervisions)),
        ("alignment", sum(bool(supervision.alignment) for supervision in supervisions)),
    ):
        if count:
            log.warning("the field %s of %d utterances is lost: Kaldi's tables cannot represent it", field, count)
    given = {supervision.gender for supervision in supervisions if supervision.gender}
    others = sorted(gender for gender in given if gender.lower() not in GENDERS)
    if others:
        log.warning("genders other than m and f become unknown: %s", ", ".join(others))
    count = sum(_one_line(supervision.text) != (supervision.text or "") for supervision in supervisions)
    if count:
        log.warning("white space in %d texts is reduced to single spaces", count)


def _genders(utterances: Dict[str, SupervisionSegment], speaker_of: Dict[str, str]) -> Dict[str, Optional[str]]:
    genders: Dict[str, Optional[str]] = {}
    for name, supervision in utterances.items():
        gender = GENDERS.get((supervision.gender or "").lower())
        if genders.setdefault(speaker_of[name], gender) != gender:
            raise InputError(
                f"speaker '{speaker_of[name]}' has two genders: that of utterance '{name}' differs from earlier ones"
            )
    return genders


def _complete(table: Dict[str, Optional[str]]) -> Dict[str, str]:
    """Return the table if it is complete, else an empty one: Kaldi's tables allow no gaps."""
    missing = sum(value is None for value in table.values())
    if 0 < missing < len(table):
        log.warning(
            "languages or genders are left out: %d of %d are unknown, and Kaldi's tables allow no gaps",
            missing,
            len(table),
        )
    return {} if missing else {name: str(value) for name, value in table.items()}


def _one_line(text: Optional[str]) -> str:
    return " ".join((text or "").split())


# Kaldi → lhotse


def read_kaldi_dir(
    directory: Path, known: Mapping[str, Recording] = MappingProxyType({})
) -> Tuple[List[Recording], List[SupervisionSegment]]:
    """Read the recordings and supervisions of a valid data directory, sorted by id.

    Args:
        directory: the data directory.
        known: recordings whose audio was already read, by id; the audio of all others is opened.

    Raises:
        InputError: the directory is not valid (first bad line and file), or a recording cannot be read.
    """
    validate(directory, feats=False, text=False)
    entries = read_map(directory / "wav.scp")
    files = _files_and_channels(directory, entries)
    sources: Dict[str, Dict[int, str]] = defaultdict(dict)
    for entry, (recording, channel) in files.items():
        if channel in sources[recording]:
            raise InputError(
                f"{directory / 'reco2file_and_channel'}: '{entry}': duplicate channel {channel + 1} of '{recording}'"
            )
        sources[recording][channel] = entries[entry]
    by_id = {name: known.get(name) or _read_recording(name, sources[name], directory) for name in sorted(sources)}

    tables = {
        name: read_map(directory / name) if (directory / name).is_file() else {}
        for name in ("utt2spk", "text", "utt2lang", "spk2gender")
    }
    durations = read_numbers(directory / "utt2dur") if (directory / "utt2dur").is_file() else {}
    parts = read_parts(directory)
    used: Dict[str, Set[int]] = defaultdict(set)
    for part in parts:
        recording, channel = files[part.recording]
        used[recording].add(channel if part.channel is None else part.channel)
    supervisions = []
    for part in parts:
        recording, channel = files[part.recording]
        kept = part.channel is None and part.recording != _entry(recording, channel, used[recording])
        start, duration = _times(part, by_id[recording], durations.get(part.utterance), directory)
        speaker = tables["utt2spk"][part.utterance]
        supervisions.append(
            SupervisionSegment(
                id=part.utterance,
                recording_id=recording,
                start=start,
                duration=duration,
                channel=channel if part.channel is None else part.channel,
                speaker=speaker,
                text=tables["text"].get(part.utterance) or None,
                language=tables["utt2lang"].get(part.utterance),
                gender=tables["spk2gender"].get(speaker),
                custom={ENTRY_FIELD: part.recording} if kept else None,
            )
        )
    return list(by_id.values()), supervisions


def _files_and_channels(directory: Path, entries: Dict[str, str]) -> Dict[str, Tuple[str, int]]:
    """Map each id in wav.scp to its recording and channel (0-based)."""
    path = directory / "reco2file_and_channel"
    if not path.is_file():
        return {name: _implied(name, entry) for name, entry in entries.items()}
    files = {}
    for number, (entry, value) in enumerate(read_map(path).items(), start=1):
        fields = words.split(value)
        channel = fields[-1].upper()
        if len(fields) != 2 or not (channel in ("A", "B") or (channel.isdigit() and int(channel) > 0)):
            raise InputError(
                f"{path}:{number}: expected recording, file and channel (A, B or a number from 1), got "
                f"'{entry} {value}'"
            )
        files[entry] = fields[0], int(channel) - 1 if channel.isdigit() else "AB".index(channel)
    return files


def _implied(name: str, entry: str) -> Tuple[str, int]:
    """Return recording and channel of a wav.scp entry without reco2file_and_channel."""
    return name, (parse_to_wav(entry) or ("", 0, 0))[2]  # sdpn-k2 to-wav selects one channel of a file


def _read_recording(name: str, entries: Dict[int, str], directory: Path) -> Recording:
    """Build a recording from the wav.scp entry of each of its channels."""
    for entry in entries.values():
        if split_offset(entry)[1] is not None and not os.path.isfile(entry):
            raise InputError(
                f"{directory / 'wav.scp'}: recording '{name}' is in an archive ({entry}), which lhotse cannot "
                "read: write files first (wav-copy scp:wav.scp scp:FILES)"
            )
    parsed = {channel: parse_to_wav(entry) for channel, entry in entries.items()}
    try:
        files = {arguments and arguments[:2] for arguments in parsed.values()}
        file = files.pop() if len(files) == 1 else None
        if file is not None:
            path, rate = file
            rate_in, samples, channels = _sound_format(path)
            source = AudioSource("file", list(range(channels)), path)
            recording = Recording(name, [source], rate_in, samples, samples / rate_in)
            return recording if rate_in == rate else recording.resample(rate)
        kinds = [
            AudioSource("command", [channel], words.strip(entry[:-1]))
            if entry.endswith("|")
            else AudioSource("file", [channel], entry)
            for channel, entry in sorted(entries.items())
        ]
        formats = {_format(entry) for entry in entries.values()}
    except InputError as error:
        raise InputError(f"{directory / 'wav.scp'}: recording '{name}' cannot be read: {error}") from None
    if len(formats) > 1:
        raise InputError(f"{directory / 'wav.scp'}: the channels of recording '{name}' differ in rate or length")
    rate, samples, channels = formats.pop()
    if channels > 1 and len(kinds) == 1:
        kinds = [AudioSource(kinds[0].type, list(range(channels)), kinds[0].source)]
    return Recording(name, kinds, rate, samples, samples / rate)


def _format(entry: str) -> Tuple[int, int, int]:
    """Return rate, samples per channel and number of channels of a wav.scp entry. Commands are run."""
    if not entry.endswith("|") and os.path.isfile(entry):
        return _sound_format(entry)
    with open_input(entry) as stream:
        header = read_header(stream)
        samples = header.samples
        if samples is None or entry.endswith("|"):
            samples = len(stream.read()) // (2 * header.channels)
    return header.rate, samples, header.channels


def _sound_format(path: str) -> Tuple[int, int, int]:
    """Return rate, samples per channel and number of channels of an audio file."""
    with open_sound(path) as sound:
        return sound.rate, sound.announced, sound.channels


def _times(part: Part, recording: Recording, exact: Optional[float], directory: Path) -> Tuple[float, float]:
    """Return start and duration. As in Kaldi, a segment may end a little after its recording."""
    with error_context(f"{directory / 'segments'}: '{part.utterance}'"):
        sample_range(part, recording.sampling_rate, recording.num_samples)
    if part.end == -1:
        return part.start, recording.duration - part.start
    duration = round(min(part.end, recording.duration) - part.start, 9)
    if exact is not None and abs(exact - duration) < DURATION_TOLERANCE:
        duration = exact
    return part.start, duration
