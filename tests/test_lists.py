"""Trial lists, score files, tables and names, in the forms that people have."""

import itertools
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sdpn_k2.data.corpora import audio_dir, kaldi_dir, voxceleb
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output, hidden_name
from sdpn_k2.kaldi.backend.trials import labelled_scores, read_trials
from sdpn_k2.kaldi.datadir.data_dir_ops import write_data_dir
from sdpn_k2.kaldi.formats.tables import TableWriter, read_object, read_table
from sdpn_k2.scoring import trial_arrays
from sdpn_k2.scoring.evaluation import evaluate_scores

ROWS = [("s1-a", "s1-b", True), ("s1-a", "s2-c", False), ("s2-c", "s1-b", False)]
FORMS = {
    "kaldi": "".join(f"{a} {b} {'target' if t else 'nontarget'}\n" for a, b, t in ROWS),
    "digits": "".join(f"{a} {b} {t:d}\n" for a, b, t in ROWS),
    "voxceleb": "".join(f"{t:d} {a} {b}\n" for a, b, t in ROWS),
    "words first": "".join(f"{'target' if t else 'nontarget'} {a} {b}\n" for a, b, t in ROWS),
}
ENDINGS = {
    "plain": lambda text: text.encode(),
    "windows": lambda text: text.replace("\n", "\r\n").encode(),
    "mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "windows mark": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    "tabs": lambda text: text.replace(" ", " \t ").encode(),
    "cut": lambda text: text.rstrip("\n").encode(),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("form", FORMS)
def test_every_reader_knows_every_form(form, ending, tmp_path):
    path, scores = tmp_path / "trials", tmp_path / "scores"
    path.write_bytes(ENDINGS[ending](FORMS[form]))
    scores.write_bytes(ENDINGS[ending]("".join(f"{a} {b} {0.5 + t}\n" for a, b, t in ROWS)))
    assert [tuple(trial) for trial in read_trials(path)] == ROWS
    trials = trial_arrays.read_trials(path)
    assert [trials.pair(i).split() for i in range(3)] == [[a, b] for a, b, _ in ROWS]
    assert trials.is_target.tolist() == [t for *_, t in ROWS]
    ((_, _, labels),) = labelled_scores(str(path), str(scores))
    assert labels == [b"target", b"nontarget", b"nontarget"]
    assert evaluate_scores(scores, path).eer == 0


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b"a b target\na b\n", ":2: "),
        (b"a b target\nb c maybe\n", ":2: .*maybe"),
        (b"1 a b\n2 a b\n", ":2: .*'2'"),
        (b"a b target\n1 a b\n", ":2: .*'b'"),
        (b"a b target\n\na b target\n", ":2: "),
        ("a b target\n".encode("utf-16"), ":1: .*UTF-16"),
        (b"", "empty"),
    ],
)
def test_wrong_lists_name_file_and_line(text, part, tmp_path):
    (tmp_path / "trials").write_bytes(text)
    with pytest.raises(InputError, match=f"{tmp_path}/trials.*{part}"):
        trial_arrays.read_trials(tmp_path / "trials")


@pytest.fixture
def audio(tmp_path) -> Path:
    """A training speaker, and test speakers s1 and s2; nothing of it is audio."""
    for name in ("train/s0/x", "test/s1/a", "test/s1/b", "test/s2/c"):
        path = tmp_path / "audio" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"this is no audio, so checking it would fail first")
    return tmp_path / "audio"


def test_lists_are_checked_before_audio(audio, tmp_path):
    (audio / "test" / "trials").write_text("s1-a s1-b target\ns1-a s9-x nontarget\n")
    with pytest.raises(InputError, match="trials: 1 ids are not in this set: s9-x"):
        audio_dir.prepare_audio_dir(audio, tmp_path / "data")
    for name, utterances in (("in", ["s0-x"]), ("eval", ["s1-a", "s1-b"])):
        write_data_dir(tmp_path / name, dict.fromkeys(utterances, "/none"), {key: key[:2] for key in utterances})
    (tmp_path / "eval" / "trials").write_text("s1-a s1-b maybe\n")
    with pytest.raises(InputError, match="trials:1: .*maybe"):
        kaldi_dir.prepare_kaldi_dirs(tmp_path / "in", {"eval": tmp_path / "eval"}, tmp_path / "data")


