"""Prepare a folder of audio: one subfolder per set, and in it one per speaker.

::

    <root>/train/<speaker>/<utterance>.wav    training set; its speaker labels are kept but never trained on
    <root>/dev/<speaker>/<utterance>.flac     every other subfolder with a trial list is an evaluation set
    <root>/dev/trials                         lines "utterance utterance target|nontarget"
    <root>/{noise,music,speech,rir}/          augmentation material, each optional

Audio may have any format that libsndfile reads (m4a and the like through ffmpeg), any rate and any number of channels.
Speaker folders may have subfolders. An utterance's id is ``<speaker>-<path below the speaker>``; the prefix is not
repeated if that path already begins with ``<speaker>-``. Trial lists may give the id, the path below the speaker, or
the file name, with or without suffix. A set may have several lists, called ``trials_<name>``.

A speaker id is the folder's name with ``_`` in place of white space, ``-`` and every character that sorts before ``-``
(``! " # $ % & ' ( ) * + ,``). Otherwise the utterances of ``anna-maria`` would sort between those of ``anna``.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Mapping, NamedTuple

from sdpn_k2.data.audio_check import scan_audio
from sdpn_k2.data.audio_files import SAMPLE_RATE, add_location, find_audio, list_recordings, make_id
from sdpn_k2.data.data_folder import AUGMENTATION, clear_set, unmark, write_augmentation, write_eval_sets, write_set
from sdpn_k2.data.trial_lists import check_trials, write_trials
from sdpn_k2.errors import MAX_SKIPPED_SHARE, InputError
from sdpn_k2.kaldi.datadir.data_dir import trial_lists
from sdpn_k2.names import check_name

log = logging.getLogger(__name__)


class Utterances(NamedTuple):
    """The utterances in a folder.

    Attributes:
        locations: utterance id → path or command.
        speakers: utterance id → speaker.
        aliases: other names for an utterance → its id, or None for an ambiguous name.
    """

    locations: dict[str, str]
    speakers: dict[str, str]
    aliases: dict[str, str | None]


def prepare_audio_dir(
    root: str | Path,
    data: str | Path,
    folders: Mapping[str, str | Path] | None = None,
    *,
    channel: int = 0,
    unlabelled: bool = False,
    num_jobs: int | None = None,
    max_bad: float = 100 * MAX_SKIPPED_SHARE,
    rate: int = SAMPLE_RATE,
) -> list[str]:
    """Write manifests and Kaldi data directories for an audio folder.

    Args:
        root: the audio folder.
        data: folder to write to (see :mod:`sdpn_k2.data.data_folder`).
        folders: set or augmentation kind → its folder, if it is not ``root/<name>``.
        channel: channel to use in multi-channel files (0-based).
        unlabelled: training audio is any tree of files, without folders of speakers.
        num_jobs: number of threads; by default one per core.
        max_bad: largest percentage of unusable audio per set.
        rate: sample rate of the prepared audio in Hz.

    Returns:
        The names of the evaluation sets.

    Raises:
        InputError: no training audio, duplicate ids, unknown ids or malformed lines in a trial list, too much unusable
            audio.
    """
    root, data = Path(root), Path(data)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    places = {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    places.update({name: Path(folder) for name, folder in (folders or {}).items()})
    if "train" not in places:
        raise InputError(f"{root / 'train'}: no such folder: put training audio into train/<speaker>/<utterance>.wav")
    trials = {
        name: trial_lists(place)
        for name, place in sorted(places.items())
        if name != "train" and name not in AUGMENTATION
    }
    eval_sets = [check_name(name, f"{places[name]}: set") for name, lists in trials.items() if lists]

    unmark(data)
    listed = {
        name: list_utterances(places[name], rate, unlabelled and name == "train") for name in ["train", *eval_sets]
    }
    for name in eval_sets:
        for path in trials[name]:
            check_trials(path, listed[name].locations, listed[name].aliases)
    for name, utterances in listed.items():
        clear_set(data / name, places[name])
        scan = scan_audio(utterances.locations, name, channel=channel, num_jobs=num_jobs, max_bad=max_bad, rate=rate)
        write_set(data, name, scan, utterances.speakers, channel)
        for path in trials.get(name, []):
            write_trials(path, data / name / path.name, scan, aliases=utterances.aliases)
    for name, lists in trials.items():
        if not lists:
            log.info("%s: ignored, since it has no file trials or trials_<name>", places[name])
    kinds = {kind: list_recordings(places[kind], rate) for kind in AUGMENTATION if kind in places}
    write_augmentation(data, kinds, num_jobs=num_jobs, max_bad=max_bad, rate=rate)
    write_eval_sets(data, eval_sets)
    return eval_sets


def list_utterances(folder: Path, rate: int = SAMPLE_RATE, unlabelled: bool = False) -> Utterances:
    """List ``<speaker>/…/<utterance>.<suffix>`` under a folder; if ``unlabelled``, any tree of files.

    Without labels, each utterance is its own speaker.

    Raises:
        InputError: no audio, audio outside a speaker's folder, a duplicate id, two folders with the same speaker id.
    """
    found = Utterances({}, {}, {})
    folders: dict[str, str] = {}
    for path in find_audio(folder):
        relative = path.relative_to(os.path.abspath(folder))
        if unlabelled:
            utterance = make_id(*relative.with_suffix("").parts)
            add_location(found.locations, utterance, path)
            found.speakers[utterance] = utterance
            continue
        if len(relative.parts) < 2:
            raise InputError(
                f"{path}: move it into a folder named after its speaker: <speaker>/{path.name}; training audio without "
                f"speakers may be in one folder, such as {folder.name}/all, or in any tree with --unlabelled"
            )
        name, below = make_id(relative.parts[0]), make_id(*relative.with_suffix("").parts[1:])
        # Sorted utterances must also be sorted by speaker. So the separator is a hyphen ("s1_a" sorts after "s10_a"),
        # and the speaker id contains neither a hyphen nor anything that sorts before it.
        speaker = re.sub("[!-\\-]", "_", name)
        if folders.setdefault(speaker, relative.parts[0]) != relative.parts[0]:
            raise InputError(
                f"{folder}: '{folders[speaker]}' and '{relative.parts[0]}' both become speaker "
                f"'{speaker}': rename or merge them"
            )
        below_speaker = below[len(name) + 1 :] if below.startswith(f"{name}-") else below
        utterance = f"{speaker}-{below_speaker}"
        add_location(found.locations, utterance, path, rate)
        found.speakers[utterance] = speaker
        as_named = f"{name}-{below_speaker}"
        for alias in {below, as_named, path.stem, path.name, relative.as_posix(), relative.with_suffix("").as_posix()}:
            found.aliases[alias] = utterance if found.aliases.get(alias, utterance) == utterance else None
    return found
