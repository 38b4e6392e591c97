"""Check Kaldi data directories, as Kaldi's utils/validate_data_dir.sh does.

:func:`faults` defines what a valid line is. :func:`validate` refuses any other, and repair.py drops it.
"""

import math
from pathlib import Path
from typing import Dict, Iterator, Mapping, NamedTuple, Optional

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import (
    RECORDING_TABLES,
    SPEAKER_TABLES,
    UTTERANCE_TABLES,
    PathLike,
    first_unsorted,
    parse_number,
    parse_segment,
    read_lists,
    read_map,
    read_segments,
    spk2utt,
)
from sdpn_k2.kaldi.formats import words

_POSITIVE = ("utt2dur", "utt2num_frames", "reco2dur", "utt2warp", "spk2warp", "utt2max_frames", "reco2num_spk")
_WHOLE = ("utt2num_frames", "utt2max_frames", "reco2num_spk")
_WARPS = ("utt2warp", "spk2warp")  # Kaldi accepts values between 0.5 and 1.5


class Fault(NamedTuple):
    """A line that is not valid: its 1-based number in the table, its key and what is wrong."""

    number: int
    key: str
    reason: str


def faults(name: str, table: Mapping[str, str]) -> Iterator[Fault]:
    """Yield what is wrong with single lines of the table in the file ``name``, such as "utt2dur"."""
    keys, values = "".join(table), "".join(table.values())
    if not (keys.isascii() and keys.isprintable()) or " " in keys:
        for number, key in enumerate(table, start=1):
            if not words.is_key(key):
                yield Fault(number, key, f"{key!r} is not a valid key: it has white space or control characters")
    # Line by line only where something is special, since large corpora have a million lines.
    blank = "" in table.values() and name != "text"
    if blank or "\r" in values or _is_special(name, table, values):
        for number, (key, value) in enumerate(table.items(), start=1):
            reason = _fault_of_value(name, key, value)
            if reason and words.is_key(key):
                yield Fault(number, key, reason)


def _is_special(name: str, table: Mapping[str, str], values: str) -> bool:
    """Return whether a value may be wrong. ``values`` are all of them as one string."""
    if name == "text":
        return not values.isascii()
    if name == "utt2spk":
        return not (values.isascii() and values.isprintable()) or " " in values
    if name in _POSITIVE:
        try:
            numbers = list(map(float, table.values()))
        except ValueError:
            return True
        if name in _WHOLE and not all(map(float.is_integer, numbers)):
            return True
        good = values.isascii() and "_" not in values and math.isfinite(sum(numbers))
        return not good or name in _WARPS or min(numbers, default=1) <= 0
    return name in ("segments", "spk2gender")


def _fault_of_value(name: str, key: str, value: str) -> str:
    """Return what is wrong with the value of ``key``; "" if nothing is."""
    if "\r" in value:
        return f"the value of '{key}' has a carriage return"
    if name == "text":
        foreign = not value.isascii() and any("\udc80" <= letter <= "\udcff" for letter in value)
        return f"the text of '{key}' is not UTF-8" if foreign else ""
    if not value:
        return f"'{key}' has no value"
    try:
        if name == "segments":
            recording = parse_segment(key, value).recording
            return (
                "" if words.is_key(recording) else f"'{key}' has the recording {recording!r}, which is not a valid key"
            )
        if name in _POSITIVE:
            number = parse_number("", key, value)
            if number <= 0:
                return f"{value} of '{key}' must be above zero"
            if name in _WHOLE and not number.is_integer():
                return f"{value} of '{key}' must be a whole number"
            if name in _WARPS and not 0.5 < number < 1.5:
                return f"{value} of '{key}' must lie between 0.5 and 1.5"
    except InputError as error:
        return str(error)
    if name == "utt2spk" and not words.is_key(value):
        return f"expected one utterance and one speaker, got '{key} {value}'"
    if name == "spk2gender" and value not in ("m", "f"):
        return f"the gender of '{key}' must be m or f, got '{value}'"
    return ""