def test_names_of_files_in_a_list(audio, tmp_path):
    rng = np.random.default_rng(0)
    for path in audio.rglob("*.wav"):
        soundfile.write(path, 0.1 * rng.standard_normal(16000), 16000)
    (audio / "test" / "trials").write_bytes(b"\xef\xbb\xbf1 a.wav b.wav\r\n0 s1/a.wav s2/c.wav\r\n0 s2/c s1-b\r\n")
    audio_dir.prepare_audio_dir(audio, tmp_path / "data")
    assert [tuple(trial) for trial in read_trials(tmp_path / "data/test/trials")] == ROWS
    assert list(voxceleb.read_trial_list(audio / "test" / "trials"))[1][:2] == ("s1-a", "s2-c")


def test_pieces_of_musan(tmp_path):
    for folder, piece in itertools.product(("free-sound/noise-0000", "free-sound/noise-0001"), ("0.wav", "1.wav")):
        path = tmp_path / "noise" / folder / piece
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert len(voxceleb.list_musan(tmp_path)["noise"]) == 4


@pytest.mark.parametrize("word", ["1_0", "x", "0x1p3", "1,5"])
def test_words_that_are_no_scores(word, tmp_path):
    (tmp_path / "scores").write_text(f"a b 1\na c {word}\n")
    with pytest.raises(InputError, match=f"scores:2: '{word}'"):
        trial_arrays.read_scores(tmp_path / "scores")


@pytest.mark.parametrize("word", [".5", "+1", "1_0", "+inf", ".", "-"])
def test_words_that_kaldi_does_not_read_as_numbers(word, tmp_path):
    for kind, text in (("vector", f" [ 1 {word} ]\n"), ("matrix", f" [\n 1 2\n 3 {word} ]\n")):
        (tmp_path / "x").write_text(text)
        with pytest.raises(InputError, match="x: .*not a number"):
            read_object(str(tmp_path / "x"), kind)
    (tmp_path / "x").write_text(" [ 1 -2.5 1e-3 inf Infinity NaN 0 ]\n")
    read = read_object(str(tmp_path / "x"), "vector")
    np.testing.assert_array_equal(read, np.array([1, -2.5, 1e-3, np.inf, np.inf, np.nan, 0], np.float32))


@pytest.mark.parametrize(
    ("key", "valid"), [("a\0b", False), ("x" * 70_000, False), ("x" * 65_535, True), ("ü" * 40_000, False)]
)
def test_keys_that_are_written_can_be_read(key, valid, tmp_path):
    table = f"ark,scp:{tmp_path}/x.ark,{tmp_path}/x.scp"
    if not valid:
        with pytest.raises(InputError, match="not a valid key") as caught, TableWriter(table, "vector") as writer:
            writer.write(key, np.ones(2))
        assert len(str(caught.value)) < 1000 and not os.listdir(tmp_path)
        return
    with TableWriter(table, "vector") as writer:
        writer.write(key, np.ones(2))
    assert [name for name, _ in read_table(f"ark:{tmp_path}/x.ark", "vector")] == [key]


@pytest.mark.parametrize("length", [200, 250, 255])
def test_long_names_of_files(length, tmp_path):
    for name in ("x" * length, "ü" * (length // 2)):
        with atomic_output(tmp_path / name, "w") as stream:
            stream.write("a")
        assert (tmp_path / name).read_text() == "a"
        assert len(os.fsencode(hidden_name(name, ".0123456789ab.part"))) <= 255


def test_an_archive_and_its_script_appear_together_or_not_at_all(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        # The script is larger than the archive, since it names the archive for every vector.
        with pytest.raises(InputError), TableWriter(f"ark,scp:{tmp_path}/x.ark,{tmp_path}/x.scp", "vector") as writer:
            for index in range(60):
                writer.write(f"{index}", np.ones(2, np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []
