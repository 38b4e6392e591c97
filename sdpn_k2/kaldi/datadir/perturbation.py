"""Copies of data directories whose speech is faster, slower, louder or quieter, as Kaldi's scripts make them.

The audio changes when it is read: each entry of wav.scp gets a call of ``sox``. Without sox on PATH,
utils/kaldi-bin/sox runs these calls.
"""

import random
import re
import shlex
from pathlib import Path
from typing import Dict, Mapping, Tuple

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir import data_dir
from sdpn_k2.kaldi.datadir.data_dir import PathLike
from sdpn_k2.kaldi.datadir.data_dir_ops import Table, key_kind, read_tables, restrict, write_tables
from sdpn_k2.kaldi.formats import words

_OFFSET = re.compile(r":\d+$")


def perturb_speed(source: PathLike, destination: PathLike, factor: str, speaker_prefix: bool = True) -> None:
    """Write a data directory whose recordings are ``factor`` times as fast (utils/perturb_data_dir_speed.sh).

    Ids get the prefix ``sp<factor>-``, and utt2uniq keeps the old names of utterances. Features and VAD decisions do
    not hold for the result, and are left out. Segments that would last at most 0.01 s are dropped.

    Args:
        source: the data directory; utt2dur and reco2dur are used where they exist.
        destination: another folder.
        factor: the factor as it appears in ids and commands, such as "0.9".
        speaker_prefix: whether speakers (and recordings that segments refer to) get the prefix, too.

    Raises:
        InputError: the factor is not a positive number, or the folders are the same.
    """
    if Path(source).resolve() == Path(destination).resolve():
        raise InputError(f"{source}: the perturbed copy needs another directory")
    speed = data_dir.parse_number("", "factor", factor)
    if speed <= 0:
        raise InputError(f"the factor of the speed must be above zero, got '{factor}'")
    tables = read_tables(source)
    prefix = f"sp{factor}-"
    other = prefix if speaker_prefix else ""
    recording = other if "segments" in tables else prefix
    of_kind = {"utterances": prefix, "speakers": other, "recordings": recording}
    made: Dict[str, Table] = {
        name: {of_kind[key_kind(name)] + key: value for key, value in tables[name].items()}
        for name in ("text", "spk2gender", "utt2lang", "reco2file_and_channel")
        if name in tables
    }
    made["utt2spk"] = {prefix + key: other + speaker for key, speaker in tables["utt2spk"].items()}
    old_names = tables["utt2uniq"] if "utt2uniq" in tables else {name: name for name in tables["utt2spk"]}
    made["utt2uniq"] = {prefix + key: value for key, value in old_names.items()}
    if "wav.scp" in tables:
        made["wav.scp"] = {
            recording + key: through_sox(entry, effect=f"speed {factor}") for key, entry in tables["wav.scp"].items()
        }
    for name in ("utt2dur", "reco2dur"):
        if name in tables:
            seconds = data_dir.read_numbers(Path(source) / name)
            made[name] = {of_kind[key_kind(name)] + key: _awk_number(value / speed) for key, value in seconds.items()}
    if "segments" in tables:
        made["segments"] = {}
        for utterance, (name, start, end) in data_dir.read_segments(Path(source) / "segments").items():
            if end == -1:
                made["segments"][prefix + utterance] = f"{recording}{name} {start / speed:.2f} -1"
            elif end / speed > start / speed + 0.01:
                made["segments"][prefix + utterance] = f"{recording}{name} {start / speed:.2f} {end / speed:.2f}"
    write_tables(destination, restrict(made, made.get("segments", made["utt2spk"])))


def perturb_volume(entries: Mapping[str, str], volumes: Mapping[str, float]) -> Dict[str, str]:
    """Return the entries of wav.scp with the volume of each recording multiplied by that in ``volumes``.

    Raises:
        InputError: a recording has no volume.
    """
    perturbed = {}
    for recording, entry in entries.items():
        if recording not in volumes:
            raise InputError(f"there is no volume for recording '{recording}'")
        perturbed[recording] = through_sox(entry, option=f"--vol {volumes[recording]}")
    return perturbed


def is_volume_perturbed(entry: str) -> bool:
    """Return whether a call of sox that changes the volume makes the whole recording."""
    return "sox --vol" in " ".join(words.split(entry)[-10:]) if entry.endswith("|") else False


def draw_volumes(recordings: Mapping[str, object], limits: Tuple[float, float], seed: int = 0) -> Dict[str, float]:
    """Return a random volume for each recording, uniform between the limits: the numbers that Kaldi's script draws."""
    generator = random.Random(seed)
    return {recording: generator.uniform(*limits) for recording in recordings}


def through_sox(entry: str, option: str = "", effect: str = "") -> str:
    """Return an entry of wav.scp, a file, ``archive:offset`` or ``command |``, as it sounds after sox.

    Args:
        entry: the entry.
        option: options of sox before its input, such as ``--vol 0.5``.
        effect: an effect with its arguments, such as ``speed 0.9``.
    """
    sox = " ".join(filter(None, ["sox", option, "-t wav {} -t wav -", effect, "|"]))
    if entry.endswith("|"):
        return f"{words.strip(entry[:-1])} | {sox.format('-')}"
    if _OFFSET.search(entry):
        return f"wav-copy {shlex.quote(entry)} - | {sox.format('-')}"
    return sox.format(shlex.quote(entry))


def _awk_number(value: float) -> str:
    """Return a number as awk prints it."""
    return str(int(value)) if value.is_integer() else f"{value:.6g}"
