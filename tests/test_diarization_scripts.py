"""The scripts of diarization/ as recipes call them, from a data directory to labels.

tests/test_kaldi_recipes.py runs score_plda.sh and cluster.sh within a recipe.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import kaldi_native_io
import numpy as np
import pytest

from sdpn_k2.kaldi.datadir import data_dir, data_dir_ops, derived_dirs
from sdpn_k2.kaldi.formats.tables import read_object

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "utils/kaldi-bin"


@pytest.fixture
def call(tmp_path):
    def run(name, *arguments):
        return subprocess.run([str(ROOT / name), *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True)

    return run


def succeeds(result):
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def refused(result):
    """Return the line with which a script ended."""
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def vectors(rspecifier):
    with kaldi_native_io.SequentialFloatVectorReader(str(rspecifier)) as reader:
        return {key: np.array(value) for key, value in reader}


@pytest.fixture
def meeting(tmp_path, golden):
    """Two recordings of 8 and 5 s: features of 24 dimensions, segments, and VAD decisions of a frame in three."""
    random = np.random.default_rng(3)
    features = {"rec1": random.normal(size=(800, 24)), "rec2": random.normal(size=(500, 24))}
    with kaldi_native_io.FloatMatrixWriter(f"ark,scp:{tmp_path}/f.ark,{tmp_path}/f.scp") as output:
        for key, value in features.items():
            output[key] = value.astype(np.float32)
    data_dir_ops.write_data_dir(
        tmp_path / "whole",
        {key: f"/audio/{key}.wav" for key in features},
        {key: key for key in features},
        {"feats.scp": data_dir.read_map(tmp_path / "f.scp")},
    )
    segments = {"rec1-a": ("rec1", 0.5, 4.0), "rec1-b": ("rec1", 4.2, 4.6), "rec2-a": ("rec2", 0.0, 5.0)}
    (tmp_path / "parts").write_text("".join(f"{name} {r} {a} {b}\n" for name, (r, a, b) in segments.items()))
    derived_dirs.subsegment(tmp_path / "whole", tmp_path / "parts", tmp_path / "data")
    network = tmp_path / "net"
    network.mkdir()
    for name, text in (("min_chunk_size", "25\n"), ("max_chunk_size", "1000\n")):
        (network / name).write_text(text)
    shutil.copy(golden / "nnet3/xvector.raw", network / "final.raw")
    shutil.copy(golden / "nnet3/extract_xvector.config", network / "extract.config")
    return features


# By hand: windows of 1.5 s every 0.75 s. After four of 5 s, 2.0 s are left; after three of 3.5 s, 1.25 s.
WINDOWS = {
    "rec1-a": [(0, 150), (75, 225), (150, 300), (225, 350)],
    "rec1-b": [(0, 40)],
    "rec2-a": [(0, 150), (75, 225), (150, 300), (225, 375), (300, 450), (375, 500)],
}


def test_extraction_with_a_network_of_kaldi(call, meeting, tmp_path):
    command = ["diarization/nnet3/xvector/extract_xvectors.sh", "--nj", 40, "--window", 1.5, "--period", 0.75]
    text = succeeds(call(*command, "--apply-cmn", "false", "net", "data", "exp/x"))
    assert "running 2 jobs instead of 40" in text and "11 embeddings" in text
    folder = tmp_path / "exp/x"
    offsets = {"rec1-a": 50, "rec1-b": 420, "rec2-a": 0}
    frames, times = {}, {}
    for segment, windows in WINDOWS.items():
        recording = segment[:4]
        for first, last in windows:
            name = f"{segment}-{first:08d}-{last:08d}"
            first, last = first + offsets[segment], last + offsets[segment]
            frames[name], times[name] = meeting[recording][first:last], (recording, first / 100, last / 100)
    found = {name: (r, float(a), float(b)) for name, (r, a, b) in data_dir.read_lists(folder / "segments").items()}
    assert found == times
    assert data_dir.read_map(folder / "utt2spk") == {name: name[:4] for name in frames}

    with kaldi_native_io.FloatMatrixWriter(f"ark:{tmp_path}/w.ark") as output:
        for name, value in frames.items():
            output[name] = value.astype(np.float32)
    net = f"nnet3-copy --nnet-config={tmp_path}/net/extract.config {tmp_path}/net/final.raw - |"
    path = f"{TOOLS}:{os.environ['PATH']}"
    options = ["--min-chunk-size=25", "--chunk-size=1000", net, f"ark:{tmp_path}/w.ark", f"ark:{tmp_path}/e.ark"]
    subprocess.run([TOOLS / "nnet3-xvector-compute", *options], check=True, env={**os.environ, "PATH": path})
    expected, found = vectors(f"ark:{tmp_path}/e.ark"), vectors(f"scp:{folder}/xvector.scp")
    assert list(found) == list(expected) == list(frames)
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
    matrix = np.stack(list(found.values())).astype(float)
    np.testing.assert_allclose(read_object(f"{folder}/mean.vec", "vector"), matrix.mean(axis=0), rtol=1e-4, atol=1e-5)
    assert read_object(f"{folder}/transform.mat", "matrix").shape[1] == matrix.shape[1]

    # Normalised features, without the short segment, and a smaller whitening; then the last stage alone.
    succeeds(call(*command, "--hard-min", "true", "--pca-dim", 4, "net", "data", "exp/y"))
    assert len(vectors(f"scp:{tmp_path}/exp/y/xvector.scp")) == 10
    assert len(read_object(f"{tmp_path}/exp/y/transform.mat", "matrix")) == 4
    succeeds(call(*command, "--stage", 4, "--pca-dim", 3, "net", "data", "exp/y"))
    assert len(read_object(f"{tmp_path}/exp/y/transform.mat", "matrix")) == 3


@pytest.mark.slow
def test_extraction_with_our_model_is_extract_windows(call, speech, tmp_path):
    """The script and `sdpn-k2 extract-windows` embed the same windows of the same audio."""
    from recipe_embeddings import write_conversations

    write_conversations(tmp_path, speech)
    command = ["diarization/extract_xvectors.sh", "--nj", 1, "--window", 2.0, "--period", 1.0]
    succeeds(call(*command, tmp_path, "data/callhome1", "exp/script"))
    expected = vectors(f"scp:{tmp_path}/exp/xvectors_callhome1/xvector.scp")
    found = vectors(f"scp:{tmp_path}/exp/script/xvector.scp")
    times = [data_dir.read_segments(tmp_path / "exp" / name / "segments") for name in ("xvectors_callhome1", "script")]
    by_time = [{(s.recording, round(s.start, 1)): name for name, s in table.items()} for table in times]
    assert by_time[0].keys() == by_time[1].keys() and len(by_time[0]) == len(found)
    for key, name in by_time[0].items():
        ours = found[by_time[1][key]]
        assert np.linalg.norm(ours - expected[name]) < 0.02 * np.linalg.norm(ours), key


def test_segments_from_vad(call, meeting, tmp_path):
    shutil.copytree(tmp_path / "whole", tmp_path / "vad")
    speech = {"rec1": np.zeros(800), "rec2": np.zeros(500)}
    speech["rec1"][100:300] = speech["rec1"][500:510] = speech["rec2"][200:500] = 1
    with kaldi_native_io.FloatVectorWriter(f"ark,scp:{tmp_path}/v.ark,{tmp_path}/vad/vad.scp") as output:
        for key, value in speech.items():
            output[key] = value.astype(np.float32)
    options = ["--segmentation-opts", "--silence-proportion 0.02 --max-segment-length 10"]
    text = succeeds(call("diarization/vad_to_segments.sh", "--nj", 40, *options, "vad", "segmented"))
    assert "running 2 jobs instead of 40" in text
    segments = list(data_dir.read_segments(tmp_path / "segmented/segments").values())
    assert [segment.recording for segment in segments] == ["rec1", "rec2"]  # 0.1 s is too short
    times = [time for segment in segments for time in segment[1:]]
    np.testing.assert_allclose(times, [1.0, 3.0, 2.0, 5.0], atol=0.07)
    ranges = [entry.rpartition("[")[2] for entry in data_dir.read_map(tmp_path / "segmented/feats.scp").values()]
    assert ranges == [f"{round(100 * part.start)}:{round(100 * part.end) - 1}]" for part in segments]
    assert (tmp_path / "vad/subsegments").is_file()
    text = refused(call("diarization/vad_to_segments.sh", "--stage", 1, "whole", "out"))
    assert "whole/vad.scp" in text
    text = call("diarization/vad_to_segments.sh", "--nj", 1, "--min-duration", 60, "vad", "out").stderr
    assert "no speech of 60 s" in text


def test_segments_without_vectors_are_left_out(call, golden, tmp_path):
    """A segment that could not be embedded costs neither the scores nor the turns of the others."""
    for name in ("plda", "mean.vec", "transform.mat"):
        (tmp_path / "plda").mkdir(exist_ok=True)
        shutil.copy(golden / name, tmp_path / "plda")
    shutil.copytree(golden, tmp_path / "vectors", ignore=lambda _, names: {n for n in names if n != "test.ark"})
    folder = tmp_path / "vectors"
    names = [line.split() for line in (golden / "reco2utt").read_text().splitlines()][:2]
    known = vectors(f"ark:{folder}/test.ark")
    with kaldi_native_io.FloatVectorWriter(f"ark,scp:{folder}/x.ark,{folder}/xvector.scp") as output:
        for _, *utterances in names:
            for utterance in utterances[1:]:
                output[utterance] = known[utterance]
    data_dir.write_map(folder / "segments", {u: (r, i, i + 1.5) for r, *us in names for i, u in enumerate(us)})
    data_dir.write_map(folder / "utt2spk", {u: r for r, *us in names for u in us})
    data_dir.write_map(folder / "spk2utt", {r: us for r, *us in names})
    text = succeeds(call("diarization/score_plda.sh", "--nj", 2, "--target-energy", 0.5, "plda", "vectors", "scores"))
    assert "2 of " in text and "have no vector" in text
    succeeds(call("diarization/cluster.sh", "--nj", 2, "--rttm-channel", 1, "--threshold", 0, "scores", "scores"))
    labels = data_dir.read_map(tmp_path / "scores/labels")
    assert set(labels) == {u for _, *us in names for u in us[1:]}
    assert {line.split()[2] for line in (tmp_path / "scores/rttm").read_text().splitlines()} == {"1"}
    assert not (tmp_path / "scores/tmp").exists()


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        ("extract_xvectors.sh", ["none", "data", "x"], "none/final.pt"),
        ("extract_xvectors.sh", ["net", "whole", "x"], "whole/segments.*get_segments_for_data.sh"),
        ("extract_xvectors.sh", ["net", "x"], "Usage"),
        ("score_plda.sh", ["net", "data", "x"], "data/xvector.scp"),
        ("cluster.sh", ["data", "x"], "data/scores.scp"),
        ("cluster.sh", ["--reco2num-spk", "none", "data", "x"], "data/scores.scp"),
        ("vad_to_segments.sh", ["data", "x"], "data/vad.scp"),
    ],
)
def test_missing_files(call, meeting, script, arguments, message, tmp_path):
    assert re.search(message, refused(call(f"diarization/{script}", *arguments)))
    assert not (tmp_path / "x").exists()
