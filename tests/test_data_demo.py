"""The demo corpus: reproducible bytes, documented sizes, distinct speakers."""

import itertools
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sdpn_k2.data.corpora.demo import (
    ACCENTS,
    NUM_NOISES,
    NUM_RIRS,
    VARIANTS,
    Synthesizer,
    _write_wav,
    draw_speakers,
    draw_text,
    make_demo,
)
from sdpn_k2.errors import InputError

SIZES = {"num_train_speakers": 11, "num_test_speakers": 3, "num_utterances": 3}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "audio"
    counts = make_demo(root, seed=3, num_jobs=2, **SIZES)
    assert counts == {"utterances": 42, "trials": 36, "noises": NUM_NOISES, "rirs": NUM_RIRS}
    return root


def contents(root: Path) -> dict:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_layout_format_and_length(demo):
    utterances = sorted(demo.glob("t*/*/*.wav"))
    assert len(utterances) == 42
    for path in utterances:
        assert path.stem.startswith(path.parent.name + "-")
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 3 <= info.duration <= 8
        assert 0.25 < np.abs(soundfile.read(path)[0]).max() <= 1
    assert len(list((demo / "noise").glob("*.wav"))) == NUM_NOISES
    assert len({path.name.split("-")[0] for path in (demo / "noise").iterdir()}) == 4


def test_trials_are_all_pairs_of_the_test_set(demo):
    names = sorted(path.stem for path in demo.glob("test/*/*.wav"))
    trials = [line.split() for line in (demo / "test" / "trials").read_text().splitlines()]
    assert [tuple(trial[:2]) for trial in trials] == list(itertools.combinations(names, 2))
    for enroll, test, kind in trials:
        assert (kind == "target") == (enroll.split("-")[0] == test.split("-")[0])


@pytest.mark.slow
def test_same_seed_gives_same_bytes_with_any_number_of_jobs(demo, tmp_path):
    make_demo(tmp_path / "again", seed=3, num_jobs=1, **SIZES)
    assert contents(tmp_path / "again") == contents(demo)


def test_another_seed_gives_other_speech_and_replaces_an_old_demo(demo, tmp_path):
    root = tmp_path / "audio"
    shutil.copytree(demo, root)
    before = contents(root)
    make_demo(root, seed=4, num_train_speakers=1, num_test_speakers=2, num_utterances=2)
    after = contents(root)
    assert not any(name.startswith("train/train001") for name in after)
    assert all(before[name] != after[name] for name in after if name.endswith("-00.wav"))
    assert [path.name for path in tmp_path.iterdir()] == ["audio"]


def test_impulse_responses_start_with_the_direct_path_and_decay(demo):
    for path in (demo / "rir").glob("*.wav"):
        response, rate = soundfile.read(path)
        peak = int(np.argmax(np.abs(response)))
        assert peak < 0.011 * rate and np.all(response[:peak] == 0)
        energy = np.cumsum(response[::-1] ** 2)[::-1]
        assert energy[len(energy) * 3 // 4] < 1e-3 * energy[0]


def test_test_speakers_share_no_voices_with_training():
    speakers = draw_speakers(0, 60, 20)
    voices = {subset: [s.variant for s in speakers if s.subset == subset] for subset in ("train", "test")}
    assert len(voices["train"]) == 60 and len(voices["test"]) == 20
    assert not set(voices["train"]) & set(voices["test"])
    assert len(set(voices["test"])) == 10, "two speakers share a voice variant, so the variant alone does not tell"


def test_texts_vary():
    rng = np.random.default_rng(0)
    assert len({draw_text(rng) for _ in range(1000)}) == 1000


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        make_demo(tmp_path, **SIZES)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_too_small_and_unwritable(tmp_path):
    with pytest.raises(InputError, match="at least 1 .* 2 .* 2 "):
        make_demo(tmp_path / "a", num_train_speakers=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/demo: "):
        make_demo(tmp_path / "file" / "demo", **SIZES)
    with pytest.raises(InputError, match="nowhere/a.wav: "):
        _write_wav(tmp_path / "nowhere" / "a.wav", np.zeros(10))


@pytest.mark.parametrize("old", [True, False])
def test_without_the_synthesiser_nothing_is_written(tmp_path, monkeypatch, old):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    root = tmp_path / "audio"
    if old:
        root.mkdir()
        (root / "demo.json").write_text("{}")
    with pytest.raises(InputError, match=r'pip install "sdpn_k2\[demo\]"'):
        make_demo(root, **SIZES)
    assert [path.name for path in tmp_path.rglob("*")] == (["audio", "demo.json"] if old else [])


def test_every_voice_speaks_and_unknown_ones_are_refused():
    synthesizer = Synthesizer(0)
    speech = [synthesizer.speak("hello", accent, "m1", rate=170, pitch=50, pitch_range=50) for accent in ACCENTS]
    speech += [synthesizer.speak("hello", "en", variant, rate=170, pitch=50, pitch_range=50) for variant in VARIANTS]
    assert all(np.abs(samples).max() > 0.01 for samples in speech)
    with pytest.raises(InputError, match="'en\\+nobody'"):
        synthesizer.speak("hello", "en", "nobody", rate=170, pitch=50, pitch_range=50)
    with pytest.raises(InputError, match="'martian\\+m1'"):
        synthesizer.speak("hello", "martian", "m1", rate=170, pitch=50, pitch_range=50)


def test_description_names_every_speaker(demo):
    description = json.loads((demo / "demo.json").read_text())
    speakers = {path.parent.name for path in demo.glob("t*/*/*.wav")}
    assert {speaker["name"] for speaker in description["speakers"]} == speakers
