"""Released weights of 3D-Speaker: the same numbers as their code, and every unfit file's one line."""

import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from three_d_speaker import embed, random_branch

from sdpn_k2.cli import cli
from sdpn_k2.config import Config, FeaturesConfig, ModelConfig, ObjectiveConfig, load_config
from sdpn_k2.errors import InputError
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi.formats.tables import read_table
from sdpn_k2.methods.network import Network
from sdpn_k2.methods.released_weights import convert_3dspeaker
from sdpn_k2.methods.sdpn import SDPN
from sdpn_k2.models.checkpoint import load_checkpoint
from sdpn_k2.signal.front_end import front_end
from sdpn_k2.training.initialisation import initial_weights

SIZES = dict(channels=24, bins=30, scale=4, se=10, attention=6, embedding=14, hidden=20, projection=9)
READS_NUMPY = hasattr(torch.serialization, "safe_globals")
MELSPEC = FeaturesConfig(kind="melspec", low_freq=0.0, scale=1.0)


@pytest.fixture(scope="module")
def published(shared):
    return shared / "interop" / "3dspeaker-sdpn-tiny.pth"


@pytest.fixture(scope="module")
def expected(shared):
    return np.load(shared / "interop" / "3dspeaker-sdpn-tiny.expected.npz")


@pytest.fixture(scope="module")
def speech(shared, expected):
    """name → samples of the three files that their code was run on."""
    names = [key[len("mel/") :] for key in expected if key.startswith("mel/")]
    return {name: soundfile.read(shared / "kaldi-golden" / "wav" / name, dtype="float32")[0] for name in names}


@pytest.fixture
def converted(published, tmp_path):
    result = CliRunner().invoke(cli, ["convert", "3dspeaker", str(published), str(tmp_path / "ours.pt")])
    assert result.exit_code == 0, result.output
    assert "left out: epoch" in result.output and "32 channels, 48-dimensional embeddings" in result.output
    return tmp_path / "ours.pt"


def source(rng, **changes):
    """A training checkpoint in their layout, with an optimizer as theirs, whose learning rate is a NumPy number."""
    sizes = {**SIZES, **changes}
    group = {"lr": np.float64(0.1)} if READS_NUMPY else {}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [group]}
    return {
        "student": random_branch(rng, **sizes),
        "teacher": random_branch(rng, **sizes),
        "optimizer": optimizer,
        "epoch": 3,
        "prototypes": torch.tensor(rng.normal(size=(11, sizes["projection"])), dtype=torch.float32),
    }


def relative(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def test_mel_spectrogram_equals_theirs(speech, expected):
    melspec = front_end(MELSPEC)
    for name, samples in speech.items():
        ours, theirs = melspec.mel_powers(torch.from_numpy(samples)[None])[0].T.numpy(), expected[f"mel/{name}"]
        assert ours.shape == theirs.shape == (80, melspec.num_frames(len(samples)))
        # An FFT rounds by a share of the frame's energy, so its quietest bins differ between processors.
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * theirs.max())
        logarithms = melspec(torch.from_numpy(samples)[None])[0].T.numpy()
        assert relative(logarithms, np.log(theirs + 1e-6)) < 1e-4


def test_scale_is_that_of_the_samples(speech):
    samples = torch.from_numpy(next(iter(speech.values())))[None]
    loud = front_end(FeaturesConfig(kind="melspec", low_freq=0.0)).mel_powers(samples)
    torch.testing.assert_close(loud, front_end(MELSPEC).mel_powers(samples) * 32768.0**2)


def test_embeddings_and_projections_equal_theirs(converted, speech, expected):
    extractor, checkpoint = Extractor.load(converted), load_checkpoint(converted)
    assert checkpoint.config.features == MELSPEC and len(checkpoint.model["prototypes.weight"]) == 16
    teacher = Network(checkpoint.config).eval()
    weights = checkpoint.model.items()
    teacher.load_state_dict({name[8:]: value for name, value in weights if name.startswith("teacher.")})
    for name, samples in speech.items():
        embedding = extractor.embed(samples)
        assert relative(embedding, expected[f"emb/{name}"]) < 1e-5
        with torch.no_grad():
            projection = teacher.mlp(torch.from_numpy(embedding)[None])[0].numpy()
        assert relative(projection, expected[f"proj/{name}"]) < 1e-5


def test_the_reference_of_these_tests_is_right(published, expected, speech):
    state = torch.load(published, weights_only=True)["teacher"]
    for name in speech:
        embedding, projection = embed(state, expected[f"mel/{name}"])
        assert relative(embedding, expected[f"emb/{name}"]) < 1e-5
        assert relative(projection, expected[f"proj/{name}"]) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channels": 40, "scale": 5, "bins": 64},
        {"scale": 2, "embedding": 31, "hidden": 8},
    ],
)
def test_other_sizes_and_training_checkpoints(tmp_path, changes):
    rng = np.random.default_rng(0)
    content = source(rng, **changes)
    torch.save(content, tmp_path / "theirs.pth")
    converted, left_out = convert_3dspeaker(tmp_path / "theirs.pth", scale=32768.0)
    assert sorted(left_out) == ["epoch", "optimizer"]
    assert converted.config.features.scale == 32768 and converted.config.objective.num_prototypes == 11
    mel = rng.gamma(1.0, size=(converted.config.features.num_mel_bins, 50)).astype(np.float32)
    for name in ("student", "teacher"):
        branch = Network(converted.config).eval()
        branch.load_state_dict({key[8:]: value for key, value in converted.model.items() if key.startswith(f"{name}.")})
        with torch.no_grad():
            normalised = torch.nn.functional.instance_norm(torch.from_numpy(mel)[None].add(1e-6).log()).transpose(1, 2)
            ours = branch(normalised)
        for one, theirs in zip(ours, embed(content[name], mel)):
            assert relative(one[0].numpy(), theirs) < 1e-5
    # A state dict of the whole method, complete and nothing else.
    assert set(converted.model) == set(SDPN(converted.config).state_dict())


def test_every_name_of_the_full_model_is_consumed(shared, tmp_path):
    lines = (shared / "interop" / "3dspeaker-sdpn-full.keys.txt").read_text().splitlines()
    state = {}
    for line in lines:
        name, shape = line.split(" ", 1)
        state[name] = torch.zeros([int(size) for size in shape.strip("()").split(",") if size.strip()])
    torch.save({"teacher": state}, tmp_path / "full.pth")
    converted, left_out = convert_3dspeaker(tmp_path / "full.pth")
    assert len(state) == 247 == len(converted.model) and left_out == []
    assert converted.config.model == ModelConfig()
    ours, theirs = (sum(tensor.numel() for tensor in model.values()) for model in (converted.model, state))
    assert ours == theirs


def test_published_files_and_rdino(tmp_path):
    rng = np.random.default_rng(1)
    teacher = random_branch(rng, **SIZES)
    teacher["module.head.add_layer.weight"] = torch.zeros(12, 9)
    teacher["module.head.last_layer.weight_g"] = torch.ones(40, 1)
    teacher["module.head.last_layer.weight_v"] = torch.zeros(40, 12)
    torch.save({"teacher": teacher}, tmp_path / "rdino.pth")
    converted, left_out = convert_3dspeaker(tmp_path / "rdino.pth")
    layers = ("add_layer.weight", "last_layer.weight_g", "last_layer.weight_v")
    assert left_out == [f"teacher's head.{name}" for name in layers]
    assert {name.partition(".")[0] for name in converted.model} == {"teacher"}
    assert converted.config.model.projection_dim == 9

    # An MLP of another depth has no place either; the encoder is converted all the same.
    for name in [name for name in teacher if "head.mlp.3" in name or "head.mlp.4" in name]:
        teacher[name.replace("mlp.3", "mlp.9").replace("mlp.4", "mlp.10")] = teacher[name]
        del teacher[name]
    torch.save({"teacher": teacher}, tmp_path / "deep.pth")
    converted, left_out = convert_3dspeaker(tmp_path / "deep.pth")
    assert all(name.startswith("teacher.encoder.") for name in converted.model)
    assert "teacher's head.mlp.9.weight" in left_out
    # Prototypes then have none either: they belong to that MLP's projections.
    torch.save({"teacher": teacher, "prototypes": torch.zeros(5, 9)}, tmp_path / "deep.pth")
    converted, left_out = convert_3dspeaker(tmp_path / "deep.pth")
    assert "prototypes" in left_out and "prototypes.weight" not in converted.model


