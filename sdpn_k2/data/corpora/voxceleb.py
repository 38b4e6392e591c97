"""VoxCeleb: training on VoxCeleb2-dev without labels, evaluation on the VoxCeleb1-O, -E and -H trial lists.

Any layout in which files lie as ``…/id10270/5r0dWxy17C8/00001.wav`` below the root, in wav or any other format; m4a,
as VoxCeleb2 comes, is decoded by ffmpeg each time it is read, so convert it where there is room. lhotse's recipes
serve for MUSAN and RIRS_NOISES. Its VoxCeleb recipe does not: it trains on VoxCeleb1-dev and VoxCeleb2-test too, but E
and H test on VoxCeleb1-dev, and it fetches its trial list from the network. Here trial lists are local files, and only
utterances that they name are prepared, as the set ``vox1``.

Utterance ids are those of Kaldi's voxceleb recipes: ``id10270-5r0dWxy17C8-00001``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Iterator, Mapping

from sdpn_k2.data.manifests import (
    LIBSNDFILE_SUFFIXES,
    clear_set,
    find_audio,
    locate,
    log,
    make_id,
    refuse_unknown,
    scan_audio,
    write_augmentation,
    write_eval_sets,
    write_set,
    write_trials,
)
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.trials import Trial

EVAL_SET = "vox1"
# Our name of a trial list → what the file is called where it is published.
TRIAL_LISTS = {
    "o": ("veri_test.txt",),
    "o_cleaned": ("veri_test2.txt", "voxceleb1_test_v2.txt"),
    "e": ("list_test_all.txt",),
    "e_cleaned": ("list_test_all2.txt",),
    "h": ("list_test_hard.txt",),
    "h_cleaned": ("list_test_hard2.txt",),
}
SPEAKER = re.compile(r"id\d{5}")
TRIAL = re.compile(r"([01])\s+(id\d{5}/[^\s/]+/[^\s/]+)\.wav\s+(id\d{5}/[^\s/]+/[^\s/]+)\.wav")


def prepare_voxceleb(
    voxceleb1: str | Path,
    voxceleb2: str | Path,
    data: str | Path,
    trials: str | Path | None = None,
    musan: str | Path | None = None,
    rirs_noises: str | Path | None = None,
    num_jobs: int | None = None,
    max_bad: float = 5.0,
) -> list[str]:
    """Write manifests and data directories for VoxCeleb.

    Args:
        voxceleb1: VoxCeleb1, dev and test (test alone is enough for the O lists).
        voxceleb2: VoxCeleb2; its test part, where it is there too, is left out.
        data: where to write (see :mod:`sdpn_k2.data.manifests`).
        trials: folder of trial lists as published (``veri_test2.txt`` …); by default they are looked for under
            voxceleb1.
        musan: MUSAN, for noise, music and speech.
        rirs_noises: RIRS_NOISES, for impulse responses, measured and simulated.
        num_jobs: threads; by default one per core.
        max_bad: percentage of unusable audio, per set, above which to give up.

    Returns:
        The names of the trial lists found.

    Raises:
        InputError: no such root, no trial list, a trial of an unknown utterance or with wrong fields, an evaluated
            speaker in the training set, too much unusable audio, ffmpeg needed and not there.
    """
    data = Path(data)
    options = {"num_jobs": num_jobs, "max_bad": max_bad}
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
        locations = {utterance: locate(path) for utterance, path in utterances.items()}
        scan = scan_audio(locations, name, **options)
        write_set(data, name, scan, {utterance: speaker_of(utterance) for utterance in utterances})
    for name, path in lists.items():
        write_trials(path, data / EVAL_SET / f"trials_{name}", scan, read=read_trial_list)
    write_augmentation(data, kinds, **options)
    write_eval_sets(data, [EVAL_SET])
    return list(lists)


# Speech


def find_utterances(root: str | Path, leave_out_test: bool = False) -> dict[str, Path]:
    """List ``…/<speaker>/<video>/<file>`` under a root as utterance id → path, sorted by id.

    Of an utterance that is there as published and converted, the file that needs no ffmpeg is taken.

    Args:
        leave_out_test: leave out the test part: folders above the speakers with "test" in their names, and the speakers
            that ``vox2_meta.csv``, where it lies in the root, says are of the test set.

    Raises:
        InputError: no such folder, no audio in this layout.
    """
    root = Path(os.path.abspath(root))
    test_speakers = _test_speakers(root / "vox2_meta.csv") if leave_out_test else set()
    utterances: dict[str, Path] = {}
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
                utterances[utterance] = path
    if not utterances:
        raise InputError(f"{root}: no audio here lies as id10270/5r0dWxy17C8/00001.wav, as VoxCeleb's does")
    if num_test:
        log.info("%s: left out %d files of the test part", root, num_test)
    if num_others:
        log.warning("%s: left out %d audio files that do not lie as VoxCeleb's do", root, num_others)
    return dict(sorted(utterances.items()))


def speaker_of(utterance: str) -> str:
    """The speaker that a VoxCeleb utterance id begins with."""
    return utterance.split("-", 1)[0]


def _test_speakers(meta: Path) -> set[str]:
    """Speakers of VoxCeleb2-test by lines ``id00017 ,n000018 ,m ,test``; none where there is no such file."""
    if not meta.is_file():
        return set()
    rows = (line.split(",") for line in meta.read_text(encoding="utf-8").splitlines())
    return {row[0].strip() for row in rows if row[-1].strip() == "test"}


def _refuse_shared_speakers(train: Mapping[str, Path], evaluated: set[str], voxceleb2: str | Path) -> None:
    shared = {speaker_of(utterance) for utterance in train} & {speaker_of(utterance) for utterance in evaluated}
    if shared:
        raise InputError(
            f"{voxceleb2}: {len(shared)} speakers to train on are in the trial lists, such as {min(shared)}: "
            "give the root of VoxCeleb2, and nothing of VoxCeleb1"
        )


# Trials


def find_trial_lists(folder: Path) -> dict[str, Path]:
    """Find the published trial lists anywhere under a folder: our name (``o``, ``o_cleaned`` …) → path.

    Raises:
        InputError: there is none.
    """
    found: dict[str, Path] = {}
    wanted = {file_name: name for name, file_names in TRIAL_LISTS.items() for file_name in file_names}
    for parent, folders, file_names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not SPEAKER.fullmatch(name))
        for file_name in sorted(wanted.keys() & set(file_names)):
            found.setdefault(wanted[file_name], Path(parent, file_name))
    if not found:
        raise InputError(
            f"{folder}: no trial list here ({', '.join(wanted)}): fetch those you want from VoxCeleb's page "
            "and name their folder with --trials-dir"
        )
    return {name: found[name] for name in TRIAL_LISTS if name in found}


def read_trial_list(path: Path) -> Iterator[Trial]:
    """Stream a published list: lines ``1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav``.

    Raises:
        InputError: no such file; a line of another form.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            for number, line in enumerate(stream, start=1):
                match = TRIAL.fullmatch(line.strip())
                if not match:
                    raise InputError(
                        f"{path}:{number}: expected '1|0 <speaker>/<video>/<file>.wav <speaker>/<video>/<file>.wav', "
                        f"got '{line.strip()}'"
                    )
                target, enroll, test = match.groups()
                yield Trial(enroll.replace("/", "-"), test.replace("/", "-"), target == "1")
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error


# Augmentation


def list_musan(root: str | Path | None) -> dict[str, dict[str, str]]:
    """List those of noise, music and speech that a MUSAN root has: kind → (id → path).

    Raises:
        InputError: no such folder, or none of the three in it.
    """
    from lhotse.recipes import prepare_musan

    if not root:
        return {}
    kinds = [kind for kind in ("noise", "music", "speech") if Path(root, kind).is_dir()]
    if not kinds:
        raise InputError(f"{root}: not MUSAN: neither noise nor music nor speech is in it")
    parts = _run_lhotse(prepare_musan, root, kinds)
    return {kind: _locations(parts[kind]["recordings"]) for kind in kinds}


def list_impulse_responses(root: str | Path | None) -> dict[str, dict[str, str]]:
    """List the measured and simulated impulse responses of a RIRS_NOISES root: ``rir`` → (id → path).

    Raises:
        InputError: no such folder, or none of them in it.
    """
    from lhotse.recipes import prepare_rir_noise

    if not root:
        return {}
    folders = {"real_rir": "real_rirs_isotropic_noises", "sim_rir": "simulated_rirs"}
    parts = [part for part, folder in folders.items() if Path(root, folder).is_dir()]
    if not parts:
        raise InputError(f"{root}: not RIRS_NOISES: neither {' nor '.join(folders.values())} is in it")
    locations: dict[str, str] = {}
    for part in _run_lhotse(prepare_rir_noise, root, parts).values():
        locations.update(_locations(part["recordings"]))
    return {"rir": locations}


def _run_lhotse(recipe, root: str | Path, parts: list[str]):
    """Run a recipe of lhotse; what it stumbles over becomes one line."""
    try:
        return recipe(os.path.abspath(root), parts=parts)
    except Exception as error:  # assertions, missing values, whatever the audio backend raises
        raise InputError(f"{root}: lhotse's {recipe.__name__} fails: {' '.join(str(error).split())[:300]}") from error


def _locations(recordings) -> dict[str, str]:
    return {recording.id: recording.sources[0].source for recording in recordings}
