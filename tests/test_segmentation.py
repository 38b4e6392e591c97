"""Speech segmentation: decoding with torch and with k2, the model of log energy, ``sdpn-k2 vad``."""

import importlib.util
import itertools
import re
import sys

import kaldiio
import lhotse
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from kaldi_support import ROOT, load, speech_like, succeed, write_ark
from scipy.io import wavfile
from sklearn.mixture import GaussianMixture

from sdpn_k2.cli import cli
from sdpn_k2.errors import InputError
from sdpn_k2.inference.speech_detection import detect_speech
from sdpn_k2.kaldi.datadir.data_dir import read_map, read_segments, write_map
from sdpn_k2.kaldi.features.fbank_mfcc import FbankOptions, fbank, num_frames
from sdpn_k2.signal import segmentation
from sdpn_k2.signal.decoders import find_decoder
from sdpn_k2.signal.segmentation import Topology, log_energy, segment, spans, two_gaussians, viterbi


def reference(log_likelihoods, topology):
    """Return labels and score of a float64 Viterbi, state by state: the chain of non-speech, then that of speech."""
    frames = len(log_likelihoods)
    minimum = [min(topology.min_nonspeech, frames), min(topology.min_speech, frames)]
    cost = [topology.to_nonspeech_cost, topology.to_speech_cost]
    kind = np.repeat([0, 1], minimum)
    first, last = [0, minimum[0]], [minimum[0] - 1, minimum[0] + minimum[1] - 1]
    arcs = np.full((len(kind), len(kind)), -np.inf)  # from, to
    for c in (0, 1):
        for state in range(first[c], last[c]):
            arcs[state, state + 1] = 0.0
        arcs[last[c], last[c]] = 0.0
        arcs[last[c], first[1 - c]] = -cost[1 - c]
    scores = np.full(len(kind), -np.inf)
    scores[first] = log_likelihoods[0]
    pointers = []
    for frame in log_likelihoods[1:]:
        candidates = scores[:, None] + arcs
        pointers.append(candidates.argmax(axis=0))
        scores = candidates.max(axis=0) + frame[kind]
    state = max(last, key=lambda end: scores[end])
    score, path = scores[state], [state]
    for pointer in reversed(pointers):
        path.append(pointer[path[-1]])
    return kind[path[::-1]] == 1, score


def score_of(speech, log_likelihoods, topology):
    """Return the score of given labels."""
    changes = np.diff(speech.astype(int))
    cost = topology.to_speech_cost * (changes == 1).sum() + topology.to_nonspeech_cost * (changes == -1).sum()
    return np.take_along_axis(np.asarray(log_likelihoods), speech[:, None].astype(int), axis=1).sum() - cost


def runs(labels):
    """Return the lengths of the segments, and their classes."""
    edges = np.flatnonzero(np.diff(labels.astype(int))) + 1
    return np.diff([0, *edges, len(labels)]), [bool(part[0]) for part in np.split(labels, edges)]


# Decoding


def check_random_paths(decode):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        topology = Topology(*rng.integers(1, 25, 2).tolist(), *rng.uniform(-1, 6, 2).tolist())
        # Different lengths, not in order; some shorter than a minimum duration.
        batch = [rng.normal(size=(frames, 2)) * rng.uniform(0.3, 3) for frames in [*rng.integers(1, 250, 6), 1, 2, 7]]
        paths = decode([torch.from_numpy(values) for values in batch], topology)
        for values, path in zip(batch, paths):
            labels, score = reference(values, topology)
            assert path.score == pytest.approx(score, rel=1e-4, abs=1e-5)
            np.testing.assert_array_equal(path.speech, labels)
            durations, kinds = runs(path.speech)
            for duration, is_speech in zip(durations, kinds):
                assert duration >= min(len(values), topology.min_speech if is_speech else topology.min_nonspeech)


def check_ten_minutes_beside_short_recordings(decode):
    rng = np.random.default_rng(1)
    long = rng.normal(size=(60_000, 2)) * 3 + 40  # far from zero: where float32 sums would drift
    long[:, 1] += np.repeat(rng.normal(size=600), 100)
    batch = [rng.normal(size=(5, 2)), long, np.zeros((0, 2)), rng.normal(size=(1000, 2))]
    paths = decode([torch.from_numpy(values) for values in batch], Topology())
    labels, score = reference(long, Topology())
    assert paths[1].score == pytest.approx(score, rel=1e-6)
    np.testing.assert_array_equal(paths[1].speech, labels)
    assert [len(path.speech) for path in paths] == [5, 60_000, 0, 1000]
    assert paths[2].score == 0.0


def check_shorter_than_any_minimum_is_one_segment(decode):
    topology = Topology(min_speech=20, min_nonspeech=30)
    values = torch.tensor([[0.0, 3.0], [0.0, -1.0], [0.0, -1.0]])
    speech, quiet, middle = decode([values, -values, torch.randn(25, 2).double()], topology)
    assert speech.speech.tolist() == [True] * 3 and speech.score == pytest.approx(1.0)
    assert quiet.speech.tolist() == [False] * 3 and quiet.score == 0.0
    assert len(runs(middle.speech)[0]) == 1


def check_nothing_to_decode(decode):
    assert decode([], Topology()) == []
    (path,) = decode([torch.zeros(0, 2)], Topology())
    assert len(path.speech) == 0 and path.score == 0.0


CHECKS = (
    check_random_paths,
    check_ten_minutes_beside_short_recordings,
    check_shorter_than_any_minimum_is_one_segment,
    check_nothing_to_decode,
)


@pytest.mark.parametrize("check", CHECKS)
def test_torch_equals_a_float64_viterbi(check):
    check(find_decoder("torch"))


def test_ties_go_to_speech_and_then_to_later_segments():
    """All segmentations of 7 frames, scores in whole numbers so that many tie, against the rule of the docstring."""
    rng = np.random.default_rng(0)
    tied = 0
    for _ in range(60):
        topology = Topology(*rng.integers(1, 4, 2).tolist(), 1.0, 1.0)
        values = rng.integers(-1, 2, (7, 2)).astype(float)
        candidates = []
        for labels in itertools.product([False, True], repeat=7):
            labels = np.array(labels)
            durations, kinds = runs(labels)
            minima = [topology.min_speech if kind else topology.min_nonspeech for kind in kinds]
            if (durations >= minima).all():
                candidates.append((score_of(labels, values, topology), kinds[-1], durations[::-1].tolist(), labels))
        best = max(candidates, key=lambda candidate: candidate[:3])
        tied += sum(candidate[0] == best[0] for candidate in candidates) > 1
        (path,) = viterbi([torch.from_numpy(values)], topology)
        assert path.score == best[0]
        np.testing.assert_array_equal(path.speech, best[3])
    assert tied > 20


def test_bad_topologies():
    with pytest.raises(InputError, match="min_speech"):
        Topology(min_speech=0)
    with pytest.raises(InputError, match="to_speech_cost.*nan"):
        Topology(to_speech_cost=float("nan"))
    with pytest.raises(InputError, match="'cuda'.*auto, k2, torch"):
        find_decoder("cuda")


# The model of log energy