def test_converted_weights_start_a_training(tmp_path, caplog):
    torch.save({"teacher": random_branch(np.random.default_rng(2), **SIZES)}, tmp_path / "theirs.pth")
    result = CliRunner().invoke(cli, ["convert", "3dspeaker", str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pt")])
    assert result.exit_code == 0, result.output
    given = load_checkpoint(tmp_path / "ours.pt")
    objective = ObjectiveConfig(num_prototypes=6)
    config = Config(features=given.config.features, model=given.config.model, objective=objective)
    model = SDPN(config)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level("INFO"):
        model.load_state_dict(initial_weights(tmp_path / "ours.pt", config, model.state_dict()))
    assert "prototypes" in caplog.text
    torch.testing.assert_close(model.prototypes.weight, fresh["prototypes.weight"])
    for name, tensor in given.model.items():
        assert torch.equal(model.state_dict()[name], tensor)
        assert torch.equal(model.state_dict()[name.replace("teacher", "student")], tensor)
    with pytest.raises(InputError, match=r"kind \(melspec there, fbank here\).*model.channels \(24 there, 1024 here"):
        initial_weights(tmp_path / "ours.pt", load_config(), fresh)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_are_none(published, tmp_path, scale):
    with pytest.raises(InputError, match=f"scale {scale:g}: expected a finite number above 0"):
        convert_3dspeaker(published, scale)


def test_other_configurations_are_left_alone(published, tmp_path):
    def convert(name, *options):
        result = CliRunner().invoke(cli, ["convert", "3dspeaker", *options, str(published), str(tmp_path / name)])
        return str(result.exception) if result.exit_code else ""

    assert "m.yaml: .yaml is for the configuration beside it" in convert("m.yaml")
    (tmp_path / "mine.yaml").write_text("train: {steps: 3}\n")
    assert "mine.yaml: is there already" in convert("mine.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    assert (tmp_path / "mine.yaml").read_text() == "train: {steps: 3}\n"
    assert not convert("ours.pt") and not convert("ours.pt")  # again, the same
    assert "ours.yaml: is there already" in convert("ours.pt", "--scale", "32768")


def test_melspec_cannot_be_read_from_feats_scp():
    with pytest.raises(InputError, match="features.kind: melspec needs input: waveform"):
        load_config(None, ["features.kind=melspec", "input=fbank"])
    with pytest.raises(InputError, match="features.scale is 1; Kaldi's fbank wants 32768"):
        load_config(None, ["features.scale=1"])


def test_extraction_reads_waveforms_and_segments(converted, shared, speech, tmp_path):
    """A data directory with feats.scp of Kaldi's fbank, which these weights cannot use."""
    names = sorted(speech)
    wav = {name[:-4]: shared / "kaldi-golden" / "wav" / name for name in names}
    data = tmp_path / "data"
    data.mkdir()
    entries = [(name, f"cat {path} |" if index else path) for index, (name, path) in enumerate(wav.items())]
    (data / "wav.scp").write_text("".join(f"{name} {entry}\n" for name, entry in entries))
    (data / "feats.scp").write_text("".join(f"{name} nowhere.ark:7\n" for name in wav))
    result = CliRunner().invoke(cli, ["extract", "--device", "cpu", str(converted), str(data), str(tmp_path / "x")])
    assert result.exit_code == 0, result.output
    ours = dict(read_table(f"scp:{tmp_path}/x/xvector.scp", "vector"))
    extractor = Extractor.load(converted)
    for name in names:
        np.testing.assert_allclose(ours[name[:-4]], extractor.embed(speech[name]), rtol=1e-4, atol=1e-6)

    first = names[0][:-4]
    (data / "segments").write_text(f"a {first} 0.5 2.25\nb {first} 2 -1\nc {names[1][:-4]} 1 2.0 0\n")
    extract = ["extract", "--device", "cpu", str(converted), str(data)]
    result = CliRunner().invoke(cli, [*extract, f"ark:{tmp_path}/seg.ark"])
    assert result.exit_code == 0, result.output
    ours = dict(read_table(f"ark:{tmp_path}/seg.ark", "vector"))
    pieces = {"a": speech[names[0]][8000:36000], "b": speech[names[0]][32000:], "c": speech[names[1]][16000:32000]}
    assert list(ours) == list(pieces)
    for name, samples in pieces.items():
        np.testing.assert_allclose(ours[name], extractor.embed(samples), rtol=1e-4, atol=1e-6)

    (data / "segments").write_text(f"a {first} 2.5 2.25\n")
    result = CliRunner().invoke(cli, [*extract, f"ark:{tmp_path}/no.ark"])
    assert isinstance(result.exception, InputError) and "segments:1: 'a' goes from 2.5 to 2.25" in str(result.exception)
    (data / "segments").write_text("")
    result = CliRunner().invoke(cli, [*extract, f"ark:{tmp_path}/no.ark"])
    assert isinstance(result.exception, InputError) and "data: nothing to extract: it has no" in str(result.exception)
    assert not (tmp_path / "no.ark").exists()


# Bad input.


class Code:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"blocks.0.conv.conv.weight": torch.zeros(2, 3, 5)}, "looks like SpeechBrain's ECAPA-TDNN"),
        ({"layer2.se_res2block.0.conv.weight": torch.zeros(2)}, "looks like WeSpeaker"),
        ({"state_dict": {"encoder.encoder.0.mconv.0.conv.weight": torch.zeros(2)}}, "looks like NVIDIA NeMo"),
        ({"xvector.block1.tdnnd1.linear.weight": torch.zeros(2)}, r"looks like 3D-Speaker's CAM\+\+"),
        ({"teacher": {"module.patch_embed.weight": torch.zeros(2)}}, "vision transformer"),
        ({"weights": torch.zeros(2)}, "not SDPN or RDINO weights.*it holds: weights"),
        ([torch.zeros(2)], "it holds: list"),
    ],
)
def test_checkpoints_of_other_toolkits(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match=message):
        convert_3dspeaker(tmp_path / "other.pt")
    result = CliRunner().invoke(cli, ["convert", "3dspeaker", str(tmp_path / "other.pt"), str(tmp_path / "out.pt")])
    assert isinstance(result.exception, InputError) and not (tmp_path / "out.pt").exists()


