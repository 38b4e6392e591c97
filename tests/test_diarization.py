"""X-vectors of windows: the windows and layouts of Kaldi and VBx, and Kaldi's clustering of them."""

import itertools
import shutil
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from tiny_models import write_data, write_model

from sdpn_k2.cli import cli
from sdpn_k2.errors import InputError
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi import tools
from sdpn_k2.kaldi.backend.plda import Plda, write_plda
from sdpn_k2.kaldi.datadir.data_dir import read_lists, read_map, write_map
from sdpn_k2.kaldi.datadir.subsegments import Windowing, uniform_windows
from sdpn_k2.kaldi.datadir.utterances import read_utterances
from sdpn_k2.kaldi.formats.tables import read_object, read_table


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "final.pt", embedding_dim=10)


@pytest.fixture(scope="module")
def utterances(speech, tmp_path_factory):
    """Utterance → samples, of three speakers."""
    return dict(read_utterances(write_data(tmp_path_factory.mktemp("data"), speech), 16000))


@pytest.fixture(scope="module")
def meeting(utterances, tmp_path_factory):
    """Two recordings in which speakers take turns, with the segments in which they speak."""
    folder = tmp_path_factory.mktemp("meeting")
    segments, wav = {}, {}
    turns = sorted(utterances)
    for recording, names in (("rec1", turns[0::2]), ("rec10", turns[1::2])):
        pieces, position = [np.zeros(4000, np.float32)], 0.25
        for name in names:
            length = len(utterances[name]) / 16000
            segments[f"{recording}-{len(segments):03d}"] = (recording, round(position, 2), round(position + length, 2))
            pieces += [utterances[name], np.zeros(3200, np.float32)]
            position += length + 0.2
        soundfile.write(folder / f"{recording}.wav", np.concatenate(pieces), 16000, subtype="PCM_16")
        wav[recording] = str(folder / f"{recording}.wav")
    write_map(folder / "wav.scp", wav)
    write_map(folder / "segments", segments)
    write_map(folder / "utt2spk", {name: name for name in segments})
    return folder


def extract(*arguments):
    result = CliRunner().invoke(cli, ["extract-windows", "--device", "cpu", *map(str, arguments)])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    "duration, expected",
    [
        (1.0, [(0, 1.0)]),
        (1.5, [(0, 1.5)]),
        (2.0, [(0, 1.5), (0.75, 2.0)]),
        (2.3, [(0, 1.5), (0.75, 2.25), (1.5, 2.3)]),
        (3.0, [(0, 1.5), (0.75, 2.25), (1.5, 3.0)]),
        (0.3, [(0, 0.3)]),
    ],
)
def test_windows_of_a_segment(duration, expected):
    """By hand, from Kaldi's get_uniform_subsegments.py with a window of 1.5 s every 0.75 s and constant duration."""
    np.testing.assert_allclose(list(uniform_windows(duration, Windowing())), expected, atol=1e-9)


def test_a_short_remainder_makes_the_last_window_begin_earlier():
    # 2.3 s in steps of 1 s: 1.3 s are left after the first, 0.3 s after the second window.
    windows = list(uniform_windows(3.3, Windowing(1.5, 1.0, 1.4)))
    np.testing.assert_allclose(windows, [(0, 1.5), (1.0, 2.5), (1.8, 3.3)], atol=1e-9)