def test_log_energy_averages_kaldis_frames_with_their_neighbours():
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal(5000) + 0.3).astype(np.float32)  # with an offset, which has no effect
    found = log_energy(torch.from_numpy(samples), 16000).numpy()
    assert len(found) == num_frames(5000, FbankOptions())
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), 400)[::160]
    energy = ((frames - frames.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    wanted = [np.log(energy[max(0, i - 7) : i + 8].mean()) for i in range(len(energy))]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert len(log_energy(torch.zeros(399), 16000)) == 0 and len(log_energy(torch.zeros(400), 16000)) == 1
    assert (log_energy(torch.full((2000,), 0.25), 16000) == np.float32(np.log(segmentation.SILENCE))).all()


def test_gaussians_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    batch = []
    for quiet, loud, frames in ((-12, -4, 900), (-6, -2, 400)):
        is_speech = rng.random(frames) < 0.4
        batch.append(np.where(is_speech, rng.normal(loud, 1.2, frames), rng.normal(quiet, 0.5, frames)))
    width = max(map(len, batch))
    values = torch.stack([torch.nn.functional.pad(torch.from_numpy(row), (0, width - len(row))) for row in batch])
    used = torch.arange(width) < torch.tensor([[len(row)] for row in batch])
    mean, variance = segmentation._fit_two_gaussians(values, used)
    for row, found_mean, found_variance in zip(batch, mean.numpy(), variance.numpy()):
        model = GaussianMixture(2, tol=1e-9, max_iter=500, random_state=0).fit(row[:, None])
        order = model.means_[:, 0].argsort()
        np.testing.assert_allclose(found_mean, model.means_[order, 0], atol=1e-3)
        np.testing.assert_allclose(found_variance, model.covariances_[order, 0, 0], rtol=1e-2)


def test_evidence_for_speech_grows_with_energy_and_zeros_are_not_fitted():
    rng = np.random.default_rng(0)
    energies = torch.from_numpy(np.concatenate([rng.normal(-10, 0.3, 300), rng.normal(-3, 2.5, 200)]))
    (values,) = two_gaussians([energies])
    evidence = (values[:, 1] - values[:, 0])[energies.argsort()]
    assert (evidence.diff() >= -1e-12).all() and evidence[0] < 0 < evidence[-1]
    zeros = torch.full((400,), float(np.log(segmentation.SILENCE)), dtype=torch.float64)
    # Beside another recording, and with a gap: the same.
    gapped, _ = two_gaussians([torch.cat([energies[:250], zeros, energies[250:]]), energies[:7]])
    torch.testing.assert_close(torch.cat([gapped[:250], gapped[650:]]), values)
    assert (gapped[250:650, 0] > gapped[250:650, 1]).all()


def test_a_single_level_is_not_speech():
    noise = 0.01 * torch.randn(48000, generator=torch.Generator().manual_seed(0))
    recordings = [noise, torch.zeros(48000), torch.full((48000,), 0.5), torch.zeros(400), torch.zeros(0)]
    paths = segment([log_energy(samples, 16000) for samples in recordings])
    assert [len(path.speech) for path in paths] == [298, 298, 298, 1, 0]
    assert not any(path.speech.any() for path in paths)


def test_other_frame_classifiers():
    frames = [torch.randn(100, 24), torch.randn(60, 24)]
    frames[0][40:80, 3] += 20

    def classify(batch):
        return [torch.stack([torch.zeros(len(item)), item[:, 3] - 10], dim=1) for item in batch]

    first, second = segment(frames, Topology(10, 10), classify)
    assert spans(first.speech) == [(40, 80)] and spans(second.speech) == []
    with pytest.raises(InputError, match=r"recording 0: .*\(100, 24\).*\(100, 2\)"):
        segment(frames, classify=list)
    with pytest.raises(InputError, match="recording 1: .*frame 5"):
        bad = [torch.zeros(9, 2), torch.zeros(9, 2)]
        bad[1][5, 0] = -float("inf")
        segment(bad, classify=list)


# In noise


@pytest.fixture(scope="module")
def judge():
    """Load benchmarks/vad.py, which makes noisy speech with known boundaries."""
    spec = importlib.util.spec_from_file_location("benchmark_vad", ROOT / "benchmarks" / "vad.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def noisy(judge, speech):
    return list(judge.recordings(speech, "test", 8))


def error_ratio(judge, recordings):
    """Return the errors of sdpn-k2 vad as a share of those of the better setting of compute-vad."""
    mean = {system: np.mean(list(by_snr.values())) for system, by_snr in judge.errors(recordings).items()}
    return mean[judge.OURS] / min(mean[judge.KALDI], mean[judge.RECIPE])


def test_half_the_errors_of_compute_vad_in_noise(judge, noisy):
    assert error_ratio(judge, noisy) <= 0.5


def test_a_quarter_fewer_errors_than_compute_vad_on_real_speech(judge, shared):
    assert error_ratio(judge, list(judge.recordings(shared / "corpora", "test", 8))) <= 0.75


def test_k2_and_torch_find_the_same_paths(noisy):
    pytest.importorskip("k2")
    from sdpn_k2.signal.k2_segmentation import topology_fsa

    for check in CHECKS:
        check(find_decoder("k2"))

    fsa = topology_fsa(Topology(min_speech=2, min_nonspeech=3, to_speech_cost=5.0, to_nonspeech_cost=7.0))
    assert fsa.shape[0] == 1 + 3 + 2 + 1
    assert fsa.num_arcs == 2 + 2 + 1 + 2 * 3  # starts, chains, and from each last state: stay, change, end
    assert sorted(fsa.scores[fsa.scores != 0].tolist()) == [-7.0, -5.0]

    topology = Topology()
    values = two_gaussians([log_energy(torch.from_numpy(recording.samples), 16000) for recording in noisy])
    for frames, ours, theirs in zip(values, viterbi(values, topology), find_decoder("k2")(values, topology)):
        assert theirs.score == pytest.approx(ours.score, rel=1e-4)
        # Where the labels differ, they are equally good.
        for path in (ours, theirs):
            assert score_of(path.speech, frames, topology) == pytest.approx(ours.score, rel=1e-6)


# The command


def write_wav(path, *seconds):
    """Write faint noise and loud sound in turn, each for the given seconds."""
    rng = np.random.default_rng(len(seconds))
    parts = []
    for index, duration in enumerate(seconds):
        faint = np.rint(rng.normal(0, 8, int(duration * 16000))).astype(np.int16)
        parts.append(speech_like(index, duration) + faint if index % 2 else faint)
    wavfile.write(str(path), 16000, np.concatenate(parts).astype(np.int16))


@pytest.fixture()
def data(tmp_path):
    """Write recordings: with known boundaries, silent, shorter than a frame, not a wave file, missing."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_wav(tmp_path / "a.wav", 1.0, 1.5, 1.2, 0.8, 0.9)
    write_wav(tmp_path / "b.wav", 0.5, 1.0, 0.7)
    wavfile.write(str(tmp_path / "silent.wav"), 16000, np.zeros(16000, np.int16))
    wavfile.write(str(tmp_path / "tiny.wav"), 16000, np.ones(300, np.int16))
    (tmp_path / "junk.wav").write_bytes(b"junk" * 100)
    names = {"s1-a": "a", "s1-b": "b", "s2-silent": "silent", "s3-tiny": "tiny", "s4-junk": "junk", "s5-gone": "gone"}
    (folder / "wav.scp").write_text("".join(f"{key} {tmp_path / name}.wav\n" for key, name in names.items()))
    (folder / "utt2spk").write_text("".join(f"{key} {key[:2]}\n" for key in names))
    speakers = ["s1 s1-a s1-b"] + [f"{key[:2]} {key}" for key in list(names)[2:]]
    (folder / "spk2utt").write_text("".join(f"{line}\n" for line in speakers))
    return folder


def detect(source, output, **options):
    return detect_speech(str(source), output, Topology(), viterbi, device=torch.device("cpu"), **options)


def test_command_writes_for_kaldi_and_lhotse(data, tmp_path):
    log = succeed("sdpn-k2 vad --skip-bad --decoder torch data out | tee printed", tmp_path)
    for name in ("s3-tiny", "s4-junk", "s5-gone"):
        assert sum(name in line for line in log.splitlines()) == 1
    assert re.match("out: 3 .* 3 ", (tmp_path / "printed").read_text())
    decisions = load(tmp_path / "out" / "vad.scp")
    assert list(decisions) == ["s1-a", "s1-b", "s2-silent"] and not decisions["s2-silent"].any()
    for name, vector in decisions.items():
        samples = kaldiio.load_mat(read_map(data / "wav.scp")[name])[1]
        assert len(vector) == num_frames(len(samples), FbankOptions()) and np.isin(vector, (0, 1)).all()

    segments = read_segments(tmp_path / "out" / "segments")
    assert [part.recording for part in segments.values()] == ["s1-a", "s1-a", "s1-b"]
    known = [(1.0, 2.5), (3.7, 4.5), (0.5, 1.5)]
    for (name, part), (start, end) in zip(segments.items(), known):
        assert abs(part.start - start) < 0.12 and abs(part.end - end) < 0.12
        first, last = (int(word) for word in name.split("-")[-2:])
        assert decisions[part.recording][first:last].all() and part.start == pytest.approx(first * 0.01, abs=2e-6)
    assert read_map(tmp_path / "out" / "utt2spk") == dict.fromkeys(segments, "s1")

    supervisions = lhotse.load_manifest(tmp_path / "out" / "supervisions.jsonl.gz")
    for item, (name, part) in zip(supervisions, segments.items()):
        assert (item.id, item.recording_id, item.speaker, item.channel) == (name, part.recording, "s1", 0)
        assert item.start == part.start and item.end == pytest.approx(part.end)

    # A data directory of the segments, as docs/vad.md makes it: its features are those of the speech frames.
    succeed(
        f"mkdir speech && cp data/wav.scp out/segments out/utt2spk speech && {ROOT}/utils/fix_data_dir.sh speech && "
        "extract-segments scp:speech/wav.scp speech/segments ark:- | "
        "compute-fbank-feats --dither=0 ark:- ark:speech/feats.ark",
        tmp_path,
    )
    for name, features in load(tmp_path / "speech" / "feats.ark").items():
        part = segments[name]
        samples = kaldiio.load_mat(read_map(data / "wav.scp")[part.recording])[1].astype(np.float32)
        first, last = (int(word) for word in name.split("-")[-2:])
        np.testing.assert_allclose(features, fbank(samples, FbankOptions(dither=0.0))[first:last], atol=1e-3)


def test_segments_of_a_data_directory_are_utterances(data, tmp_path):
    wav = data / "wav.scp"
    wav.write_text("".join(line + "\n" for line in wav.read_text().splitlines()[:2]))
    (data / "segments").write_text("s1-x s1-a 0.29 3.1\ns1-y s1-a 3.1 -1\ns1-z s1-b 0.1 1.9\n")
    (data / "utt2spk").write_text("s1-x s1\ns1-y s1\ns1-z s1\n")
    (data / "spk2utt").write_text("s1 s1-x s1-y s1-z\n")
    summary = detect(data, tmp_path / "out")
    assert (summary.utterances, summary.skipped, summary.segments) == (3, 0, 3)
    succeed(
        "extract-segments scp:data/wav.scp data/segments ark:parts.ark && wav-copy ark:parts.ark ark:- | "
        "compute-fbank-feats --dither=0 ark:- ark:feats.ark",
        tmp_path,
    )
    features = load(tmp_path / "feats.ark")
    assert {name: len(vector) for name, vector in load(tmp_path / "out" / "vad.ark").items()} == {
        name: len(matrix) for name, matrix in features.items()
    }
    found = [(part.recording, part.start, part.end) for part in read_segments(tmp_path / "out" / "segments").values()]
    for (recording, start, end), wanted in zip(found, [("s1-a", 1.0, 2.5), ("s1-a", 3.7, 4.5), ("s1-b", 0.5, 1.5)]):
        assert recording == wanted[0] and abs(start - wanted[1]) < 0.12 and abs(end - wanted[2]) < 0.12


def test_rspecifiers_and_given_log_likelihoods(data, tmp_path):
    lines = (data / "wav.scp").read_text().splitlines(keepends=True)
    (tmp_path / "good.scp").write_text("".join([*lines[:2], lines[5]]))
    with pytest.raises(InputError, match=r"good.scp: 1 of 3 utterances .*--skip-bad\); the first is 's5-gone'"):
        detect(f"scp:{tmp_path / 'good.scp'}", tmp_path / "one")
    assert not list((tmp_path / "one").iterdir())
    summary = detect(f"scp:{tmp_path / 'good.scp'}", tmp_path / "one", skip_bad=True)
    assert (summary.utterances, summary.skipped) == (2, 1)
    decisions = load(tmp_path / "one" / "vad.ark")
    assert list(decisions) == ["s1-a", "s1-b"]
    assert set(read_map(tmp_path / "one" / "utt2spk").values()) == {"s1-a", "s1-b"}

    own = {name: np.stack([1 - vector, vector], axis=1) * 9 for name, vector in decisions.items()}
    write_ark(tmp_path / "own.ark", {**own, "s1-b": own["s1-b"][:-1]})
    summary = detect(data, tmp_path / "two", log_likelihoods=f"ark:{tmp_path / 'own.ark'}", skip_bad=True)
    assert (summary.utterances, summary.skipped) == (1, 5)
    again = load(tmp_path / "two" / "vad.ark")
    assert list(again) == ["s1-a"]
    np.testing.assert_array_equal(again["s1-a"], decisions["s1-a"])


def test_channel_in_segments(tmp_path):
    """Two channels have speech at different times; without a segments file the first is used."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_wav(tmp_path / "0.wav", 0.5, 1.0, 2.0)
    write_wav(tmp_path / "1.wav", 1.0, 1.5, 1.0)
    channels = [wavfile.read(str(tmp_path / f"{index}.wav"))[1] for index in (0, 1)]
    wavfile.write(str(tmp_path / "two.wav"), 16000, np.stack(channels, axis=1))
    write_map(folder / "wav.scp", {"r": tmp_path / "two.wav"})
    write_map(folder / "segments", {"r": ("r", 0.2, 3.4, 1)})
    for name in ("utt2spk", "spk2utt"):
        write_map(folder / name, {"r": "r"})
    for wanted_channel, wanted in ((1, (1.0, 2.5)), (0, (0.5, 1.5))):
        detect(folder, tmp_path / "out")
        (value,) = read_map(tmp_path / "out" / "segments").values()
        recording, start, end, channel = value.split()
        assert (recording, channel) == ("r", str(wanted_channel))
        assert abs(float(start) - wanted[0]) < 0.12 and abs(float(end) - wanted[1]) < 0.12
        (supervision,) = lhotse.load_manifest(tmp_path / "out" / "supervisions.jsonl.gz")
        assert supervision.channel == wanted_channel
        (folder / "segments").unlink(missing_ok=True)


def test_segments_beyond_the_end_and_overlapping_segments(data, tmp_path, caplog):
    (data / "wav.scp").write_text((data / "wav.scp").read_text().splitlines(keepends=True)[0])
    (data / "segments").write_text("a s1-a 0.5 5.7\nb s1-a 1.1 5.85\nc s1-a 0.5 6.0\nd s1-a 7.0 8.0\n")
    for name in ("utt2spk", "spk2utt"):
        (data / name).write_text("".join(f"{key} {key}\n" for key in "abcd"))
    summary = detect(data, tmp_path / "out", skip_bad=True)
    assert (summary.utterances, summary.skipped) == (2, 2)
    assert re.search("utterance c: .* 0.5 .* 6 s.* s1-a .* 5.4 s", caplog.text)
    (overlaps,) = [line for line in caplog.text.splitlines() if "extract-windows" in line]
    assert "out/segments: 'a-" in overlaps


def test_python_example_in_the_documentation():
    text = (ROOT / "docs" / "vad.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    results = {}
    exec(block, results)
    assert (results["first"], results["end"]) == (100, 200)


def test_only_silence_leaves_empty_tables(data, tmp_path):
    (tmp_path / "silent.scp").write_text((data / "wav.scp").read_text().splitlines(keepends=True)[2])
    summary = detect(f"scp:{tmp_path / 'silent.scp'}", tmp_path / "out")
    assert (summary.utterances, summary.segments) == (1, 0)
    assert not load(tmp_path / "out" / "vad.ark")["s2-silent"].any()
    assert (tmp_path / "out" / "segments").read_text() == ""
    assert len(lhotse.load_manifest(tmp_path / "out" / "supervisions.jsonl.gz", lhotse.SupervisionSet)) == 0


def test_bad_input_gives_one_line(data, tmp_path):
    def message(source):
        with pytest.raises(InputError) as error:
            detect(source, tmp_path / "out")
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
        return str(error.value)

    assert message(tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'}: ")
    assert "none.scp: " in message("scp:none.scp")
    (tmp_path / "bad.scp").write_text((data / "wav.scp").read_text().splitlines(keepends=True)[3])
    assert "bad.scp: " in message(f"scp:{tmp_path / 'bad.scp'}")
    (data / "segments").write_text("s1-a s1-a 2.0 1.0\n")
    assert message(data).startswith(f"{data / 'segments'}:1: 's1-a'")
    (data / "segments").unlink()
    (data / "spk2utt").write_text("s1 s1-a\n")
    assert f"{data / 'spk2utt'}:1: " in message(data)
    for duration in ("nan", "inf", "0"):
        result = CliRunner().invoke(cli, ["vad", "--min-speech", duration, str(data), str(tmp_path / "out")])
        assert f"--min-speech={duration}: " in str(result.exception)


@pytest.mark.parametrize(
    "fault, words",
    [
        ("raise ModuleNotFoundError(\"No module named 'k2'\", name='k2')", "k2 is not installed"),
        ("raise ImportError('k2 was built using PyTorch 9.9\\nNote: ...')", "k2 was built using PyTorch 9.9"),
        ("raise OSError('libtorch_cuda.so: cannot open shared object file')", "libtorch_cuda.so: cannot open"),
    ],
)
def test_without_a_working_k2(data, tmp_path, monkeypatch, caplog, fault, words):
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "k2.py").write_text(fault + "\n")
    monkeypatch.syspath_prepend(fake)
    for name in ("k2", "sdpn_k2.signal.k2_segmentation"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    caplog.set_level("INFO")
    assert find_decoder("auto") is viterbi
    assert sum(words in line and "torch" in line for line in caplog.messages) == 1
    result = CliRunner().invoke(cli, ["vad", "--decoder", "k2", str(data), str(tmp_path / "out")])
    message = str(result.exception)
    assert isinstance(result.exception, InputError) and "\n" not in message
    assert words in message and "decoder torch" in message and not (tmp_path / "out").exists()
