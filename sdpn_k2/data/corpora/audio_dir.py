"""A folder of audio: one subfolder per set, in it one per speaker.

::

    <root>/train/<speaker>/<utterance>.wav    training set; its speaker labels are kept but never trained on
    <root>/dev/<speaker>/<utterance>.flac     every other subfolder with a trial list is an evaluation set
    <root>/dev/trials                         lines "utterance utterance target|nontarget"
    <root>/{noise,music,speech,rir}/          for augmentation, each optional

Any format, rate and number of channels that libsndfile reads (m4a and the like through ffmpeg); deeper folders under a
speaker are allowed. An utterance's id is ``<speaker>-<path below the speaker>``, without the speaker where that path
begins with ``<speaker>-`` already. Trial lists may give the id, the path below the speaker, or the file's name, with or
without suffix. There may be several, called ``trials_<name>``.

A speaker is called as its folder, with ``_`` for white space, ``-`` and what sorts before ``-`` (``! " # $ % & ' ( ) * +
,``): else the utterances of ``anna-maria`` would sort in between those of ``anna``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Mapping

from sdpn_k2.data.manifests import (
    AUGMENTATION,
    add_utterance,
    clear_set,
    find_audio,
    list_recordings,
    log,
    make_id,
    scan_audio,
    write_augmentation,
    write_eval_sets,
    write_set,
    write_trials,
)
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import trial_lists


def prepare_audio_dir(
    root: str | Path,
    data: str | Path,
    folders: Mapping[str, str | Path] | None = None,
    channel: int = 0,
    num_jobs: int | None = None,
    max_bad: float = 5.0,
) -> list[str]:
    """Write manifests and Kaldi data directories for an audio folder.

    Args:
        root: the audio folder.
        data: where to write (see :mod:`sdpn_k2.data.manifests`).
        folders: set or augmentation kind → its folder, where that is not ``root/<name>``.
        channel: the channel to use of recordings with several, from 0.
        num_jobs: threads; by default one per core.
        max_bad: percentage of unusable audio, per set, above which to give up.

    Returns:
        The names of the evaluation sets.

    Raises:
        InputError: no training audio, one id twice, unknown ids or wrong fields in a trial list, too much unusable
            audio.
    """
    root, data = Path(root), Path(data)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    places = {path.name: path for path in sorted(root.iterdir()) if path.is_dir()}
    places.update({name: Path(folder) for name, folder in (folders or {}).items()})
    if "train" not in places:
        raise InputError(f"{root / 'train'}: no such folder: training audio goes to train/<speaker>/<utterance>.wav")
    trials = {
        name: trial_lists(place)
        for name, place in sorted(places.items())
        if name != "train" and name not in AUGMENTATION
    }
    options = {"num_jobs": num_jobs, "max_bad": max_bad}

    for name in ["train", *(name for name, lists in trials.items() if lists)]:
        clear_set(data / name, places[name])
        locations, speakers, aliases = list_utterances(places[name])
        scan = scan_audio(locations, name, channel, **options)
        write_set(data, name, scan, speakers, channel)
        for path in trials.get(name, []):
            write_trials(path, data / name / path.name, scan, aliases)
    for name in [name for name, lists in trials.items() if not lists]:
        log.info("%s: left out, as it has no file trials or trials_<name>", places[name])
    kinds = {kind: list_recordings(places[kind]) for kind in AUGMENTATION if kind in places}
    write_augmentation(data, kinds, **options)
    eval_sets = [name for name, lists in trials.items() if lists]
    write_eval_sets(data, eval_sets)
    return eval_sets


def list_utterances(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, str | None]]:
    """List ``<speaker>/…/<utterance>.<suffix>`` under a folder.

    Returns:
        locations: utterance id → path or command.
        speakers: utterance id → speaker.
        aliases: other names for an utterance → its id, or None where a name fits several.

    Raises:
        InputError: no audio, audio outside a speaker's folder, one id twice, two folders of one speaker.
    """
    locations: dict[str, str] = {}
    speakers: dict[str, str] = {}
    aliases: dict[str, str | None] = {}
    folders: dict[str, str] = {}
    for path in find_audio(folder):
        relative = path.relative_to(os.path.abspath(folder))
        if len(relative.parts) < 2:
            raise InputError(f"{path}: audio must be in a folder named after its speaker: <speaker>/{path.name}")
        name, below = make_id(relative.parts[0]), make_id(*relative.with_suffix("").parts[1:])
        # Sorted utterances must also be sorted by speaker. So only a hyphen will do after it: "s1_a" sorts after
        # "s10_a"; and the name itself may hold nothing that sorts before a hyphen, nor one.
        speaker = re.sub("[!-\\-]", "_", name)
        if folders.setdefault(speaker, relative.parts[0]) != relative.parts[0]:
            raise InputError(
                f"{folder}: '{folders[speaker]}' and '{relative.parts[0]}' both become speaker "
                f"'{speaker}': rename one of them, or make them one folder"
            )
        below_speaker = below[len(name) + 1 :] if below.startswith(f"{name}-") else below
        utterance = f"{speaker}-{below_speaker}"
        add_utterance(locations, utterance, path)
        speakers[utterance] = speaker
        as_named = f"{name}-{below_speaker}"
        for alias in {below, as_named, path.stem, path.name, relative.as_posix(), relative.with_suffix("").as_posix()}:
            aliases[alias] = utterance if aliases.get(alias, utterance) == utterance else None
    return locations, speakers, aliases
