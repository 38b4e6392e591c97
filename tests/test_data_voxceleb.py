"""VoxCeleb in miniature: training and evaluation speakers, ids, trial lists, m4a and wrong roots."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from lhotse import RecordingSet, SupervisionSet, validate_recordings_and_supervisions
from voxceleb_tree import VOX1_DEV, VOX1_TEST, VOX2_TEST, encode, make_voxceleb_tree

from sdpn_k2.cli.prepare import prepare
from sdpn_k2.data.corpora.voxceleb import prepare_voxceleb
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.trials import read_trials
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.datadir.validation import validate


def some_noise():
    for seed in itertools.count():
        yield np.random.default_rng(seed).uniform(-0.5, 0.5, 4000 + 100 * seed)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("published")
    make_voxceleb_tree(root, some_noise(), m4a=False)
    return root


@pytest.fixture
def tree(published, tmp_path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "corpora"))


def run(tree: Path, data: Path, **options):
    return prepare_voxceleb(tree / "vox1", tree / "vox2", data, **options)


def load(data: Path, name: str):
    return (
        RecordingSet.from_file(data / "manifests" / f"recordings_{name}.jsonl.gz").to_eager(),
        SupervisionSet.from_file(data / "manifests" / f"supervisions_{name}.jsonl.gz").to_eager(),
    )


def test_whole_corpus(tree, tmp_path):
    data = tmp_path / "data"
    lists = run(tree, data, musan=tree / "musan", rirs_noises=tree / "RIRS_NOISES")
    assert lists == ["o", "o_cleaned", "e", "e_cleaned", "h", "h_cleaned"]
    assert (data / "eval_sets").read_text() == "vox1\n"
    for name in ("train", "vox1"):
        validate(data / name, feats=False, text=False)
        validate_recordings_and_supervisions(*load(data, name), read_data=True)
    train, vox1 = read_map(data / "train" / "utt2spk"), read_map(data / "vox1" / "utt2spk")
    assert set(train.values()) == {"id00012", "id00015", "id00018"}
    assert set(vox1.values()) == set(VOX1_DEV + VOX1_TEST)
    assert "id10270-5r0dWxy17C8-00001" in vox1 and "id10270-_x6uYqmx31k-00001" in vox1
    path = f"{tree}/vox1/vox1_test_wav/wav/id10270/5r0dWxy17C8/00001.wav"
    assert read_map(data / "vox1" / "wav.scp")["id10270-5r0dWxy17C8-00001"] == path

    trials = {name: list(read_trials(data / "vox1" / f"trials_{name}")) for name in lists}
    assert [len(trials[name]) for name in lists] == [36, 35, 210, 209, 210, 209]
    assert (tree / "vox1" / "veri_test.txt").read_text().splitlines()[0].startswith("1 id10270/5r0dWxy17C8/00001.wav ")
    assert trials["o"][0] == ("id10270-5r0dWxy17C8-00001", "id10270-5r0dWxy17C8-00002", True)
    for trial in itertools.chain(*trials.values()):
        assert trial.target == (vox1[trial.enroll] == vox1[trial.test])
    kinds = {kind: RecordingSet.from_file(data / f"manifests/recordings_{kind}.jsonl.gz") for kind in ("noise", "rir")}
    assert [recording.id for recording in kinds["noise"]] == ["noise-free-sound-0000"]
    assert sorted(recording.id for recording in kinds["rir"]) == [
        "RVB2014_type1_rir_largeroom1", "large-Room001-00001", "small-Room001-00001"
    ]  # fmt: skip


def test_neither_evaluated_nor_test_speakers_are_trained_on(tree, tmp_path):
    # Also if dev and test of VoxCeleb2 share a folder, and only the metadata distinguish them.
    merged = tree / "vox2" / "wav"
    for speaker in [*(tree / "vox2").glob("vox2_*/*/aac/*")]:
        shutil.move(str(speaker), str(merged / speaker.name))
    for place in ("merged", "published"):
        if place == "published":
            for speaker in VOX2_TEST:
                shutil.move(str(merged / speaker), str(tree / "vox2" / "vox2_test_wav" / "wav" / speaker))
            (tree / "vox2" / "vox2_meta.csv").unlink()
        run(tree, tmp_path / place)
        trained = {supervision.speaker for supervision in load(tmp_path / place, "train")[1]}
        trained |= {recording.id.split("-")[0] for recording in load(tmp_path / place, "train")[0]}
        assert trained == {"id00012", "id00015", "id00018"}
        evaluated = {
            name.split("-")[0]
            for path in (tmp_path / place / "vox1").glob("trials_*")
            for trial in read_trials(path)
            for name in trial[:2]
        }
        assert evaluated == set(VOX1_DEV + VOX1_TEST) and not evaluated & trained

    for wrong in (tree / "vox1", tree):
        with pytest.raises(InputError, match=f"{wrong}: 4 .*id10001"):
            prepare_voxceleb(tree / "vox1", wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong" / "train").exists()


def test_only_utterances_in_the_lists_are_prepared(tree, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    shutil.move(str(tree / "vox1" / "veri_test2.txt"), str(lists / "voxceleb1_test_v2.txt"))
    assert run(tree, tmp_path / "data", trials=lists) == ["o_cleaned"]
    assert set(read_map(tmp_path / "data" / "vox1" / "utt2spk").values()) == set(VOX1_TEST)


def test_m4a_through_ffmpeg(ffmpeg, tree, tmp_path):
    wav = tree / "vox2/vox2_dev_aac/dev/aac/id00012/5r0dWxy17C8/00001.wav"
    original = soundfile.read(wav)[0]
    encode(wav)
    converted = tree / "vox2/vox2_dev_aac/dev/aac/id00012/5r0dWxy17C8/00002.wav"
    shutil.copy(wav.with_suffix(".m4a"), converted.with_suffix(".m4a"))
    run(tree, tmp_path / "data")
    entries = read_map(tmp_path / "data" / "train" / "wav.scp")
    m4a = wav.with_suffix(".m4a")
    expected = f"ffmpeg -v 8 -i {m4a} -f wav -acodec pcm_s16le -ar 16000 -ac 1 - |"
    assert entries["id00012-5r0dWxy17C8-00001"] == expected
    assert entries["id00012-5r0dWxy17C8-00002"] == str(converted), "a converted file is read rather than its m4a"
    samples = load(tmp_path / "data", "train")[0]["id00012-5r0dWxy17C8-00001"].load_audio()[0]
    assert len(samples) >= len(original)
    assert np.corrcoef(samples[: len(original)], original)[0, 1] > 0.5


def test_m4a_without_ffmpeg(tree, tmp_path, monkeypatch):
    wav = tree / "vox2/vox2_dev_aac/dev/aac/id00012/5r0dWxy17C8/00001.wav"
    wav.rename(wav.with_suffix(".m4a"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="00001.m4a: .*ffmpeg"):
        run(tree, tmp_path / "data")


def test_command_line(tree, tmp_path):
    arguments = [str(tree / "vox1"), str(tree / "vox2"), str(tmp_path / "data"), "--musan-root", str(tree / "musan")]
    result = CliRunner().invoke(prepare, ["voxceleb", *arguments])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "data/manifests/recordings_music.jsonl.gz").exists()
    result = CliRunner().invoke(prepare, ["voxceleb", "", *arguments[1:3]])
    assert isinstance(result.exception, InputError) and "VOXCELEB1" in str(result.exception)


def test_lhotse_recipes_that_download_are_not_used(tree, tmp_path, monkeypatch):
    import lhotse.recipes.voxceleb as recipe

    def refuse(*args, **kwargs):
        raise AssertionError("nothing may be fetched")

    monkeypatch.setattr(recipe, "resumable_download", refuse)
    monkeypatch.setattr("socket.socket", refuse)
    run(tree, tmp_path / "data", musan=tree / "musan", rirs_noises=tree / "RIRS_NOISES")


@pytest.mark.parametrize(
    "line, message",
    {
        "1 id10270/5r0dWxy17C8/00001.wav\n": "veri_test.txt:2: .*id10270/5r0dWxy17C8/00001.wav",
        "2 id10270/a/00001.wav id10270/a/00002.wav\n": "veri_test.txt:2: ",
        "id10270-5r0dWxy17C8-00001 id10270-5r0dWxy17C8-00002 target\n": "veri_test.txt:2: ",
        "1 id10270/gone/00001.wav id10279/5r0dWxy17C8/00001.wav\n":
            "veri_test.txt: 2 ids .*: id10270-gone-00001, id10279-5r0dWxy17C8-00001$",
    }.items(),
)  # fmt: skip
def test_wrong_trials(tree, tmp_path, line, message):
    path = tree / "vox1" / "veri_test.txt"
    path.write_text(path.read_text().splitlines(keepends=True)[0] + line)
    with pytest.raises(InputError, match=message):
        run(tree, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_wrong_roots(tree, tmp_path):
    data = tmp_path / "data"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="nowhere: "):
        prepare_voxceleb(tree / "vox1", tree / "nowhere", data)
    with pytest.raises(InputError, match="empty: .*.flac"):
        prepare_voxceleb(tree / "vox1", empty, data)
    with pytest.raises(InputError, match="empty: .*veri_test.txt"):
        run(tree, data, trials=empty)
    with pytest.raises(InputError, match="musan: .*id10270/5r0dWxy17C8/00001.wav"):
        prepare_voxceleb(tree / "vox1", tree / "musan", data)
    with pytest.raises(InputError, match="empty: .* MUSAN"):
        run(tree, data, musan=empty)
    with pytest.raises(InputError, match="empty: .* RIRS_NOISES"):
        run(tree, data, rirs_noises=empty)
    assert not data.exists()
    broken = tree / "musan/noise/free-sound/noise-free-sound-0000.wav"
    broken.write_bytes(b"")
    with pytest.raises(InputError, match=f"noise: .*{broken}"):
        run(tree, data, musan=tree / "musan")
    assert not (data / "eval_sets").exists()


def test_one_bad_utterance_is_skipped_with_its_trials(tree, tmp_path, caplog):
    soundfile.write(tree / "vox1/vox1_test_wav/wav/id10270/5r0dWxy17C8/00001.wav", np.zeros(16000), 16000)
    run(tree, tmp_path / "data")
    assert len(read_map(tmp_path / "data" / "vox1" / "utt2spk")) == 20
    assert len(list(read_trials(tmp_path / "data" / "vox1" / "trials_o"))) == 28
    assert any("veri_test.txt: dropped 8 trials" in message for message in caplog.messages)
