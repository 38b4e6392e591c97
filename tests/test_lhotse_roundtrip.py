"""Manifests, features and x-vectors from lhotse to Kaldi and back: nothing changes, and every loss is reported."""

import json
import re
import shutil
import subprocess
import sys

import kaldiio
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from lhotse import (
    CutSet,
    Fbank,
    FbankConfig,
    NumpyFilesWriter,
    Recording,
    RecordingSet,
    SupervisionSegment,
    SupervisionSet,
    validate,
)
from lhotse.audio import AudioSource
from lhotse.kaldi import export_to_kaldi, load_kaldi_data_dir
from lhotse.utils import fastcopy
from tiny_config import TINY, set_options
from tiny_models import write_data, write_model

from sdpn_k2.cli import cli
from sdpn_k2.data.kaldi_exchange import read_kaldi_dir, write_kaldi_dir
from sdpn_k2.data.manifest_files import load_manifest, write_manifest
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi import tools
from sdpn_k2.kaldi.datadir import repair
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.datadir.data_dir_ops import write_data_dir
from sdpn_k2.kaldi.datadir.utterances import read_utterances
from sdpn_k2.kaldi.datadir.validation import validate as validate_data_dir
from sdpn_k2.kaldi.formats.tables import TableWriter, read_table


@pytest.fixture(scope="module")
def audio(speech, tmp_path_factory):
    """Write speech as mono FLAC, stereo FLAC, 8 kHz WAV, and 16-bit WAV with a space in its name."""
    folder = tmp_path_factory.mktemp("audio")
    pieces = [samples for _, samples in read_utterances(write_data(folder / "data", speech), 16000)]
    soundfile.write(folder / "mono.flac", np.concatenate(pieces[:2]), 16000)
    length = min(map(len, pieces[2:4]))
    soundfile.write(folder / "stereo.flac", np.stack([piece[:length] for piece in pieces[2:4]], axis=1), 16000)
    soundfile.write(folder / "telephone.wav", pieces[4][::2], 8000, subtype="PCM_16")
    soundfile.write(folder / "with blank.wav", pieces[5], 16000, subtype="PCM_16")
    return folder


def recordings_of(audio):
    blank = soundfile.info(audio / "with blank.wav")
    command = AudioSource("command", [0], f"cat '{audio}/with blank.wav'")
    return [
        Recording.from_file(audio / "mono.flac", recording_id="mono"),
        Recording.from_file(audio / "stereo.flac", recording_id="one"),
        Recording.from_file(audio / "stereo.flac", recording_id="two"),
        Recording.from_file(audio / "telephone.wav", recording_id="telephone").resample(16000),
        Recording.from_file(audio / "with blank.wav", recording_id="blank"),
        Recording("command", [command], 16000, blank.frames, blank.frames / 16000),
    ]


def supervisions_of(recordings):
    length = {recording.id: recording.duration for recording in recordings}
    fields = [  # id, recording, start, duration, channel, speaker, text
        ("a-1", "mono", 0.0, 1.3, 0, "a", "hello world"),
        ("a-2", "mono", 1.3000625, 0.9, 0, "a", None),
        ("b-1", "one", 0.1, 0.2, 1, "b", "ein Satz"),
        ("c-left", "two", 0.0, length["two"], 0, "c", None),
        ("c-right", "two", 0.5, 1.0, 1, "c", None),
        ("d", "telephone", 0.25, 1.0, 0, "d", None),
        ("e-1", "blank", 0.0, length["blank"], 0, "e", "日本語"),
        ("e-2", "command", 0.0, length["command"], 0, "e", None),
    ]
    return [
        SupervisionSegment(
            id,
            recording,
            start,
            duration,
            channel,
            text,
            language="xx",
            speaker=speaker,
            gender="f" if speaker in "abc" else "m",
        )
        for id, recording, start, duration, channel, speaker, text in fields
    ]


def as_dicts(items):
    return {item.id: item.to_dict() for item in items}


def run(*words):
    result = CliRunner().invoke(cli, [*map(str, words)])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


def numbers(said):
    """Return the numbers in the last line, after the file name."""
    return [int(number) for number in re.findall(r"\d+", said.strip().splitlines()[-1].rpartition(": ")[2])]


