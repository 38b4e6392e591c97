"""One meaning for CHECKPOINT, OUTPUT, TABLE, SCORES and TRIALS in every command."""

import json

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from tiny_models import write_data, write_model

import sdpn_k2
from sdpn_k2.cli import cli
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.utterances import read_utterances
from sdpn_k2.models.checkpoint import find_checkpoint


@pytest.fixture(scope="module")
def place(speech, tmp_path_factory):
    """Experiments exp and other, whose weights differ, a data directory, and two recordings."""
    folder = tmp_path_factory.mktemp("place")
    for name, dim in (("exp", 6), ("other", 5)):
        (folder / name).mkdir()
        write_model(folder / name / "final.pt", embedding_dim=dim)
    data = write_data(folder / "data", speech, speakers=2, utterances=2)
    for name, (_, samples) in zip("ab", read_utterances(data, 16000)):
        soundfile.write(folder / f"{name}.wav", samples, 16000, subtype="PCM_16")
    return folder


@pytest.fixture
def run(place, tmp_path, monkeypatch):
    """Run a command in a new folder with links to the files; return its output."""
    for path in place.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDPN_K2_CHECKPOINT", raising=False)

    def run(*words, status=0, **variables):
        done = CliRunner().invoke(cli, [str(word) for word in words], env=variables)
        if isinstance(done.exception, InputError):
            assert status == 1, done.exception
            return str(done.exception)
        assert done.exit_code == status, f"{done.output}\n{done.exception}"
        return done.output

    return run


COMMANDS = {
    "embed": ["a.wav", "-o", "x.ark"],
    "extract": ["data", "x.ark"],
    "stream": ["a.wav", "x.ark"],
    "verify": ["a.wav", "b.wav", "--json"],
    "extract-windows": ["data", "windows"],
    "export": ["data", "x.ts"],
}


def dimension(command, said):
    """Return the dimension of the embeddings that a command made; for verify its score."""
    if command == "verify":
        return json.loads(said)["score"]
    if command == "export":
        return int(said.partition("(batch, ")[2].rpartition("embedding (batch, ")[2].split(")")[0])
    return len(next(iter(sdpn_k2.read_vectors("windows" if command == "extract-windows" else "x.ark").values())))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_checkpoint_is_given_in_the_same_ways_everywhere(run, place, command):
    words = COMMANDS[command] if command in ("embed", "verify") else ["--device", "cpu", *COMMANDS[command]]
    words = words if command != "export" else COMMANDS[command]
    model = sdpn_k2.load(place / "exp", device="cpu")
    expected = model.verify("a.wav", "b.wav").score if command == "verify" else 6
    other = {"SDPN_K2_CHECKPOINT": "other"}
    for arguments, variables in (
        (["exp", *words], {}),
        (["exp/final.pt", *words], other),
        (["-c", "exp", *words], other),
        ([*words, "--checkpoint", "exp/final.pt"], {}),
        (words, {"SDPN_K2_CHECKPOINT": "exp"}),
    ):
        said = run(command, *arguments, **variables)
        assert dimension(command, said) == pytest.approx(expected, abs=1e-6), arguments


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_checkpoint_is_named(run, command):
    assert "CHECKPOINT" in run(command, *COMMANDS[command], status=2)
    assert "nowhere.pt: cannot read" in run(command, "-c", "nowhere.pt", *COMMANDS[command], status=1)
    assert "data/final.pt: no such file" in run(command, "-c", "data", *COMMANDS[command], status=1)


def test_a_folder_means_its_final_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000002.pt").touch()
    with pytest.raises(InputError, match="final.pt: .*not finished; its newest .*step-00000002.pt"):
        find_checkpoint(tmp_path)
    (tmp_path / "final.pt").touch()
    assert find_checkpoint(tmp_path) == tmp_path / "final.pt" == find_checkpoint(str(tmp_path / "final.pt"))


OUTPUTS = ["x.ark", "x.scp", "x.npy", "x.json", "folder", "folder.d/", "ark,scp:y.ark,y.scp", "ark,t:y.txt"]
FILES = {
    "x.ark": ["x.ark"],
    "x.scp": ["x.ark", "x.scp"],
    "x.npy": ["x.names", "x.npy"],
    "x.json": ["x.json"],
    "folder": ["folder"],
    "folder.d/": ["folder.d"],
    "ark,scp:y.ark,y.scp": ["y.ark", "y.scp"],
    "ark,t:y.txt": ["y.txt"],
}
READ_AS = {"ark,scp:y.ark,y.scp": "scp:y.scp", "ark,t:y.txt": "ark:y.txt"}


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_is_the_same_for_every_command_and_read_by_every_other(run, place, tmp_path, output):
    before = {path.name for path in tmp_path.iterdir()}
    table = READ_AS.get(output, output)
    for command in (["embed", "exp", "a.wav", "b.wav", "-o"], ["extract", "exp", "data"], ["stream", "exp", "a.wav"]):
        run(*command, output)
        assert sorted({path.name for path in tmp_path.iterdir()} - before) == FILES[output]
        vectors = sdpn_k2.read_vectors(table)
        assert {vector.shape for vector in vectors.values()} == {(6,)}
        run("score", "--enroll", table, "scores")
        assert len((tmp_path / "scores").read_text().splitlines()) == len(vectors) ** 2
        (tmp_path / "scores").unlink()
    run("plda-labels", "--num-clusters", "2", table, "utt2spk")
    assert len((tmp_path / "utt2spk").read_text().splitlines()) == len(vectors)