def validate(
    directory: PathLike, feats: bool = True, text: bool = True, wav: bool = True, speaker_order: bool = True
) -> int:
    """Check a data directory as Kaldi's utils/validate_data_dir.sh does.

    Tables that exist are always checked.

    Args:
        directory: the data directory.
        feats: require feats.scp.
        text: require text.
        wav: require wav.scp.
        speaker_order: require that utterances sorted by id are also sorted by speaker.

    Returns:
        The number of utterances.

    Raises:
        InputError: something is wrong; the message names the first file and line.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory}: the data directory does not exist")
    wanted = ["utt2spk", "spk2utt"] + ["wav.scp"] * wav + ["feats.scp"] * feats + ["text"] * text
    for name in wanted:
        if not (directory / name).is_file():
            raise InputError(f"{directory / name}: no such file")

    speaker_of = _read_sorted(directory / "utt2spk")
    if not speaker_of:
        raise InputError(f"{directory / 'utt2spk'}: there are no utterances")
    _check_speakers(directory, speaker_of, speaker_order)
    recordings = _check_recordings(directory, speaker_of)

    for names, ids, where in (
        (UTTERANCE_TABLES, speaker_of, "utt2spk"),
        (SPEAKER_TABLES, spk2utt(speaker_of), "spk2utt"),
        (RECORDING_TABLES, recordings, "wav.scp"),
    ):
        for name in names:
            path = directory / name
            if ids is not None and path.is_file():
                table = _read_sorted(path)
                _check_same_ids(path, table, directory / where, ids)
    return len(speaker_of)


def _read_sorted(path: Path) -> Dict[str, str]:
    """Read a table whose lines are valid and whose keys ascend."""
    table = read_map(path)
    for fault in faults(path.name, table):
        raise InputError(f"{path}:{fault.number}: {fault.reason}")
    number = first_unsorted(list(table))
    if number:
        raise InputError(
            f"{path}:{number}: '{list(table)[number - 1]}' is not in C-locale order "
            f"(run utils/fix_data_dir.sh {path.parent}, and sort with LC_ALL=C)"
        )
    return table


def _check_speakers(directory: Path, speaker_of: Mapping[str, str], speaker_order: bool) -> None:
    path = directory / "utt2spk"
    number = first_unsorted(list(speaker_of.values())) if speaker_order else 0
    if number:
        raise InputError(
            f"{path}:{number}: speaker '{list(speaker_of.values())[number - 1]}' is out of order, although utterances "
            "are sorted: let every utterance id begin with its speaker id"
        )

    path = directory / "spk2utt"
    _read_sorted(path)
    expected = spk2utt(speaker_of)
    given = read_lists(path)
    for number, (speaker, utterances) in enumerate(given.items(), start=1):
        if utterances != expected.get(speaker):
            raise InputError(
                f"{path}:{number}: the utterances of speaker '{speaker}' differ from utt2spk "
                f"(run utils/fix_data_dir.sh {directory})"
            )
    _check_same_ids(path, given, directory / "utt2spk", expected)


def _check_recordings(directory: Path, speaker_of: Mapping[str, str]) -> Optional[Mapping[str, object]]:
    """Check wav.scp and segments against each other; return the recordings, or None if there is no wav.scp."""
    wav_path, segments_path = directory / "wav.scp", directory / "segments"
    wav = _read_sorted(wav_path) if wav_path.is_file() else None
    if not segments_path.is_file():
        if wav is not None:
            _check_same_ids(wav_path, wav, directory / "utt2spk", speaker_of)
        return wav
    _read_sorted(segments_path)
    segments = read_segments(segments_path)
    _check_same_ids(segments_path, segments, directory / "utt2spk", speaker_of)
    if wav is not None:
        for number, segment in enumerate(segments.values(), start=1):
            if segment.recording not in wav:
                raise InputError(f"{segments_path}:{number}: recording '{segment.recording}' is not in {wav_path}")
        _check_same_ids(wav_path, wav, segments_path, {segment.recording: None for segment in segments.values()})
    return wav


def _check_same_ids(path: Path, table: Mapping[str, object], other: Path, ids: Mapping[str, object]) -> None:
    """Check that the keys of the table are exactly ``ids``, which come from the file ``other``."""
    if table.keys() == ids.keys():
        return
    for number, key in enumerate(table, start=1):
        if key not in ids:
            raise InputError(f"{path}:{number}: '{key}' is not in {other} (run utils/fix_data_dir.sh {path.parent})")
    if len(table) < len(ids):
        first = next(key for key in ids if key not in table)
        raise InputError(
            f"{path}: {len(ids) - len(table)} of {len(ids)} ids in {other} are missing; the first is '{first}' "
            f"(run utils/fix_data_dir.sh {path.parent})"
        )