def test_manifests_survive_the_round_trip(audio, tmp_path):
    recordings = recordings_of(audio)
    supervisions = supervisions_of(recordings)
    write_manifest(recordings, tmp_path / "recordings.jsonl.gz")
    write_manifest(supervisions, tmp_path / "supervisions.jsonl.gz")
    manifests = (tmp_path / "recordings.jsonl.gz", tmp_path / "supervisions.jsonl.gz")
    said = run("lhotse", "to-kaldi", *manifests, tmp_path / "data")
    assert numbers(said) == [8, 5, 6]
    validate_data_dir(tmp_path / "data", feats=False)
    assert read_map(tmp_path / "data" / "reco2file_and_channel") == {
        "blank": "blank 1",
        "command": "command 1",
        "mono": "mono 1",
        "one": "one 2",
        "telephone": "telephone 1",
        "two-1": "two 1",
        "two-2": "two 2",
    }
    run("lhotse", "from-kaldi", tmp_path / "data", tmp_path / "manifests")
    back = (
        RecordingSet.from_file(tmp_path / "manifests" / "recordings_data.jsonl.gz"),
        SupervisionSet.from_file(tmp_path / "manifests" / "supervisions_data.jsonl.gz"),
    )
    assert as_dicts(back[0]) == as_dicts(recordings)
    assert as_dicts(back[1]) == as_dicts(supervisions)
    validate(CutSet.from_manifests(*back))


def test_the_audio_of_every_utterance_is_unchanged(audio, tmp_path):
    recordings = recordings_of(audio)
    supervisions = supervisions_of(recordings)
    write_kaldi_dir(recordings, supervisions, tmp_path / "data")
    by_id = {recording.id: recording for recording in recordings}
    ours = dict(read_utterances(tmp_path / "data", 16000))
    for supervision in supervisions:
        expected = by_id[supervision.recording_id].load_audio(
            channels=supervision.channel, offset=supervision.start, duration=supervision.duration
        )[0]
        samples = ours[supervision.id]
        assert abs(len(samples) - len(expected)) <= 1
        size = min(len(samples), len(expected))
        # The two resample 8 kHz with other filters.
        tolerance = 0.05 * np.abs(expected).max() if supervision.id == "d" else 1e-6
        assert np.abs(samples[:size] - expected[:size]).mean() < tolerance


def test_a_kaldi_directory_survives_the_round_trip(audio, tmp_path):
    write_kaldi_dir(recordings_of(audio), supervisions_of(recordings_of(audio)), tmp_path / "first")
    write_kaldi_dir(*read_kaldi_dir(tmp_path / "first"), tmp_path / "second")
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "second").iterdir())
    assert {"segments", "spk2gender", "utt2lang", "text"} <= set(names)
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_lhotse_imports_our_directories(audio, tmp_path):
    """Its import reads everything but the channels of files."""
    recordings = [recording for recording in recordings_of(audio) if recording.id != "telephone"]
    supervisions = [s for s in supervisions_of(recordings_of(audio)) if s.recording_id != "telephone"]
    write_kaldi_dir(recordings, supervisions, tmp_path / "data")
    back, spoken, _ = load_kaldi_data_dir(tmp_path / "data", 16000)
    ours = {s.id: s for s in supervisions}
    assert {s.id: (s.start, s.speaker, s.gender, s.language, s.text) for s in spoken} == {
        s.id: (s.start, s.speaker, s.gender, s.language, s.text or "") for s in supervisions
    }
    for supervision in spoken:
        assert supervision.duration == pytest.approx(ours[supervision.id].duration, abs=1 / 16000)
    for recording in recordings:
        for name in (recording.id, f"{recording.id}-1"):
            assert name not in back or back[name].duration == recording.duration
    # Its command sources go back into a wav.scp as they came.
    write_kaldi_dir(back, spoken, tmp_path / "again")
    assert (tmp_path / "again" / "wav.scp").read_bytes() == (tmp_path / "data" / "wav.scp").read_bytes()
    assert (tmp_path / "again" / "utt2spk").read_bytes() == (tmp_path / "data" / "utt2spk").read_bytes()


