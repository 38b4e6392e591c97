"""Audio of every kind that people have: one answer from preparation to training and embedding."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from lhotse import RecordingSet
from tiny_models import write_model

from sdpn_k2.cli import cli
from sdpn_k2.data.audio_check import check_audio
from sdpn_k2.data.audio_files import find_audio
from sdpn_k2.data.corpora.audio_dir import prepare_audio_dir
from sdpn_k2.data.corpora.kaldi_dir import prepare_kaldi_dirs
from sdpn_k2.data.manifest_files import load_manifest
from sdpn_k2.errors import InputError
from sdpn_k2.inference.embedder import Embedder
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.datadir.data_dir_ops import write_data_dir
from sdpn_k2.kaldi.datadir.utterances import read_utterances
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.sound import open_sound
from sdpn_k2.kaldi.features.wave import read_audio

NOISE = 0.1 * np.random.default_rng(0).standard_normal(32000)
KINDS = {
    "gsm.wav": ("WAV", "GSM610"),
    "gsm.w64": ("W64", "GSM610"),
    "gsm.aiff": ("AIFF", "GSM610"),
    "g721.wav": ("WAV", "G721_32"),
    "g723.au": ("AU", "G723_24"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "a.sph": ("NIST", "PCM_16"),
    "u.sph": ("NIST", "ULAW"),
    "a.flac": ("FLAC", "PCM_24"),
    "a.ogg": ("OGG", "VORBIS"),
    "a.opus": ("OGG", "OPUS"),
    "a.mp3": ("MP3", "MPEG_LAYER_III"),
    "f.wav": ("WAV", "FLOAT"),
    "a.caf": ("CAF", "ALAC_16"),
}


def written(path: Path, kind: str, samples: np.ndarray = NOISE) -> Path:
    form, subtype = KINDS[kind]
    if form not in soundfile.available_formats() or subtype not in soundfile.available_subtypes(form):
        pytest.skip(f"this libsndfile has no {subtype} in {form}")
    soundfile.write(path, samples, 16000, format=form, subtype=subtype)
    return path


def streamed(path: Path, subtype: str = "PCM_16", riff: int = 0xFFFFFFFF, data: int = 0xFFFFFFFF) -> Path:
    """Write a WAV whose writer did not know its length."""
    soundfile.write(path, NOISE, 16000, subtype=subtype, format="WAV")
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 4, riff)
    struct.pack_into("<I", content, content.index(b"data") + 4, data)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "final.pt")


def lengths_everywhere(path: Path, folder: Path) -> set:
    """Return the number of samples that each reader finds in a file at 16 kHz."""
    write_data_dir(folder / "in", {"s-u": str(path)}, {"s-u": "s"})
    prepare_kaldi_dirs(folder / "in", {}, folder / "data", max_bad=0)
    (recording,) = load_manifest(folder / "data" / "manifests" / "recordings_train.jsonl.gz", RecordingSet)
    ((_, samples),) = read_utterances(folder / "data" / "train", 16000)
    part = recording.load_audio(offset=1.0, duration=0.5)[0]
    np.testing.assert_array_equal(part, recording.load_audio()[0][16000:24000])
    with open_sound(path) as sound:
        blocks = sum(len(block) for block in sound.blocks(999))
    return {
        check_audio(str(path)).num_samples,
        len(read_audio(str(path))),
        len(read_audio(f"cat '{path}' |")),
        recording.num_samples,
        recording.load_audio().shape[1],
        len(samples),
        blocks,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_prepared_can_be_read_in_every_stage(kind, tmp_path):
    (length,) = lengths_everywhere(written(tmp_path / kind, kind), tmp_path)
    assert 32000 <= length < 33000


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("sizes", [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFF000), (64036, 0)])
def test_wav_of_unknown_length(subtype, sizes, tmp_path):
    assert lengths_everywhere(streamed(tmp_path / "x.wav", subtype, *sizes), tmp_path) == {32000}


def test_a_file_in_an_archive(tmp_path):
    soundfile.write(tmp_path / "x.wav", NOISE, 16000)
    content = (tmp_path / "x.wav").read_bytes()
    (tmp_path / "x.ark").write_bytes(b"first " + content + b"second " + content + b"third junk")
    for offset in (6, 6 + len(content) + 7):
        folder = tmp_path / str(offset)
        write_data_dir(folder / "in", {"s-u": f"{tmp_path}/x.ark:{offset}"}, {"s-u": "s"})
        prepare_kaldi_dirs(folder / "in", {}, folder / "data", max_bad=0)
        (recording,) = load_manifest(folder / "data" / "manifests" / "recordings_train.jsonl.gz", RecordingSet)
        ((_, samples),) = read_utterances(folder / "data" / "train", 16000)
        np.testing.assert_array_equal(samples, recording.load_audio()[0])
        assert len(samples) == 32000
    with pytest.raises(InputError, match="x.ark:3: .*no WAV"):
        check_audio(f"{tmp_path}/x.ark:3")


@pytest.mark.parametrize("rate", [0, 1, 999, 768_001, 1_800_000_000])
def test_impossible_rates(rate, tmp_path):
    soundfile.write(tmp_path / "x.wav", NOISE[:60], 16000)
    content = bytearray((tmp_path / "x.wav").read_bytes())
    struct.pack_into("<II", content, 24, rate, (2 * rate) % 2**32)
    (tmp_path / "x.wav").write_bytes(content)
    for read in (check_audio, read_audio):
        with pytest.raises(InputError, match=f"{tmp_path}/x.wav: "):
            read(str(tmp_path / "x.wav"))


@pytest.mark.parametrize("rates", [(1, 16000), (16000, 1_800_000_000), (768_001, 16000), (16000, 20)])
def test_resampling_is_bounded(rates):
    with pytest.raises(InputError, match=f"{rates[0]} to {rates[1]} Hz"):
        resample(np.ones(60, np.float32), *rates)


SILENT = {
    "silence": (np.zeros(32000), 0),
    "constant": (np.full(32000, 0.5), 0),
    "channel": (np.stack([NOISE, np.zeros(32000)], axis=1), 1),
}


@pytest.mark.parametrize("rate", [16000, 8000])
@pytest.mark.parametrize("kind", SILENT)
def test_silence_is_no_speaker(kind, rate, model, tmp_path):
    samples, channel = SILENT[kind]
    embedder, path = Embedder.load(model), tmp_path / "x.wav"
    soundfile.write(path, samples, rate)
    soundfile.write(tmp_path / "noise.wav", NOISE, 16000)
    for audio in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(InputError, match="silent"):
            embedder.embed(audio, channel=channel)
    with pytest.raises(InputError, match="silent"):
        embedder.embed(samples if samples.ndim == 1 else samples[:, channel], rate=rate)
    options = ["-c", str(model), "--channel", str(channel)]
    result = CliRunner().invoke(cli, ["verify", *options, str(path), str(path)])
    assert isinstance(result.exception, InputError) and f"{path}: silent" in str(result.exception)


def test_silence_is_not_extracted(model, tmp_path):
    for name, samples in (("s-a", NOISE), ("s-b", np.zeros(32000)), ("s-c", np.full(32000, 0.5))):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000)
    names = {name: str(tmp_path / f"{name}.wav") for name in ("s-a", "s-b", "s-c")}
    write_data_dir(tmp_path / "data", names, dict.fromkeys(names, "s"))
    extract = ["extract", "--skip-bad", str(model), str(tmp_path / "data"), str(tmp_path / "out")]
    assert CliRunner().invoke(cli, extract).exit_code == 0
    assert list(read_map(tmp_path / "out" / "xvector.scp")) == ["s-a"]


def test_a_truncated_file_is_embedded_with_a_warning(model, tmp_path, capfd):
    soundfile.write(tmp_path / "x.wav", NOISE, 16000)
    content = (tmp_path / "x.wav").read_bytes()[:30000]
    (tmp_path / "x.wav").write_bytes(content)
    assert Embedder.load(model).embed(tmp_path / "x.wav").shape == (24,)
    assert f"{tmp_path}/x.wav" in (warned := capfd.readouterr().err) and "truncated" in warned


def test_messages_name_no_address(model):
    with pytest.raises(InputError) as caught:
        Embedder.load(model).embed(io.BytesIO(b"no audio at all"))
    assert "0x" not in str(caught.value) and "the audio" in str(caught.value)


# Names and folders


def test_names_that_are_not_utf8(model, tmp_path):
    name = os.fsdecode(bytes(tmp_path) + b"/b\xff\xe9.wav")
    soundfile.write(tmp_path / "a.wav", NOISE, 16000)
    os.link(tmp_path / "a.wav", name)
    vectors = Embedder.load(model).embed_many([str(tmp_path / "a.wav"), name], tmp_path / "out.json")
    np.testing.assert_array_equal(*vectors.values())
    assert (tmp_path / "out.json").is_file()


@pytest.fixture
def tree(tmp_path) -> Path:
    """Two speakers with two files each, and what other programs and links leave in such folders."""
    root = tmp_path / "root"
    for name in ("train/s1/a", "train/s1/b", "train/s2/c", "train/s2/d", "train/.ipynb_checkpoints/a", "train/s1/._a"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / f"{name}.wav", NOISE, 16000)
    (root / "train/s1/again").symlink_to("..")
    (root / "train/s1/self").symlink_to(".")
    (root / "train/s1/far").symlink_to(tmp_path)
    (root / "train/s1/other").symlink_to("../s2/back")
    (root / "train/s2/back").symlink_to("../s1")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "trials").write_text("")
    return root


def test_loops_and_hidden_files_are_left_out_and_counted(tree, tmp_path, caplog):
    os.link(tree / "train/s1/a.wav", os.fsdecode(os.fsencode(tree) + b"/train/s1/\xff.wav"))
    (tree / "train/s1/other").unlink()
    (tree / "train/s2/back").unlink()
    prepare_audio_dir(tree, tmp_path / "data")
    assert list(read_map(tmp_path / "data/train/utt2spk")) == ["s1-a", "s1-b", "s2-c", "s2-d"]
    for part in ("1 hidden folders", "1 hidden files", "3 links back", "1 files whose names are not UTF-8"):
        assert any(part in message for message in caplog.messages), part


def test_links_between_two_folders_end(tree):
    found = [str(path.relative_to(tree)) for path in find_audio(tree / "train")]
    assert len(found) == len(set(found)) <= 12


def test_training_audio_without_speakers(tmp_path):
    for name in ("train/x.wav", "train/more/deep/y.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, NOISE, 16000)
    with pytest.raises(InputError, match="train/x.wav: .*train/all.*--unlabelled"):
        prepare_audio_dir(tmp_path, tmp_path / "data")
    prepare_audio_dir(tmp_path, tmp_path / "data", unlabelled=True)
    assert read_map(tmp_path / "data/train/utt2spk") == {"more-deep-y": "more-deep-y", "x": "x"}


def test_extraction_of_a_model_in_memory_refuses_silence(model):
    with pytest.raises(InputError, match="fewer than"):
        Extractor.load(model).embed(np.zeros(10, np.float32))