def test_their_checkpoint_in_place_of_ours(published):
    with pytest.raises(InputError, match="like 3D-Speaker's SDPN or RDINO; .*sdpn-k2 convert 3dspeaker reads such"):
        load_checkpoint(published)


def test_ours_in_place_of_theirs(converted):
    with pytest.raises(InputError, match="already a checkpoint of ours"):
        convert_3dspeaker(converted)


def test_files_that_are_no_checkpoints(published, tmp_path):
    whole = published.read_bytes()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("model_weights.ckpt"))
    files = {
        "half": (whole[: len(whole) // 2], "cut short; download or copy it again"),
        "few": (whole[:3], "cut short"),
        "empty": (b"", "the file is empty"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        "page": (b"<!DOCTYPE html><html>404</html>", "a web page"),
        "kaldi": (b"\0B<Nnet3> ", "a binary of Kaldi"),
        "nemo": (archive.getvalue(), "NeMo"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: not a .*{message}"):
            convert_3dspeaker(tmp_path / name)
    with pytest.raises(InputError, match="cannot read the checkpoint: No such file"):
        convert_3dspeaker(tmp_path / "none")


def test_other_archives_are_told_apart(published, tmp_path):
    class Module(torch.nn.Module):
        def forward(self, x):
            return x

    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    for name, members in {
        "around.zip": {"x/final.pt": published.read_bytes()},
        "notes.zip": {"readme.txt": b"none"},
        "damaged.pt": {"archive/data.pkl": b"none", "archive/version": b"3"},
        "e.pt2": {"e/archive_format": b"pt2"},
    }.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    torch.jit.script(Module()).save(str(tmp_path / "m.ts"))
    for name, message in (
        ("a.npz", "not a checkpoint but an archive of NumPy"),
        ("around.zip", "not a checkpoint but a zip archive around others: unpack it"),
        ("notes.zip", "not a checkpoint but a zip archive of other things: readme.txt"),
        ("damaged.pt", "not a complete checkpoint: damaged, or more in it than tensors|take torch 2.5"),
        ("e.pt2", "not a checkpoint but a model of torch.export"),
        ("x.safetensors", "not a checkpoint but a file of safetensors"),
        ("m.ts", "not a checkpoint but a TorchScript module|it holds: .*ScriptModule"),  # torch 1.13 loads them
    ):
        with pytest.raises(InputError, match=f"{name}: .*({message})"):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    content = {"teacher": {"module.backbone.blocks.0.conv.conv.weight": Code()}}
    if legacy:
        (tmp_path / "evil.pt").write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, tmp_path / "evil.pt")
    for read in (convert_3dspeaker, load_checkpoint):
        with pytest.raises(InputError, match=r"evil.pt: refused: .*(posix|os)\.mkdir"):
            read(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.skipif(READS_NUMPY, reason="this torch reads NumPy's numbers")
def test_training_checkpoints_want_a_newer_torch(tmp_path):
    torch.save({"lr": np.float64(0.1)}, tmp_path / "numbers.pt")
    with pytest.raises(InputError, match="cannot read all of it safely; take torch 2.5 or later"):
        load_checkpoint(tmp_path / "numbers.pt")


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path):
    def attempt(change):
        content = source(np.random.default_rng(0))
        change(content)
        torch.save(content, tmp_path / "theirs.pth")
        with pytest.raises(InputError) as caught:
            convert_3dspeaker(tmp_path / "theirs.pth")
        return str(caught.value)

    teacher = "module.backbone.blocks.2.tdnn1.conv.conv.weight"
    assert "teacher: missing backbone.blocks.2.tdnn1.conv.conv.weight" in attempt(lambda c: c["teacher"].pop(teacher))
    last = "module.backbone.fc.conv.weight"
    assert "teacher: missing backbone.fc.conv.weight" in attempt(lambda c: c["teacher"].pop(last))
    more = {f"module.backbone.blocks.4.tdnn1.conv.{i}": torch.zeros(1) for i in range(7)}
    message = attempt(lambda c: c["student"].update(more))
    assert "student: unknown backbone.blocks.4.tdnn1.conv.0, " in message and "and 3 more" in message
    message = attempt(lambda c: c["teacher"].update({teacher: torch.zeros(24, 23, 1)}))
    assert "blocks.2.tdnn1.conv.conv.weight is of shape (24, 23, 1)" in message and "(24, 24, 1) would" in message
    assert "is of shape (24, 24, 3)" in attempt(lambda c: c["student"].update({teacher: torch.zeros(24, 24, 3)}))
    message = attempt(lambda c: c.update(prototypes=torch.zeros(11, 8)))
    assert "prototypes of shape (11, 8) for projections of 9" in message
    assert "prototypes should be a matrix, not of shape ()" in attempt(lambda c: c.update(prototypes=torch.tensor(1.0)))
    message = attempt(lambda c: c.update(prototypes=torch.zeros(1, 9)))
    assert "theirs.pth: configuration: objective.num_prototypes should be at least 2" in message
    assert "prototypes should be a tensor" in attempt(lambda c: c.update(prototypes=[1, 2]))
    assert "teacher should be a dict of tensors" in attempt(lambda c: c["teacher"].update({"module.x": 3}))
    message = attempt(lambda c: c.update(scheduler={}))
    assert "unknown entries beside student, teacher and prototypes: scheduler" in message
