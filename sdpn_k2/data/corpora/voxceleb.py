"""Prepare VoxCeleb: train on VoxCeleb2-dev without labels, evaluate on the VoxCeleb1-O, -E and -H trial lists.

Files may lie anywhere below the root as ``…/id10270/5r0dWxy17C8/00001.wav``, in wav or any other format. VoxCeleb2 is
published as m4a, which ffmpeg decodes on every read: convert it if there is room.

lhotse's recipe lists RIRS_NOISES. Its VoxCeleb recipe is not used: it also trains on VoxCeleb2-test and on
VoxCeleb1-dev, which E and H evaluate, and it downloads its trial list. Here trial lists are local files. Only the
utterances that they name are prepared, as the set ``vox1``.

Utterance ids are those of Kaldi's voxceleb recipes: ``id10270-5r0dWxy17C8-00001``.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from pathlib import Path
from typing import Iterable, Iterator

from sdpn_k2.data.audio_check import scan_audio
from sdpn_k2.data.audio_files import (
    LIBSNDFILE_SUFFIXES,
    SAMPLE_RATE,
    find_audio,
    list_recordings,
    locate,
    make_id,
    walk,
)
from sdpn_k2.data.data_folder import clear_set, write_augmentation, write_eval_sets, write_set
from sdpn_k2.data.trial_lists import refuse_unknown, write_trials
from sdpn_k2.errors import MAX_SKIPPED_SHARE, InputError
from sdpn_k2.kaldi.backend.trials import Trial, read_trials

log = logging.getLogger(__name__)

EVAL_SET = "vox1"
# Name of a trial list here → its published file names.
TRIAL_LISTS = {
    "o": ("veri_test.txt",),
    "o_cleaned": ("veri_test2.txt", "voxceleb1_test_v2.txt"),
    "e": ("list_test_all.txt",),
    "e_cleaned": ("list_test_all2.txt",),
    "h": ("list_test_hard.txt",),
    "h_cleaned": ("list_test_hard2.txt",),
}
SPEAKER = re.compile(r"id\d{5}")


def prepare_voxceleb(
    voxceleb1: str | Path,
    voxceleb2: str | Path,
    data: str | Path,
    *,
    trials: str | Path | None = None,
    musan: str | Path | None = None,
    rirs_noises: str | Path | None = None,
    num_jobs: int | None = None,
    max_bad: float = 100 * MAX_SKIPPED_SHARE,
    rate: int = SAMPLE_RATE,
) -> list[str]:
    """Write manifests and data directories for VoxCeleb.

    Args:
        voxceleb1: VoxCeleb1, dev and test (test alone is enough for the O lists).
        voxceleb2: VoxCeleb2; its test part is ignored.
        data: folder to write to (see :mod:`sdpn_k2.data.data_folder`).
        trials: folder of the published trial lists (``veri_test2.txt`` …); by default voxceleb1 and its subfolders.
        musan: MUSAN, for noise, music and speech.
        rirs_noises: RIRS_NOISES, for measured and simulated impulse responses.
        num_jobs: number of threads; by default one per core.
        max_bad: largest percentage of unusable audio per set.
        rate: sample rate of the prepared audio in Hz.

    Returns:
        The names of the trial lists found.

    Raises:
        InputError: a root or trial list is missing, a trial is malformed or names an unknown utterance, an evaluated
            speaker is in the training set, too much audio is unusable, or ffmpeg is needed and not installed.
    """
    data = Path(data)
    kinds = {**list_musan(musan), **list_impulse_responses(rirs_noises)}
    lists = find_trial_lists(Path(trials or voxceleb1))
    train, vox1 = find_utterances(voxceleb2, leave_out_test=True), find_utterances(voxceleb1)
    evaluated: set[str] = set()
    for path in lists.values():
        names = {name for trial in read_trial_list(path) for name in (trial.enroll, trial.test)}
        refuse_unknown(path, names - vox1.keys())
        evaluated |= names
    _refuse_shared_speakers(train, evaluated, voxceleb2)

    sets = {"train": train, EVAL_SET: {utterance: path for utterance, path in vox1.items() if utterance in evaluated}}
    for name, utterances in sets.items():
        clear_set(data / name, Path(voxceleb1))
        locations = {utterance: locate(path, rate) for utterance, path in utterances.items()}
        scan = scan_audio(locations, name, num_jobs=num_jobs, max_bad=max_bad, rate=rate)
        write_set(data, name, scan, {utterance: speaker_of(utterance) for utterance in utterances})
    for name, path in lists.items():
        write_trials(path, data / EVAL_SET / f"trials_{name}", scan, read=read_trial_list)
    write_augmentation(data, kinds, num_jobs=num_jobs, max_bad=max_bad, rate=rate)
    write_eval_sets(data, [EVAL_SET])
    return list(lists)


# Speech


def find_utterances(root: str | Path, leave_out_test: bool = False) -> dict[str, str]:
    """List ``…/<speaker>/<video>/<file>`` under a root as utterance id → path, sorted by id.

    If an utterance exists both as m4a and converted, the file that needs no ffmpeg is used.

    Args:
        root: a VoxCeleb root.
        leave_out_test: ignore the test part: speakers below a folder with "test" in its name, and the test speakers
            of ``vox2_meta.csv`` in the root.

    Raises:
        InputError: no such folder, or no audio in this layout.
    """
    root = Path(os.path.abspath(root))
    test_speakers = _test_speakers(root / "vox2_meta.csv") if leave_out_test else set()
    utterances: dict[str, str] = {}
    num_others = num_test = 0
    for path in find_audio(root):
        *above, speaker, video, _ = ("", "", *path.relative_to(root).parts)
        if not SPEAKER.fullmatch(speaker):
            num_others += 1
        elif leave_out_test and (speaker in test_speakers or any("test" in folder.lower() for folder in above)):
            num_test += 1
        else:
            utterance = make_id(speaker, video, path.stem)
            if utterance not in utterances or path.suffix.lower() in LIBSNDFILE_SUFFIXES:
                utterances[utterance] = str(path)
    if not utterances:
        raise InputError(f"{root}: no audio in VoxCeleb's layout (id10270/5r0dWxy17C8/00001.wav)")
    if num_test:
        log.info("%s: ignored %d files of the test part", root, num_test)
    if num_others:
        log.warning("%s: ignored %d audio files that are not in VoxCeleb's layout", root, num_others)
    return dict(sorted(utterances.items()))


def speaker_of(utterance: str) -> str:
    """Return the speaker of a VoxCeleb utterance id.

    >>> speaker_of("id10270-5r0dWxy17C8-00001")
    'id10270'
    """
    return utterance.split("-", 1)[0]


def _test_speakers(meta: Path) -> set[str]:
    """Read the speakers of VoxCeleb2-test from lines ``id00017 ,n000018 ,m ,test``; none if there is no such file."""
    if not meta.is_file():
        return set()
    rows = (line.split(",") for line in meta.read_text(encoding="utf-8").splitlines())
    return {row[0].strip() for row in rows if row[-1].strip() == "test"}


def _refuse_shared_speakers(train: Iterable[str], evaluated: set[str], voxceleb2: str | Path) -> None:
    """Raise InputError if a training speaker is also evaluated."""
    shared = {speaker_of(utterance) for utterance in train} & {speaker_of(utterance) for utterance in evaluated}
    if shared:
        raise InputError(
            f"{voxceleb2}: {len(shared)} training speakers are also in the trial lists, such as {min(shared)}: "
            "give the root of VoxCeleb2 alone, without VoxCeleb1"
        )


# Trials


def find_trial_lists(folder: Path) -> dict[str, Path]:
    """Find the published trial lists anywhere under a folder: name (``o``, ``o_cleaned`` …) → path.

    Raises:
        InputError: there are no lists.
    """
    found: dict[str, Path] = {}
    wanted = {file_name: name for name, file_names in TRIAL_LISTS.items() for file_name in file_names}
    for parent, file_names in walk(folder, Counter(), lambda name: SPEAKER.fullmatch(name) is None):
        for file_name in sorted(wanted.keys() & set(file_names)):
            found.setdefault(wanted[file_name], Path(parent, file_name))
    if not found:
        raise InputError(
            f"{folder}: no trial lists ({', '.join(wanted)}): download them from VoxCeleb's page and give their "
            "folder with --trials-dir"
        )
    return {name: found[name] for name in TRIAL_LISTS if name in found}


def read_trial_list(path: Path) -> Iterator[Trial]:
    """Stream a published list with lines ``1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav``.

    Raises:
        InputError: no such file, or a malformed line.
    """
    for trial in read_trials(path):
        yield Trial(_utterance_id(trial.enroll), _utterance_id(trial.test), trial.target)


def _utterance_id(name: str) -> str:
    """Return the utterance id of ``<speaker>/<video>/<file>.wav``."""
    return re.sub(r"\.\w+$", "", name).replace("/", "-")


# Augmentation


def list_musan(root: str | Path | None) -> dict[str, dict[str, str]]:
    """List the noise, music and speech in a MUSAN root: kind → (id → path).

    Raises:
        InputError: no such folder, or it has none of the three.
    """
    if not root:
        return {}
    kinds = [kind for kind in ("noise", "music", "speech") if Path(root, kind).is_dir()]
    if not kinds:
        raise InputError(f"{root}: this is not MUSAN: it has no folder noise, music or speech")
    return {kind: _short_names(list_recordings(Path(root, kind))) for kind in kinds}


def _short_names(locations: dict[str, str]) -> dict[str, str]:
    """Name files without their folder, as MUSAN does, unless several have this name (pieces of musan_split)."""
    stems = {name: make_id(Path(path).stem) for name, path in locations.items()}
    count = Counter(stems.values())
    return {stems[name] if count[stems[name]] == 1 else name: path for name, path in locations.items()}


def list_impulse_responses(root: str | Path | None) -> dict[str, dict[str, str]]:
    """List the measured and simulated impulse responses of a RIRS_NOISES root: ``rir`` → (id → path).

    Raises:
        InputError: no such folder, or it has neither kind.
    """
    from lhotse.recipes import prepare_rir_noise

    if not root:
        return {}
    folders = {"real_rir": "real_rirs_isotropic_noises", "sim_rir": "simulated_rirs"}
    parts = [part for part, folder in folders.items() if Path(root, folder).is_dir()]
    if not parts:
        raise InputError(f"{root}: this is not RIRS_NOISES: it has no folder {' or '.join(folders.values())}")
    locations: dict[str, str] = {}
    for part in _run_lhotse(prepare_rir_noise, root, parts).values():
        locations.update(_locations(part["recordings"]))
    return {"rir": locations}


def _run_lhotse(recipe, root: str | Path, parts: list[str]):
    """Run a recipe of lhotse; its failure becomes an InputError of one line."""
    try:
        return recipe(os.path.abspath(root), parts=parts)
    except Exception as error:  # assertions, missing values, whatever the audio backend raises
        raise InputError(f"{root}: lhotse's {recipe.__name__} failed: {' '.join(str(error).split())[:300]}") from error


def _locations(recordings) -> dict[str, str]:
    return {recording.id: recording.sources[0].source for recording in recordings}
