"""Cuts of every kind through extract, vad, select-cuts and train, and manifests in every format of lhotse's."""

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment
from lhotse.cut import MixedCut
from lhotse.utils import fastcopy
from tiny_config import TINY, set_options
from tiny_models import write_model

import sdpn_k2
from sdpn_k2.cli import cli
from sdpn_k2.config import load_config
from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.data.manifest_files import load_manifest, write_manifest
from sdpn_k2.data.multi_crop import MultiCropDataset
from sdpn_k2.errors import InputError

RATE = 16000


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, and cuts of three recordings of noise with pauses: whole, a window, padded, appended and mixed."""
    folder = tmp_path_factory.mktemp("cuts")
    rng = np.random.default_rng(0)
    wholes = []
    for name in "abc":
        samples = 0.1 * rng.standard_normal(3 * RATE)
        samples[RATE : 2 * RATE] *= 1e-4
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="PCM_16")
        cut = fastcopy(Recording.from_file(folder / f"{name}.wav").to_cut(), id=name)
        cut.supervisions = [SupervisionSegment(name, cut.recording_id, 0, 3.0, speaker=f"speaker-{name}")]
        wholes.append(cut)
    a, b, c = wholes
    cuts = [
        a,
        fastcopy(a.truncate(offset=1.5, duration=1.0), id="window"),
        fastcopy(b.pad(4.0), id="padded"),
        fastcopy(b.append(c), id="appended"),
        fastcopy(a.mix(b, snr=10), id="mixed"),
    ]
    assert [type(cut) for cut in cuts] == [MonoCut, MonoCut, MixedCut, MixedCut, MixedCut]
    write_manifest(cuts, folder / "cuts.jsonl.gz")
    write_model(folder / "model.pt", embedding_dim=6)
    return folder


@pytest.fixture(scope="module")
def expected(place):
    model = sdpn_k2.load(place / "model.pt", device="cpu")
    return {cut.id: model.embed(cut.load_audio()[0]) for cut in load_manifest(place / "cuts.jsonl.gz")}


def run(*words, status=0):
    done = CliRunner().invoke(cli, [str(word) for word in words])
    if status:
        assert isinstance(done.exception, InputError), done.output
        return str(done.exception)
    assert done.exit_code == 0, f"{done.output}\n{done.exception}"
    return done.output


def check(found, expected):
    assert list(found) == list(expected)
    np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-4, atol=1e-4)


def test_cuts_of_every_kind_are_embedded(place, expected, tmp_path):
    run("extract", "--device", "cpu", place / "model.pt", place / "cuts.jsonl.gz", tmp_path / "x.ark")
    check(sdpn_k2.read_vectors(tmp_path / "x.ark"), expected)


def test_cuts_get_their_own_vectors(place, expected, tmp_path):
    output = tmp_path / "with.jsonl.gz"
    run("extract", "--device", "cpu", place / "model.pt", place / "cuts.jsonl.gz", output)
    cuts = list(CutSet.from_file(output))
    check({cut.id: cut.load_custom("xvector") for cut in cuts}, expected)
    check(sdpn_k2.read_vectors(output), expected)
    assert [len(cut.supervisions) for cut in cuts] == [1, 1, 1, 2, 2]
    run("lhotse", "export-xvectors", output, tmp_path / "x.json")
    check(sdpn_k2.read_vectors(tmp_path / "x.json"), dict(sorted(expected.items())))
    run("score", "--enroll", output, "--test", tmp_path / "x.json", tmp_path / "scores")
    assert len((tmp_path / "scores").read_text().splitlines()) == 25


@pytest.mark.parametrize("name", ["c.jsonl", "c.json", "c.json.gz", "c.yaml", "c.yaml.gz"])
def test_every_format_is_read(place, expected, tmp_path, name):
    CutSet.from_cuts(load_manifest(place / "cuts.jsonl.gz")).to_file(tmp_path / name)
    run("extract", "--device", "cpu", place / "model.pt", tmp_path / name, tmp_path / "x.scp")
    check(sdpn_k2.read_vectors(tmp_path / "x.scp"), expected)
    run("select-cuts", tmp_path / name, tmp_path / "selected.jsonl.gz", *set_options(TINY))
    assert len(CutTable(tmp_path / "selected.jsonl.gz")) == 5


def test_sets_of_recordings_are_embedded(place, tmp_path):
    recordings = RecordingSet.from_recordings(Recording.from_file(place / f"{name}.wav") for name in "abc")
    recordings.to_file(tmp_path / "recordings.jsonl.gz")
    run("extract", "--device", "cpu", place / "model.pt", tmp_path / "recordings.jsonl.gz", tmp_path / "x.json")
    assert list(sdpn_k2.read_vectors(tmp_path / "x.json")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "content, message",
    [("{}", "list of items"), ("[1", "not a manifest"), ('[{"id": "x", "type": "Nothing"}]', "c.json:1: ")],
)
def test_other_files_are_refused(place, tmp_path, content, message):
    (tmp_path / "c.json").write_text(content)
    assert message in run(
        "extract", "--device", "cpu", place / "model.pt", tmp_path / "c.json", tmp_path / "x", status=1
    )


def test_only_cuts_are_written_back(place, tmp_path):
    (tmp_path / "data").mkdir()
    for command in (["extract", "--device", "cpu", place / "model.pt"], ["vad", "--decoder", "torch"]):
        assert "only cuts" in run(*command, tmp_path / "data", tmp_path / "x.jsonl.gz", status=1)


def test_windows_do_not_get_the_vector_of_their_utterance(place, tmp_path):
    (a, *_) = load_manifest(place / "cuts.jsonl.gz")
    windows = [a, *a.cut_into_windows(1.0), a.truncate(offset=1.0, duration=1.0, preserve_id=True)]
    write_manifest(windows[:-1], tmp_path / "windows.jsonl.gz")
    sdpn_k2.write_vectors(tmp_path / "x.ark", {"a": np.ones(6, np.float32)})
    output = tmp_path / "out.jsonl.gz"
    said = run("lhotse", "attach-xvectors", tmp_path / "windows.jsonl.gz", tmp_path / "x.ark", output)
    assert "1 cuts with an x-vector, 3 without" in said
    assert [cut.has_custom("xvector") for cut in CutSet.from_file(output)] == [True, False, False, False]
    write_manifest(windows[-1:], tmp_path / "windows.jsonl.gz")
    command = ["lhotse", "attach-xvectors", tmp_path / "windows.jsonl.gz", tmp_path / "x.ark", output]
    assert "parts of their utterances" in run(*command, status=1)


@pytest.mark.parametrize("output", ["out", "out.jsonl"])
def test_vad_gives_cuts_their_speech(place, tmp_path, output):
    run("vad", "--device", "cpu", "--decoder", "torch", place / "cuts.jsonl.gz", tmp_path / output)
    path = tmp_path / "out" / "cuts.jsonl.gz" if output == "out" else tmp_path / output
    cuts = {cut.id: cut for cut in CutSet.from_file(path)}
    spoken = {
        "a": [(0.0, 1.0), (2.0, 3.0)],
        "window": [(0.5, 1.0)],
        "padded": [(0.0, 1.0), (2.0, 3.0)],
        "appended": [(0.0, 1.0), (2.0, 4.0), (5.0, 6.0)],
        "mixed": [(0.0, 1.0), (2.0, 3.0)],
    }
    assert list(cuts) == list(spoken)
    for name, cut in cuts.items():
        found = sorted((each.start, each.end) for each in cut.supervisions)
        np.testing.assert_allclose(found, spoken[name], atol=0.15)  # energies are averaged over 150 ms
    assert {each.speaker for each in cuts["window"].supervisions} == {"speaker-a"}
    if output == "out":
        lines = [line.split() for line in (path.parent / "segments").read_text().splitlines()]
        (window,) = [line for line in lines if line[0].startswith("window-")]
        assert window[1] == "a" and float(window[2]) == pytest.approx(2.0, abs=0.1)
    else:
        assert [each.name for each in tmp_path.iterdir()] == [output]


def crops(path, config):
    table = CutTable(path)
    dataset = MultiCropDataset(table, config)
    return {table[at].id: dataset[0, (at,), 1.0] for at in range(len(table))}


def test_mixed_cuts_are_trained_on(place, tmp_path):
    run("select-cuts", place / "cuts.jsonl.gz", tmp_path / "selected.jsonl.gz", *set_options(TINY))
    config = load_config(None, [*TINY, "crops.global_seconds=4"])
    batches = crops(tmp_path / "selected.jsonl.gz", config)
    assert not any(batch.skipped for batch in batches.values())
    padded = batches["padded"].global_crops[0].numpy()
    cut = {cut.id: cut for cut in load_manifest(place / "cuts.jsonl.gz")}["padded"]
    np.testing.assert_allclose(padded / 32768, cut.load_audio()[0], atol=1e-4)


@pytest.mark.parametrize(
    "change, setting, message",
    [
        (lambda cut: fastcopy(cut.pad(4.0), id="a"), "input=fbank", "stored fbank of padded"),
        (lambda cut: cut, "input=fbank", "no stored features"),
        (lambda cut: fastcopy(cut, recording=None), "input=waveform", "no recording"),
    ],
)
def test_kinds_that_cannot_be_trained_on_are_refused_first(place, tmp_path, change, setting, message):
    (a, *_) = load_manifest(place / "cuts.jsonl.gz")
    write_manifest([change(a)], tmp_path / "one.jsonl.gz")
    options = set_options([*TINY, setting])
    said = run("select-cuts", tmp_path / "one.jsonl.gz", tmp_path / "selected.jsonl.gz", *options, status=1)
    assert said.startswith(f"cut 'a': {message}")
    with pytest.raises(InputError, match=f"one.jsonl.gz: {message}"):
        crops(tmp_path / "one.jsonl.gz", load_config(None, [*TINY, setting]))


def test_mixed_cuts_do_not_fit_into_shards(place, tmp_path):
    assert "shards" in run("shar", place / "cuts.jsonl.gz", tmp_path / "shar", status=1)
