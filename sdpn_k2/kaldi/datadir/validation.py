"""Check Kaldi data directories, as Kaldi's utils/validate_data_dir.sh does."""

from pathlib import Path
from typing import Dict, Iterable, Mapping, Optional

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import (
    RECORDING_TABLES,
    SPEAKER_TABLES,
    UTTERANCE_TABLES,
    PathLike,
    byte_order,
    parse_number,
    read_lists,
    read_map,
    read_segments,
    spk2utt,
)

# Tables whose values are positive numbers.
_POSITIVE = ("utt2dur", "utt2num_frames", "reco2dur", "utt2warp", "spk2warp", "utt2max_frames", "reco2num_spk")


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
                _check_values(path, table)
    return len(speaker_of)


def _read_sorted(path: Path) -> Dict[str, str]:
    table = read_map(path)
    number = _first_unsorted(table)
    if number:
        raise InputError(
            f"{path}:{number}: '{list(table)[number - 1]}' is not in C-locale order "
            f"(run utils/fix_data_dir.sh {path.parent}, and sort with LC_ALL=C)"
        )
    return table


def _first_unsorted(keys: Iterable[str]) -> int:
    """Return the 1-based position of the first key that sorts before its predecessor in C locale, or 0 if none does."""
    ordered = list(map(byte_order, keys))
    if ordered == sorted(ordered):
        return 0
    return next(number for number in range(2, len(ordered) + 1) if ordered[number - 1] < ordered[number - 2])


def _check_speakers(directory: Path, speaker_of: Mapping[str, str], speaker_order: bool) -> None:
    path = directory / "utt2spk"
    for number, (utterance, speaker) in enumerate(speaker_of.items(), start=1):
        if " " in speaker or "\t" in speaker:
            raise InputError(f"{path}:{number}: expected one utterance and one speaker, got '{utterance} {speaker}'")
    number = _first_unsorted(speaker_of.values())
    if speaker_order and number:
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


def _check_values(path: Path, table: Mapping[str, str]) -> None:
    name = path.name
    if name not in _POSITIVE + ("spk2gender", "text"):
        return
    for number, (key, value) in enumerate(table.items(), start=1):
        if name in _POSITIVE and not parse_number(f"{path}:{number}", key, value) > 0:
            raise InputError(f"{path}:{number}: {value} of '{key}' must be above zero")
        if name == "spk2gender" and value not in ("m", "f"):
            raise InputError(f"{path}:{number}: the gender of '{key}' must be m or f, got '{value}'")
        if name == "text" and not value.isascii() and any("\udc80" <= letter <= "\udcff" for letter in value):
            raise InputError(f"{path}:{number}: the text of '{key}' is not UTF-8")