def test_directories_exported_by_lhotse_need_spk2utt(audio, tmp_path):
    recordings = [recording for recording in recordings_of(audio) if recording.id == "blank"]
    supervisions = [s for s in supervisions_of(recordings_of(audio)) if s.id == "e-1"]
    manifests = (RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(supervisions))
    export_to_kaldi(*manifests, tmp_path / "data")
    with pytest.raises(InputError, match="data/spk2utt: "):
        read_kaldi_dir(tmp_path / "data")
    repair.fix(tmp_path / "data")
    back = read_kaldi_dir(tmp_path / "data")
    assert as_dicts(back[0]) == as_dicts(recordings)
    (ours,), (theirs,) = back[1], supervisions
    for field in ("id", "recording_id", "start", "duration", "channel", "speaker", "text", "language"):
        assert getattr(ours, field) == getattr(theirs, field)


def test_whole_recordings_need_no_segments(speech, tmp_path):
    data = write_data(tmp_path / "data", speech)
    recordings, supervisions = read_kaldi_dir(data)
    assert [s.id for s in supervisions] == sorted(read_map(data / "utt2spk"))
    assert all(s.start == 0 and s.recording_id == s.id and s.text is None for s in supervisions)
    for recording in recordings:
        info = soundfile.info(recording.sources[0].source)
        assert (recording.num_samples, recording.sampling_rate) == (info.frames, info.samplerate)
    write_kaldi_dir(recordings, supervisions, tmp_path / "again")
    for name in ("utt2spk", "spk2utt"):
        assert (tmp_path / "again" / name).read_bytes() == (data / name).read_bytes()
    # 16-bit mono WAV files need no command.
    assert read_map(tmp_path / "again" / "wav.scp") == {r.id: r.sources[0].source for r in recordings}
    assert read_kaldi_dir(tmp_path / "again") == (recordings, supervisions)
    assert not (tmp_path / "again" / "segments").exists() and not (tmp_path / "again" / "text").exists()


def test_ids_that_do_not_begin_with_the_speaker(audio, tmp_path):
    recordings = recordings_of(audio)[:1]
    supervisions = [
        SupervisionSegment("x", "mono", 0.0, 1.0, speaker="zoe"),
        SupervisionSegment("y", "mono", 1.0, 1.0, speaker="adam"),
        SupervisionSegment("z", "mono", 2.0, 0.5),
    ]
    for _ in range(2):  # a failed attempt leaves nothing that would affect the next one
        with pytest.raises(InputError, match="/data/utt2spk:2: "):
            write_kaldi_dir(recordings, supervisions, tmp_path / "data")
        assert not list(tmp_path.iterdir())
    write_kaldi_dir(recordings, supervisions, tmp_path / "prefixed", prefix_speaker=True)
    assert read_map(tmp_path / "prefixed" / "utt2spk") == {"adam-y": "adam", "z": "z", "zoe-x": "zoe"}


@pytest.fixture
def conversation(audio, tmp_path):
    """Write a telephone conversation in the form of Kaldi's Switchboard recipe: one command per side, with letters."""
    folder = tmp_path / "swbd"
    samples, _ = soundfile.read(audio / "stereo.flac")
    folder.mkdir()
    for letter, side in zip("AB", samples.T):
        soundfile.write(folder / f"{letter}.wav", side, 16000, subtype="PCM_16")
    soundfile.write(folder / "both.wav", samples, 16000, subtype="PCM_16")
    sides = {letter: f"sw02001-{letter}" for letter in "AB"}
    tables = {
        "segments": {f"{side}_{i}": (side, 0.5 * i, 0.5 * i + 0.25) for side in sides.values() for i in range(3)},
        "reco2file_and_channel": {side: ("sw02001", letter) for letter, side in sides.items()},
    }
    write_data_dir(
        folder / "data",
        {side: f"cat {folder}/{letter}.wav |" for letter, side in sides.items()},
        {name: side for name, (side, _, _) in tables["segments"].items()},
        tables,
    )
    return folder


