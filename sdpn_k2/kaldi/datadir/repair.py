"""Repair Kaldi data directories, as Kaldi's utils/fix_data_dir.sh does."""

import shutil
from pathlib import Path
from typing import Collection, Dict, List, Sequence

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import RECORDING_TABLES, SPEAKER_TABLES, PathLike, parse_segment, write_map
from sdpn_k2.kaldi.datadir.data_dir_ops import ALL_TABLES, Tables, restrict, write_tables
from sdpn_k2.kaldi.formats import words

# ``fix`` drops an utterance if it, its speaker or its recording is missing from one of these tables.
NEEDED_TABLES = ("segments", "wav.scp", "text", "feats.scp", "vad.scp", "utt2lang", "cmvn.scp", "spk2gender")


def fix(directory: PathLike, utterance_extra: Sequence[str] = (), speaker_extra: Sequence[str] = ()) -> List[str]:
    """Repair a data directory in place: sort its tables, and drop utterances that are not in all of them.

    First, blank lines, Windows line ends, repeated lines, keys without a value and invalid segments are removed. Then
    an utterance is dropped if an existing table lacks its segment, recording, features, VAD, text or language. The same
    holds if its speaker lacks CMVN statistics or a gender. Any other table that lacks an id is removed, except
    utt2uniq, which is completed. The old files are kept in ``directory``/.backup.

    Args:
        directory: the data directory.
        utterance_extra: file names of further tables from which lines of dropped utterances are removed.
        speaker_extra: file names of further tables from which lines of dropped speakers are removed.

    Raises:
        InputError: a key has two different values, no utterance would be left, or a file cannot be written.
    """
    directory = Path(directory)
    if not (directory / "utt2spk").is_file():
        raise InputError(f"{directory / 'utt2spk'}: no such file (is this a data directory?)")
    notes: List[str] = []
    present = [name for name in ALL_TABLES if (directory / name).is_file()]
    tables = {name: _read_leniently(directory / name, notes) for name in present}
    if "segments" in tables:
        tables["segments"] = _good_segments(tables["segments"], directory / "segments", notes)

    total = len(tables["utt2spk"])
    tables = restrict(tables, _complete_utterances(tables))
    kept = len(tables["utt2spk"])
    if not kept:
        names = ", ".join(sorted(tables))
        raise InputError(f"{directory}: no utterance is in all of {names}; nothing was changed")
    speakers = set(tables["utt2spk"].values())
    if "utt2uniq" in tables:
        tables["utt2uniq"] = {name: tables["utt2uniq"].get(name, name) for name in tables["utt2spk"]}
    for name in [name for name in tables if name not in NEEDED_TABLES]:
        ids: Collection[str] = tables.get("wav.scp", {}) if name in RECORDING_TABLES else tables["utt2spk"]
        if name in SPEAKER_TABLES:
            ids = speakers
        if len(tables[name]) < len(ids):
            notes.append(f"removed {name}: it lacks {len(ids) - len(tables[name])} ids; create it again")
            del tables[name]
    extra: Tables = {}
    for extra_names, kept_ids in ((utterance_extra, set(tables["utt2spk"])), (speaker_extra, speakers)):
        for name in extra_names:
            if name not in ALL_TABLES and (directory / name).is_file():
                table = _read_leniently(directory / name, notes)
                extra[name] = {key: table[key] for key in table if key in kept_ids}

    backup = directory / ".backup"
    backup.mkdir(exist_ok=True)
    for name in [*present, *extra, "spk2utt"]:
        if (directory / name).is_file():
            shutil.copy2(directory / name, backup / name)
    write_tables(directory, tables)
    for name, table in extra.items():
        write_map(directory / name, table)
    if kept < total:
        notes.append(f"kept {kept} utterances out of {total}; old files are in {backup}")
    else:
        notes.append(f"kept all {total} utterances")
    return notes


def _complete_utterances(tables: Tables) -> List[str]:
    """Return the utterances that are in all existing tables of NEEDED_TABLES."""
    needed = {name: tables[name] for name in NEEDED_TABLES if name in tables}
    segments, wav = needed.get("segments"), needed.pop("wav.scp", None)
    speaker_tables = [table for name, table in needed.items() if name in SPEAKER_TABLES]
    utterance_tables = [table for name, table in needed.items() if name not in SPEAKER_TABLES]
    complete = []
    for utterance, speaker in tables["utt2spk"].items():
        if not all(utterance in table for table in utterance_tables):
            continue
        recording = words.split(segments[utterance])[0] if segments is not None else utterance
        if all(speaker in table for table in speaker_tables) and (wav is None or recording in wav):
            complete.append(utterance)
    return complete


def _read_leniently(path: Path, notes: List[str]) -> Dict[str, str]:
    table: Dict[str, str] = {}
    dropped = 0
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        fields = line.split(None, 1)
        if not fields:
            continue
        key = fields[0].decode("utf-8", "surrogateescape")
        value = fields[1].rstrip().decode("utf-8", "surrogateescape") if len(fields) > 1 else ""
        if not value and path.name != "text":
            dropped += 1
        elif table.setdefault(key, value) != value:
            raise InputError(
                f"{path}:{number}: '{key}' has the value '{value}' here and '{table[key]}' before: remove one of them"
            )
    if dropped:
        notes.append(f"{path.name}: dropped {dropped} lines without a value")
    return table


def _good_segments(segments: Dict[str, str], path: Path, notes: List[str]) -> Dict[str, str]:
    good = {}
    for utterance, value in segments.items():
        try:
            parse_segment(utterance, value, str(path))
            good[utterance] = value
        except InputError as error:
            notes.append(f"dropped a segment: {error}")
    return good