def test_standard_output_is_json_and_is_read(run, place):
    said = run("extract", "exp", "data", "-")
    table = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert len(table) == 4
    done = CliRunner().invoke(cli, ["score", "--enroll", "-", "-"], input=json.dumps(table))
    assert sum(line.startswith("test") for line in done.stdout.splitlines()) == 16


@pytest.mark.parametrize("command", ["embed", "extract", "stream"])
def test_other_outputs_are_refused(run, command):
    words = {"embed": ["a.wav", "-o", "x.txt"], "extract": ["data", "x.txt"], "stream": ["a.wav", "x.txt"]}[command]
    assert "x.txt: use .npy, .json, .ark, .scp" in run(command, "exp", *words, status=1)


@pytest.mark.parametrize("output", ["x.npy", "x.json", "x.scp", "ark:x.ark"])
def test_a_matrix_of_scores_is_a_table_too(run, output):
    run("extract", "exp", "data", "v.ark")
    run("score", "--enroll", "v.ark", output)
    rows = sdpn_k2.read_vectors(output)
    vectors = np.stack([*sdpn_k2.read_vectors("v.ark").values()]).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert list(rows) == list(sdpn_k2.read_vectors("v.ark"))
    np.testing.assert_allclose([*rows.values()], unit @ unit.T, atol=1e-5)
    assert "trial list" in run("score", "--enroll", "v.ark", "--trials", "data/trials", output, status=1)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda: None, None),
        (lambda: open("x.names", "a").write("more\n"), "3 names"),
        (lambda: open("x.npy", "wb").write(b"nothing"), "not a NumPy file"),
        (lambda: np.save("x.npy", np.zeros(2)), "shape"),
    ],
)
def test_rows_and_names_must_agree(run, change, message):
    sdpn_k2.write_vectors("x.npy", {"a b": np.ones(3), "c": np.zeros(3)})
    change()
    if message is None:
        assert list(sdpn_k2.read_vectors("x.npy")) == ["a b", "c"]
        return
    with pytest.raises(InputError, match=f"x.npy: .*{message}"):
        sdpn_k2.read_vectors("x.npy")


@pytest.fixture
def scored(run, tmp_path):
    (tmp_path / "trials").write_text("a b target\na c nontarget\nb c nontarget\n")
    (tmp_path / "scores").write_text("a b 0.9\na c 0.1\nb c 0.2\n")
    return run


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "trials", "scores"],
        ["calibrate", "scores", "trials", "calibration.json"],
        ["calibrate", "scores", "scores", "trials", "calibration.json"],
    ],
)
def test_swapped_scores_and_trials_are_named_as_such(scored, words):
    assert scored(*words, status=1) == "trials is a trial list, and scores is a score file; swap them"


def test_one_wrong_form_is_named(scored):
    said = scored("eval", "scores", "scores", status=1)
    assert said.startswith("scores: this is a score file (line 1 is 'a b 0.9'), but a trial list is expected")
    said = scored("eval", "trials", "trials", status=1)
    assert said.startswith("trials: this is a trial list (line 1 is 'a b target'), but a score file is expected")
    scored("extract", "exp", "data", "v.ark")
    assert "this is a score file" in scored("score", "--enroll", "v.ark", "--trials", "scores", "out", status=1)


def test_labels_of_digits_are_not_taken_for_scores(scored, tmp_path):
    (tmp_path / "digits").write_text("a b 1\na c 0\nb c 0\n")
    assert scored("eval", "scores", "digits") == scored("eval", "scores", "trials")
    assert "scores: this is a score file" in scored("eval", "digits", "scores", status=1)


def test_eval_says_which_eer_to_quote(scored):
    lines = [line for line in scored("eval", "scores", "trials").splitlines() if line.startswith("EER %")]
    assert [("quote" in line, "compare" in line) for line in lines] == [(True, False), (False, True), (False, True)]
    assert json.loads(scored("eval", "--json", "scores", "trials"))["quote"] == "eer"


def test_use_vad_is_a_flag(run):
    assert "vad.scp: no such file" in run("extract", "--use-vad", "exp", "data", "x.ark", status=1)