def test_a_switchboard_directory_survives_the_round_trip(conversation, tmp_path):
    data = conversation / "data"
    run("lhotse", "from-kaldi", data, tmp_path)
    manifests = (tmp_path / "recordings_data.jsonl.gz", tmp_path / "supervisions_data.jsonl.gz")
    (recording,) = load_manifest(manifests[0], RecordingSet)
    assert recording.id == "sw02001" and recording.channel_ids == [0, 1]
    run("lhotse", "to-kaldi", *manifests, tmp_path / "again")
    for name in ("wav.scp", "segments", "utt2spk", "spk2utt"):
        assert (tmp_path / "again" / name).read_bytes() == (data / name).read_bytes(), name
    assert read_map(tmp_path / "again" / "reco2file_and_channel") == {
        "sw02001-A": "sw02001 1",
        "sw02001-B": "sw02001 2",
    }
    # One side alone keeps its id and channel, too; two recordings that would share an id get others.
    supervisions = list(load_manifest(manifests[1], SupervisionSet))
    right = [s for s in supervisions if s.channel == 1]
    write_kaldi_dir([recording], right, tmp_path / "right")
    assert set(read_map(tmp_path / "right" / "wav.scp")) == {"sw02001-B"}
    assert as_dicts(read_kaldi_dir(tmp_path / "right")[1]) == as_dicts(right)
    copies = [fastcopy(s, id=f"{s.id}-copy", recording_id="copy") for s in right]
    write_kaldi_dir([recording, fastcopy(recording, id="copy")], right + copies, tmp_path / "copies")
    assert set(read_map(tmp_path / "copies" / "wav.scp")) == {"sw02001", "copy"}
    assert [(s.id, s.recording_id, s.channel) for s in read_kaldi_dir(tmp_path / "copies")[1]] == sorted(
        (s.id, s.recording_id, 1) for s in right + copies
    )


def test_one_channel_of_a_command(conversation, tmp_path):
    (conversation / "data" / "reco2file_and_channel").unlink()
    segments = {
        f"{name}-{i}": ("both", 0.5 * i, 0.5 * i + 0.25, channel)
        for name, channel in (("A", 0), ("B", 1))
        for i in range(3)
    }
    tables = {"segments": segments}
    write_data_dir(
        tmp_path / "data",
        {"both": f"true; cat {conversation}/both.wav |"},
        {name: name[0] for name in segments},
        tables,
    )
    recordings, supervisions = read_kaldi_dir(tmp_path / "data")
    assert {s.id: s.channel for s in supervisions} == {name: value[3] for name, value in segments.items()}
    for names, where in (("AB", "two"), ("B", "one")):
        chosen = [s for s in supervisions if s.speaker in names]
        write_kaldi_dir(recordings, chosen, tmp_path / where)
        ours, expected = (dict(read_utterances(folder, 16000)) for folder in (tmp_path / where, tmp_path / "data"))
        assert set(ours) == {s.id for s in chosen}
        for name, samples in ours.items():
            np.testing.assert_array_equal(samples, expected[name])
        assert {s.id: s.channel for s in read_kaldi_dir(tmp_path / where)[1]} == {s.id: s.channel for s in chosen}


def test_recordings_in_an_archive(conversation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = conversation / "data"
    assert tools.run("wav-copy", [f"scp:{data}/wav.scp", "ark,scp:x.ark,x.scp"]) in (0, None)
    shutil.copy("x.scp", data / "wav.scp")
    with pytest.raises(InputError, match=r"wav.scp: .*'sw02001' .*\(x.ark:10\)"):
        read_kaldi_dir(data)
    (tmp_path / "files").write_text("sw02001-A a.wav\nsw02001-B b.wav\n")
    assert tools.run("wav-copy", [f"scp:{data}/wav.scp", "scp:files"]) in (0, None)
    shutil.copy("files", data / "wav.scp")
    (recording,), _ = read_kaldi_dir(data)
    assert recording.load_audio().shape[0] == 2


# Features.


@pytest.fixture(scope="module")
def cuts(speech, tmp_path_factory):
    """Write cuts of speech with features stored by lhotse."""
    folder = tmp_path_factory.mktemp("cuts")
    recordings, supervisions = read_kaldi_dir(write_data(folder / "data", speech, speakers=2))
    made = CutSet.from_manifests(RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(supervisions))
    made = CutSet.from_cuts(cut.with_id(cut.supervisions[0].id) for cut in made)
    extractor = Fbank(FbankConfig(num_mel_bins=20))
    made = made.compute_and_store_features(extractor, folder / "feats", storage_type=NumpyFilesWriter)
    write_manifest(made, folder / "cuts.jsonl.gz")
    return folder / "cuts.jsonl.gz"


def test_stored_features_are_exported(cuts, tmp_path):
    assert numbers(run("lhotse", "export-feats", cuts, tmp_path / "data")) == [6]
    ours = kaldiio.load_scp(str(tmp_path / "data" / "feats.scp"))
    stored = {cut.id: cut for cut in load_manifest(cuts)}
    assert set(ours) == set(stored)
    for name, cut in stored.items():
        np.testing.assert_array_equal(ours[name], cut.load_features())
    assert read_map(tmp_path / "data" / "utt2num_frames") == {name: str(cut.num_frames) for name, cut in stored.items()}
    assert validate_data_dir(tmp_path / "data", wav=False, text=False) == 6
    # A part of a cut has a part of the frames.
    part = next(iter(stored.values())).truncate(offset=0.5, duration=0.4)
    write_manifest([part], tmp_path / "part.jsonl.gz")
    run("lhotse", "export-feats", tmp_path / "part.jsonl.gz", tmp_path / "part")
    ((_, matrix),) = read_table(f"scp:{tmp_path}/part/feats.scp", "matrix")
    np.testing.assert_array_equal(matrix, ours[next(iter(stored))][50:90])


def test_training_on_kaldis_features(speech, tmp_path):
    """Train on a Kaldi directory with the feats.scp of compute-fbank-feats."""
    data = write_data(tmp_path / "data" / "train", speech, speakers=4)
    bin_ = [sys.executable, "-m", "sdpn_k2", "kaldi"]
    subprocess.run(
        [
            *bin_,
            "compute-fbank-feats",
            "--dither=0",
            "--num-mel-bins=80",
            f"scp:{data}/wav.scp",
            f"ark,scp:{data}/feats.ark,{data}/feats.scp",
        ],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [*bin_, "feat-to-len", f"scp:{data}/feats.scp", f"ark,t:{data}/utt2num_frames"], check=True, capture_output=True
    )
    run("lhotse", "from-kaldi", data, tmp_path / "data" / "manifests")
    with pytest.raises(InputError, match="feats.scp: .*80.* features.num_mel_bins = 40"):
        run("cuts", "--set", "features.num_mel_bins=40", tmp_path / "data", "train")
    run("cuts", tmp_path / "data", "train")
    cuts = tmp_path / "data" / "manifests" / "cuts_train.jsonl.gz"
    features = dict(read_table(f"scp:{data}/feats.scp", "matrix"))
    for cut in load_manifest(cuts):
        np.testing.assert_array_equal(cut.load_features(), features[cut.id])
        assert cut.num_features == 80
    options = set_options([*TINY, "train.batch_size=4", "train.steps=2", "input=fbank"])
    run("select-cuts", *options, cuts, tmp_path / "multi.jsonl.gz")
    run("train", "--device", "cpu", *options, tmp_path / "multi.jsonl.gz", tmp_path / "exp")
    run("extract", "--device", "cpu", tmp_path / "exp" / "final.pt", data, tmp_path / "x")
    assert len(dict(read_table(f"scp:{tmp_path}/x/xvector.scp", "vector"))) == 12


# X-vectors.


def test_xvectors_are_attached_exported_and_sharded(cuts, tmp_path):
    model = write_model(tmp_path / "final.pt")
    data = cuts.parent / "data"
    run("extract", "--device", "cpu", model, data, tmp_path / "x")
    said = run("lhotse", "attach-xvectors", cuts, f"scp:{tmp_path}/x/xvector.scp", tmp_path / "with.jsonl.gz")
    assert numbers(said) == [6, 0]
    vectors = dict(read_table(f"scp:{tmp_path}/x/xvector.scp", "vector"))
    attached = CutSet.from_file(tmp_path / "with.jsonl.gz")
    for cut in attached:
        assert cut.xvector.shape == [24]
        np.testing.assert_array_equal(cut.load_xvector(), vectors[cut.id])

    run("lhotse", "export-xvectors", tmp_path / "with.jsonl.gz", f"ark:{tmp_path}/back.ark")
    back = dict(read_table(f"ark:{tmp_path}/back.ark", "vector"))
    assert {name: vector.tobytes() for name, vector in back.items()} == {n: v.tobytes() for n, v in vectors.items()}

    (tmp_path / "shar").mkdir()
    attached.to_shar(tmp_path / "shar", fields={"recording": "flac", "xvector": "numpy"}, shard_size=4)
    shards = CutSet.from_shar(in_dir=tmp_path / "shar")
    read = {cut.id: (cut.load_xvector(), cut.load_audio()) for cut in shards}
    assert set(read) == set(vectors)
    for cut in attached:
        np.testing.assert_array_equal(read[cut.id][0], vectors[cut.id])
        np.testing.assert_allclose(read[cut.id][1], cut.load_audio(), atol=1e-4)


def test_some_cuts_without_xvector(cuts, tmp_path):
    stored = list(load_manifest(cuts))
    with TableWriter(f"ark:{tmp_path}/some.ark", "vector") as writer:
        writer.write(stored[2].id, np.ones(3, np.float32))
    renamed = [cut.with_id(f"cut-{index}") for index, cut in enumerate(stored)]
    write_manifest(renamed, tmp_path / "renamed.jsonl.gz")
    output = tmp_path / "o.jsonl.gz"
    said = run("lhotse", "attach-xvectors", tmp_path / "renamed.jsonl.gz", f"ark:{tmp_path}/some.ark", output)
    assert numbers(said) == [1, 5]
    said = run("lhotse", "export-xvectors", output, f"ark,t:{tmp_path}/o.txt")
    assert numbers(said) == [1, 5]
    assert (tmp_path / "o.txt").read_text() == "cut-2  [ 1 1 1 ]\n"


def test_manifests_side_by_side_keep_their_own_xvectors(cuts, tmp_path):
    """Cut ids need not be valid file names, and manifests may have dots in their names."""
    first = next(iter(load_manifest(cuts)))
    write_manifest([first.with_id("a/b%2F"), first.with_id("a%2Fb/")], tmp_path / "cuts.jsonl")
    for value, name in enumerate(("out.a.jsonl.gz", "out.b.jsonl.gz")):
        with TableWriter(f"ark:{tmp_path}/x.ark", "vector") as writer:
            writer.write("a/b%2F", np.full(3, value, np.float32))
            writer.write("a%2Fb/", np.full(3, 10 + value, np.float32))
        run("lhotse", "attach-xvectors", tmp_path / "cuts.jsonl", f"ark:{tmp_path}/x.ark", tmp_path / name)
    assert {path.name for path in tmp_path.glob("*.xvectors")} == {"out.a.xvectors", "out.b.xvectors"}
    for value, name in enumerate(("out.a.jsonl.gz", "out.b.jsonl.gz")):
        assert [cut.load_xvector()[0] for cut in load_manifest(tmp_path / name)] == [value, 10 + value]


def test_tables_are_sorted_for_any_order_of_the_cuts(cuts, tmp_path):
    stored = list(load_manifest(cuts))
    names = ["b", "é", "a-2", "a", "B", "a_1"]
    ordered = ["B", "a", "a-2", "a_1", "b", "é"]
    write_manifest([cut.with_id(name) for cut, name in zip(stored, names)], tmp_path / "cuts.jsonl.gz")
    run("lhotse", "export-feats", tmp_path / "cuts.jsonl.gz", tmp_path / "data")
    read = dict(read_table(f"scp:{tmp_path}/data/feats.scp", "matrix"))
    assert list(read) == list(read_map(tmp_path / "data" / "utt2num_frames")) == ordered
    for name, cut in zip(names, stored):
        np.testing.assert_array_equal(read[name], cut.load_features())
    with TableWriter(f"ark:{tmp_path}/x.ark", "vector") as writer:
        for value, name in enumerate(names):
            writer.write(name, np.full(3, value, np.float32))
    run("lhotse", "attach-xvectors", tmp_path / "cuts.jsonl.gz", f"ark:{tmp_path}/x.ark", tmp_path / "with.jsonl.gz")
    run("lhotse", "export-xvectors", tmp_path / "with.jsonl.gz", f"ark,scp:{tmp_path}/back.ark,{tmp_path}/back.scp")
    for table in (f"scp:{tmp_path}/back.scp", f"ark:{tmp_path}/back.ark"):
        assert {name: vector[0] for name, vector in read_table(table, "vector")} == {
            name: value for value, name in enumerate(names)
        }
        assert [name for name, _ in read_table(table, "vector")] == ordered


# Bad input.


def test_duplicate_cuts(cuts, tmp_path):
    first, second = list(load_manifest(cuts))[:2]
    write_manifest([first, second.with_id(first.id)], tmp_path / "twice.jsonl.gz")
    with TableWriter(f"ark:{tmp_path}/x.ark", "vector") as writer:
        writer.write(first.id, np.ones(3, np.float32))
    message = f"cut '{first.id}'"
    with pytest.raises(InputError, match=message):
        run("lhotse", "export-feats", tmp_path / "twice.jsonl.gz", tmp_path / "data")
    with pytest.raises(InputError, match=message):
        run("lhotse", "attach-xvectors", tmp_path / "twice.jsonl.gz", f"ark:{tmp_path}/x.ark", tmp_path / "with.jsonl")
    write_manifest([first], tmp_path / "once.jsonl.gz")
    run("lhotse", "attach-xvectors", tmp_path / "once.jsonl.gz", f"ark:{tmp_path}/x.ark", tmp_path / "with.jsonl.gz")
    write_manifest([*load_manifest(tmp_path / "with.jsonl.gz")] * 2, tmp_path / "both.jsonl.gz")
    with pytest.raises(InputError, match=message):
        run("lhotse", "export-xvectors", tmp_path / "both.jsonl.gz", f"ark,scp:{tmp_path}/b.ark,{tmp_path}/b.scp")
    assert not (tmp_path / "data" / "feats.scp").exists() and not (tmp_path / "b.scp").exists()


def test_output_folders_below_a_file_are_refused(cuts, tmp_path):
    (tmp_path / "file").write_text("mine")
    below = tmp_path / "file" / "below"
    data = cuts.parent / "data"
    for words in (
        ["lhotse", "export-feats", cuts, below],
        ["lhotse", "from-kaldi", data, below],
        ["extract", "--device", "cpu", write_model(tmp_path / "final.pt"), data, below],
    ):
        with pytest.raises(InputError, match="file/below: .*Not a directory"):
            run(*words)
    assert (tmp_path / "file").read_text() == "mine"


def test_invalid_directories(speech, tmp_path):
    def refused(message, **tables):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        write_data(tmp_path / "data", speech)
        for name, text in tables.items():
            (tmp_path / "data" / name.replace("_scp", ".scp")).write_text(text)
        with pytest.raises(InputError, match=message):
            run("lhotse", "from-kaldi", tmp_path / "data", tmp_path / "manifests")
        assert not (tmp_path / "manifests").exists()

    names = sorted(read_map(write_data(tmp_path / "data", speech) / "utt2spk"))
    wav = (tmp_path / "data" / "wav.scp").read_text()
    everyone = "".join(f"{name} {name} 0 1\n" for name in names)
    refused("utt2spk:2: .*'a'", utt2spk="b x\na x\n")
    refused("wav.scp: 8 of 9 .*utt2spk", wav_scp=wav.splitlines(keepends=True)[0])
    refused("segments:1: .* 2 .* 1 s", segments=everyone.replace("0 1", "2 1", 1))
    refused(f"segments: .*'{names[0]}'.*1000 s", segments=everyone.replace("0 1", "0 1000", 1))
    refused("segments:1: .*'nobody'", segments=everyone.replace(f" {names[0]}", " nobody", 1))
    refused(f"wav.scp: .*'{names[0]}'.*gone", wav_scp=wav.replace(".wav", ".gone", 1))
    channels = "".join(f"{name} {name} 1\n" for name in names)
    unknown = channels.replace("1\n", "C\n", 1)
    refused(f"reco2file_and_channel:1: .*'{names[0]} {names[0]} C'", reco2file_and_channel=unknown)
    twice = channels.replace(f"{names[1]} {names[1]}", f"{names[1]} {names[0]}")
    refused(f"reco2file_and_channel: '{names[1]}': .*channel 1 of '{names[0]}'", reco2file_and_channel=twice)


def test_losses_in_kaldis_tables_are_refused_or_named(audio, tmp_path, caplog):
    mono, stereo = recordings_of(audio)[:2]

    def refused(message, recordings, *supervisions):
        with pytest.raises(InputError, match=message):
            write_kaldi_dir(recordings, supervisions, tmp_path / "data")
        assert not list(tmp_path.iterdir())

    whole = SupervisionSegment("mono", "mono", 0.0, mono.duration, speaker="mono")
    faster = SupervisionSegment("a", "mono_sp1.1", 0.0, 1.0)
    refused("'mono_sp1.1' .*Speed", [mono.perturb_speed(1.1)], faster)
    refused("'a' .*'other'", [mono], SupervisionSegment("a", "other", 0.0, 1.0))
    refused(r"'a' .*\[0, 1\]", [stereo], SupervisionSegment("a", "one", 0.0, 1.0, channel=[0, 1]))
    refused("'one' .* 5", [stereo], SupervisionSegment("a", "one", 0.0, 1.0, channel=5))
    refused("data: no utterances", [mono])
    sides = [SupervisionSegment(f"a-{channel}", "one", 0.0, 1.0, channel=channel) for channel in (0, 1)]
    named_as_a_side = SupervisionSegment("b", "one-1", 0.0, 1.0)
    refused("'one-1'", [stereo, fastcopy(mono, id="one-1")], *sides, named_as_a_side)
    refused("utterance 'mono'", [mono], whole, whole)
    remote = Recording("far", [AudioSource("url", [0], "https://example.org/a.wav")], 16000, 16000, 1.0)
    refused("'far' .*url", [remote], SupervisionSegment("a", "far", 0.0, 1.0))
    gone = Recording("gone", [AudioSource("file", [0], str(tmp_path / "gone.wav"))], 16000, 16000, 1.0)
    refused("'gone': .*gone.wav", [gone], SupervisionSegment("a", "gone", 0.0, 1.0))
    man, woman = (SupervisionSegment(f"x-{g}", "mono", 0.0, 1.0, speaker="x", gender=g) for g in "mf")
    refused("speaker 'x' .*'x-f'", [mono], man, woman)
    refused("spk2utt: .*'A B'", [mono], SupervisionSegment("a", "mono", 0.0, 1.0, speaker="A B"))
    refused("segments:1: .*'a' .*-0.5 s", [mono], SupervisionSegment("a", "mono", -0.5, 1.0))
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "notes").write_text("mine")
    with pytest.raises(InputError, match="data: already exists"):
        write_kaldi_dir([mono], [whole], tmp_path / "data")

    richer = SupervisionSegment(
        "mono", "mono", 0.0, mono.duration, speaker="mono", custom={"mood": 3}, text="a  b\tc", gender="other"
    )
    write_kaldi_dir([mono, stereo], [richer], tmp_path / "other")
    for pattern in ("1 recordings without", "field custom of 1 ", "genders .*: other", "white space in 1 texts"):
        assert re.search(pattern, caplog.text), pattern
    assert read_map(tmp_path / "other" / "text") == {"mono": "a b c"}
    assert not (tmp_path / "other" / "spk2gender").exists()


def test_cuts_without_features_or_xvectors(cuts, tmp_path):
    bare = [cut.drop_features() for cut in load_manifest(cuts)]
    write_manifest(bare, tmp_path / "bare.jsonl.gz")
    with pytest.raises(InputError, match=f"'{bare[0].id}'.*features"):
        run("lhotse", "export-feats", tmp_path / "bare.jsonl.gz", tmp_path / "data")
    with pytest.raises(InputError, match="6 cuts .*cut.xvector"):
        run("lhotse", "export-xvectors", tmp_path / "bare.jsonl.gz", f"ark:{tmp_path}/x.ark")
    with TableWriter(f"ark:{tmp_path}/other.ark", "vector") as writer:
        writer.write("somebody", np.ones(3, np.float32))
    with pytest.raises(InputError, match="other.ark: .*6 cuts"):
        output = tmp_path / "o.jsonl.gz"
        run("lhotse", "attach-xvectors", tmp_path / "bare.jsonl.gz", f"ark:{tmp_path}/other.ark", output)
    assert not output.exists()
    lost = next(iter(load_manifest(cuts))).to_dict()
    lost["features"]["storage_key"] = "aa/gone.npy"
    (tmp_path / "lost.jsonl").write_text(json.dumps(lost) + "\n")
    with pytest.raises(InputError, match=f"'{lost['id']}': .*features"):
        run("lhotse", "export-feats", tmp_path / "lost.jsonl", tmp_path / "lost")
    assert not (tmp_path / "lost" / "feats.scp").exists()