def test_layout_times_and_vectors(model, meeting, tmp_path):
    assert "windows of 9 segments in 2 recordings" in extract(model, meeting, tmp_path)
    vectors = dict(read_table(f"scp:{tmp_path}/xvector.scp", "vector"))
    windows = {name: value.split() for name, value in read_map(tmp_path / "segments").items()}
    assert list(vectors) == list(windows) == sorted(windows)
    assert read_map(tmp_path / "utt2spk") == {name: value[0] for name, value in windows.items()}
    by_recording = read_lists(tmp_path / "spk2utt")
    assert list(by_recording) == ["rec1", "rec10"] and sorted(itertools.chain(*by_recording.values())) == list(windows)

    extractor = Extractor.load(model)
    given = {name: value.split() for name, value in read_map(meeting / "segments").items()}
    for recording in by_recording:
        samples = soundfile.read(meeting / f"{recording}.wav", dtype="float32")[0]
        expected = [
            (float(start) + a, float(start) + b)
            for name, start, end in given.values()
            if name == recording
            for a, b in uniform_windows(float(end) - float(start), Windowing())
        ]
        times = [tuple(map(float, windows[name][1:])) for name in by_recording[recording]]
        np.testing.assert_allclose(times, expected, atol=0.011)
        for name in by_recording[recording][::7]:
            start, end = (float(time) for time in windows[name][1:])
            expected = extractor.embed(samples[round(16000 * start) : round(16000 * end)])
            np.testing.assert_allclose(vectors[name], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    matrix = np.stack(list(vectors.values())).astype(np.float64)
    np.testing.assert_allclose(read_object(f"{tmp_path}/mean.vec", "vector"), matrix.mean(axis=0), rtol=1e-4, atol=1e-5)
    whitened = (matrix - matrix.mean(axis=0)) @ read_object(f"{tmp_path}/transform.mat", "matrix").T
    np.testing.assert_allclose(whitened.T @ whitened / len(whitened), np.eye(10), atol=2e-2)
    assert not (tmp_path / "plda").exists()


def test_windows_pass_through_kaldis_clustering(model, meeting, utterances, tmp_path, monkeypatch):
    """PLDA on windows of known speakers, then the commands of Kaldi's score_plda.sh and cluster.sh."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        assert tools.run(words[0], words[1:]) in (0, None)

    train = tmp_path / "train"
    train.mkdir()
    for name, samples in utterances.items():
        soundfile.write(train / f"{name}.wav", samples, 16000, subtype="PCM_16")
    write_map(train / "wav.scp", {name: str(train / f"{name}.wav") for name in utterances})
    write_map(train / "utt2spk", {name: name.split("-")[0] for name in utterances})
    extract("--window", 1, "--shift", 0.3, model, train, "back")
    # Classes are speakers here, not recordings.
    write_map("back/spk", {name: name.split("-")[0] for name in read_map("back/utt2spk")})
    with open("back/spk2utt.plda", "w") as stream:
        groups = itertools.groupby(sorted(read_map("back/spk").items()), key=lambda item: item[1])
        stream.writelines(f"{speaker} {' '.join(name for name, _ in items)}\n" for speaker, items in groups)
    feats = (
        "ark:ivector-subtract-global-mean back/mean.vec scp:{}/xvector.scp ark:- | "
        "transform-vec back/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |"
    )
    monkeypatch.setenv("PATH", str(Path(__file__).parents[1] / "utils" / "kaldi-bin"), prepend=":")
    run("ivector-compute-plda", "ark:back/spk2utt.plda", feats.format("back"), "back/plda")

    extract("--backend", "back", model, meeting, "windows")
    for name in ("plda", "mean.vec", "transform.mat"):
        assert (tmp_path / "windows" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    run(
        "ivector-plda-scoring-dense",
        "--target-energy=0.5",
        "windows/plda",
        "ark:windows/spk2utt",
        feats.format("windows"),
        "ark,scp:scores.ark,scores.scp",
    )
    spk2utt = read_lists("windows/spk2utt")
    scores = dict(read_table("scp:scores.scp", "matrix"))
    assert {name: matrix.shape for name, matrix in scores.items()} == {
        name: (len(windows), len(windows)) for name, windows in spk2utt.items()
    }
    write_map("reco2num_spk", dict.fromkeys(spk2utt, 3))
    run(
        "agglomerative-cluster",
        "--read-costs=false",
        "--reco2num-spk-rspecifier=ark,t:reco2num_spk",
        "scp:scores.scp",
        "ark,t:windows/spk2utt",
        "ark,t:labels",
    )
    labels = read_map("labels")
    assert set(labels) == set(read_map("windows/segments"))
    for windows in spk2utt.values():
        assert len({labels[name] for name in windows}) == 3


def test_vbx_reads_its_layout(model, meeting, tmp_path):
    extract("--layout", "vbx", "--window", 1.44, "--shift", 0.24, model, meeting, tmp_path)
    # As VBx's vbhmm.py and read_xvector_timing_dict do.
    segments = np.loadtxt(tmp_path / "segments", dtype=object)
    borders = np.nonzero(segments[1:, 1] != segments[:-1, 1])[0] + 1
    timing = {part[0, 1]: (part[:, 0], part[:, 2:].astype(float)) for part in np.split(segments, borders)}
    archive = kaldiio.load_ark(str(tmp_path / "xvector.ark"))
    recordings = []
    for recording, some in itertools.groupby(archive, lambda entry: entry[0].rsplit("_", 1)[0]):
        names, vectors = zip(*some)
        recordings.append(recording)
        assert np.all(timing[recording][0] == np.array(names))
        starts, ends = timing[recording][1].T
        assert np.all(np.diff(starts) >= 0) and np.all(ends > starts) and np.all(ends - starts < 1.441)
        assert np.array(vectors).shape == (len(names), 10)
    assert sorted(recordings) == ["rec1", "rec10"]


def test_without_segments_recordings_are_cut(model, meeting, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(meeting / "wav.scp", data)
    extract(model, data, tmp_path / "out")
    ends = {name: float(value.split()[2]) for name, value in read_map(tmp_path / "out" / "segments").items()}
    longest = max(soundfile.info(path).duration for path in meeting.glob("*.wav"))
    assert max(ends.values()) == pytest.approx(longest, abs=1e-3)


# Bad input.


@pytest.fixture
def data(meeting, tmp_path):
    """A copy of the meeting, for damage."""
    shutil.copytree(meeting, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize(
    "segments, options, message",
    [
        ("", [], "segments: empty"),
        ("a rec1 1 3\nb rec1 2.5 4\n", [], "segments: 'a' .*3 s.* 'b' .*2.5 s.*rec1"),
        ("a rec1 3 1\n", [], "segments:1: 'a' .*3 .*1 s"),
        ("a rec1 1 2\nb rec7 1 2\n", [], "segments:2: .*'rec7'"),
        ("a rec1 1 2 left\n", [], "segments:1: 'left'"),
        ("a rec1 1 2 5\n", [], "1 of 1 segments.*'a': .*rec1 .*5"),
        ("a rec1 400 402\n", [], "1 of 1 segments.*'a': .*400 .*402 s.*rec1"),
        ("a rec1 1 2\n", ["--shift", 2], "shift 2 s"),
    ],
)
def test_bad_segments(model, data, tmp_path, segments, options, message):
    (data / "segments").write_text(segments)
    with pytest.raises(InputError, match=message):
        extract(*options, model, data, tmp_path / "out")
    assert not (tmp_path / "out" / "xvector.scp").exists()
    assert segments or not (tmp_path / "out").exists()


def test_bad_back_ends(model, meeting, tmp_path):
    good = tmp_path / "good"

    def refused(message, *arguments):
        with pytest.raises(InputError, match=message):
            extract(*arguments, meeting, tmp_path / "out")
        assert not (tmp_path / "out" / "xvector.scp").exists()

    refused("mean.vec: no such file.* plda", "--backend", tmp_path, model)
    extract(model, meeting, good)
    shutil.copy(good / "transform.mat", good / "plda")
    refused("good/plda: .*<Plda>", "--backend", good, model)
    write_plda(str(good / "plda"), Plda(np.zeros(9), np.eye(9), np.ones(9)))
    refused("plda: .*9 dimensions.* 10", "--backend", good, model)
    other = write_model(tmp_path / "other.pt", embedding_dim=7)
    refused("mean.vec: .*10 dimensions.* 7", "--backend", good, other)
    with pytest.raises(InputError, match="good/plda: already exists.* --backend"):
        extract(model, meeting, good)
    with pytest.raises(InputError, match="wav.scp/below"):
        extract(model, meeting, meeting / "wav.scp" / "below")


def test_windows_that_kaldi_cannot_sort_need_the_vbx_layout(model, data, tmp_path):
    (data / "wav.scp").write_text(f"rec1 {data}/rec1.wav\nrec1!x {data}/rec10.wav\n")
    (data / "segments").write_text("a rec1 1 2\nb rec1!x 1 2\n")
    with pytest.raises(InputError, match="'rec1' and 'rec1!x'.* --layout vbx"):
        extract(model, data, tmp_path / "out")
    extract("--layout", "vbx", model, data, tmp_path / "out")
