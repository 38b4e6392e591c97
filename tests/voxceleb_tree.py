"""A miniature VoxCeleb, MUSAN and RIRS_NOISES in their published layout."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Iterator

import numpy as np
import soundfile

VOX1_DEV = [f"id{10001 + index}" for index in range(4)]
VOX1_TEST = [f"id{10270 + index}" for index in range(3)]
VOX2_TEST = ["id00017", "id00061"]
VIDEOS = {"5r0dWxy17C8": 2, "_x6uYqmx31k": 1}  # YouTube's names may begin with a hyphen or an underscore


def make_voxceleb_tree(root: Path, speech: Iterator[np.ndarray], num_train_speakers: int = 3, m4a: bool = True) -> None:
    """Write vox1, vox2, musan and RIRS_NOISES under ``root``, with three utterances per speaker.

    Args:
        speech: utterances (samples,) at 16 kHz.
        m4a: write some of VoxCeleb2 as m4a, encoded by ffmpeg, instead of wav.
    """
    vox2_dev = [f"id{12 + 3 * index:05d}" for index in range(num_train_speakers)]
    names = {}
    for folder, speakers in {
        "vox1/vox1_dev_wav/wav": VOX1_DEV,
        "vox1/vox1_test_wav/wav": VOX1_TEST,
        "vox2/vox2_dev_aac/dev/aac": vox2_dev,
        "vox2/vox2_test_aac/test/aac": VOX2_TEST,
    }.items():
        for speaker, (video, count) in itertools.product(speakers, VIDEOS.items()):
            for index in range(1, count + 1):
                path = root / folder / speaker / video / f"{index:05d}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, next(speech), 16000, subtype="PCM_16")
                names.setdefault(speaker, []).append(f"{speaker}/{video}/{index:05d}.wav")
                if m4a and folder.startswith("vox2") and video == "_x6uYqmx31k":
                    encode(path)
    (root / "vox2" / "vox2_meta.csv").write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \n" + "".join(f"{s} ,n0 ,m ,dev \n" for s in vox2_dev)
        + "".join(f"{s} ,n0 ,f ,test \n" for s in VOX2_TEST)
    )  # fmt: skip
    write_lists(root / "vox1", names)
    for kind, source in {"noise": "free-sound", "music": "fma", "speech": "librivox"}.items():
        path = root / "musan" / kind / source / f"{kind}-{source}-0000.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, next(speech), 16000)
        (path.parent / "ANNOTATIONS").write_text(f"{path.stem} rock N somebody\n")
    for name in ("simulated_rirs/smallroom/Room001/Room001-00001.wav",
                 "simulated_rirs/largeroom/Room001/Room001-00001.wav",
                 "real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1.wav",
                 "real_rirs_isotropic_noises/RVB2014_type1_noise_largeroom1.wav"):  # fmt: skip
        path = root / "RIRS_NOISES" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        decay = np.exp(-np.arange(4000) / 500) * np.random.default_rng(0).standard_normal(4000)
        soundfile.write(path, 0.5 * decay / np.abs(decay).max(), 16000)


def write_lists(folder: Path, names: dict[str, list[str]]) -> None:
    """Write O (test speakers), E and H (all of VoxCeleb1), original and cleaned (without the last trial)."""
    o = list(itertools.combinations([name for speaker in VOX1_TEST for name in names[speaker]], 2))
    e = list(itertools.combinations([name for speaker in VOX1_DEV + VOX1_TEST for name in names[speaker]], 2))
    for name, pairs in {"veri_test": o, "list_test_all": e, "list_test_hard": e[::-1]}.items():
        lines = [f"{int(a.split('/')[0] == b.split('/')[0])} {a} {b}\n" for a, b in pairs]
        (folder / f"{name}.txt").write_text("".join(lines))
        (folder / f"{name}2.txt").write_text("".join(lines[:-1]))


def encode(wav: Path) -> None:
    """Replace a wav by an m4a."""
    command = ["ffmpeg", "-v", "error", "-i", str(wav), "-c:a", "aac", str(wav.with_suffix(".m4a"))]
    subprocess.run(command, check=True)
    wav.unlink()
