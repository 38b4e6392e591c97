"""Released weights of 3D-Speaker: the same numbers as its code, and one line for every file that does not fit."""

import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from three_d_speaker import INTEROP, embed, random_branch
from tiny_models import MELSPEC

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

SIZES = {
    "channels": 24,
    "bins": 30,
    "scale": 4,
    "se": 10,
    "attention": 6,
    "embedding": 14,
    "hidden": 20,
    "projection": 9,
}
READS_NUMPY = hasattr(torch.serialization, "safe_globals")


@pytest.fixture(scope="module")
def published():
    return INTEROP / "3dspeaker-sdpn-tiny.pth"


@pytest.fixture(scope="module")
def expected():
    return np.load(INTEROP / "3dspeaker-sdpn-tiny.expected.npz")


@pytest.fixture
def converted(published, tmp_path):
    result = CliRunner().invoke(cli, ["convert", "3dspeaker", str(published), str(tmp_path / "ours.pt")])
    assert result.exit_code == 0, result.output
    assert "epoch" in result.output and re.search(r"ours.pt: .*\b32\b.*\b48\b", result.output)
    return tmp_path / "ours.pt"


def source(rng, **changes):
    """Return a training checkpoint in their layout; as in theirs, the optimiser's learning rate is a NumPy number."""
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


def load_teacher(checkpoint):
    teacher = Network(checkpoint.config).eval()
    weights = checkpoint.model.items()
    teacher.load_state_dict({name[8:]: value for name, value in weights if name.startswith("teacher.")})
    return teacher


def test_embeddings_and_projections_equal_theirs(converted, expected):
    """From the mel powers that their front end computed."""
    checkpoint = load_checkpoint(converted)
    assert checkpoint.config.features == MELSPEC and len(checkpoint.model["prototypes.weight"]) == 16
    logarithms = np.log(expected["mel"].T + 1e-6)
    embedding = Extractor.load(converted).embed_fbank([logarithms])[0]
    assert relative(embedding, expected["emb"]) < 1e-5
    with torch.no_grad():
        projection = load_teacher(checkpoint).mlp(torch.from_numpy(embedding)[None])[0].numpy()
    assert relative(projection, expected["proj"]) < 1e-5


def test_mel_spectrogram_and_embeddings_of_real_speech_equal_theirs(converted, shared):
    expected = np.load(shared / "interop" / "3dspeaker-sdpn-tiny.expected.npz")
    names = [key[len("mel/") :] for key in expected if key.startswith("mel/")]
    assert len(names) == 3
    extractor, melspec = Extractor.load(converted), front_end(MELSPEC)
    for name in names:
        samples = soundfile.read(shared / "kaldi-golden" / "wav" / name, dtype="float32")[0]
        ours, theirs = melspec.mel_powers(torch.from_numpy(samples)[None])[0].T.numpy(), expected[f"mel/{name}"]
        assert ours.shape == theirs.shape == (80, melspec.num_frames(len(samples)))
        # The FFT's rounding errors scale with a frame's energy, so the quietest bins differ between processors.
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * theirs.max())
        logarithms = melspec(torch.from_numpy(samples)[None])[0].T.numpy()
        assert relative(logarithms, np.log(theirs + 1e-6)) < 1e-4
        assert relative(extractor.embed(samples), expected[f"emb/{name}"]) < 1e-5


def test_mel_spectrogram_equals_its_definition():
    """A periodic Hann window of 25 ms in an FFT of 512, centred frames with reflection, HTK mel triangles."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(8000)
    padded = np.pad(samples, 256, mode="reflect")
    frames = np.stack([padded[start : start + 512] for start in range(0, len(samples) + 1, 160)])
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400), 56)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82) / 2595) - 1)
    hertz = np.arange(257)[:, None] * 16000 / 512
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((hertz - left) / (centre - left), (right - hertz) / (right - centre)).clip(0)
    ours = front_end(MELSPEC).mel_powers(torch.from_numpy(samples).float()[None])[0].numpy()
    np.testing.assert_allclose(ours, power @ triangles, rtol=1e-3, atol=1e-6 * (power @ triangles).max())


def test_scale_multiplies_the_samples():
    samples = torch.rand(1, 8000, generator=torch.Generator().manual_seed(0)) - 0.5
    loud = front_end(FeaturesConfig(kind="melspec", low_freq=0.0)).mel_powers(samples)
    torch.testing.assert_close(loud, front_end(MELSPEC).mel_powers(samples) * 32768.0**2)


def test_the_reference_model_is_correct(published, expected):
    embedding, projection = embed(torch.load(published, weights_only=True)["teacher"], expected["mel"])
    assert relative(embedding, expected["emb"]) < 1e-5
    assert relative(projection, expected["proj"]) < 1e-5


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


def test_every_name_of_the_full_model_is_consumed(tmp_path):
    lines = (INTEROP / "3dspeaker-sdpn-full.keys.txt").read_text().splitlines()
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

    # An MLP of another depth is left out too; the encoder is converted all the same.
    for name in [name for name in teacher if "head.mlp.3" in name or "head.mlp.4" in name]:
        teacher[name.replace("mlp.3", "mlp.9").replace("mlp.4", "mlp.10")] = teacher[name]
        del teacher[name]
    torch.save({"teacher": teacher}, tmp_path / "deep.pth")
    converted, left_out = convert_3dspeaker(tmp_path / "deep.pth")
    assert all(name.startswith("teacher.encoder.") for name in converted.model)
    assert "teacher's head.mlp.9.weight" in left_out
    # The prototypes are then left out as well, since they belong to that MLP's projections.
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
    with pytest.raises(InputError, match=r"kind.*melspec.*fbank.*model.channels.*\b24\b.*\b1024\b"):
        initial_weights(tmp_path / "ours.pt", load_config(), fresh)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scales(published, tmp_path, scale):
    with pytest.raises(InputError, match=f"scale is {scale:g}"):
        convert_3dspeaker(published, scale)


def test_other_configurations_are_left_alone(published, tmp_path):
    def convert(name, *options):
        result = CliRunner().invoke(cli, ["convert", "3dspeaker", *options, str(published), str(tmp_path / name)])
        return str(result.exception) if result.exit_code else ""

    assert "m.yaml: " in convert("m.yaml")
    (tmp_path / "mine.yaml").write_text("train: {steps: 3}\n")
    assert "mine.yaml: " in convert("mine.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    assert (tmp_path / "mine.yaml").read_text() == "train: {steps: 3}\n"
    assert not convert("ours.pt") and not convert("ours.pt")  # again, the same
    assert "ours.yaml: " in convert("ours.pt", "--scale", "32768")


def test_melspec_cannot_be_read_from_feats_scp():
    with pytest.raises(InputError, match="features.kind.*melspec.*waveform"):
        load_config(None, ["features.kind=melspec", "input=fbank"])
    with pytest.raises(InputError, match="features.scale.* 1.*32768"):
        load_config(None, ["features.scale=1"])


def test_extraction_reads_waveforms_and_segments(converted, speech, tmp_path):
    """In a data directory with a feats.scp of Kaldi's fbank, which these weights cannot use."""
    files = sorted((speech / "test").rglob("*.wav"))[:3]
    wave = {path.stem: soundfile.read(path, dtype="float32")[0] for path in files}
    first, second, _ = wave
    data = tmp_path / "data"
    data.mkdir()
    entries = [f"cat {path} |" if index else path for index, path in enumerate(files)]
    (data / "wav.scp").write_text("".join(f"{name} {entry}\n" for name, entry in zip(wave, entries)))
    (data / "feats.scp").write_text("".join(f"{name} nowhere.ark:7\n" for name in wave))
    extract = ["extract", "--device", "cpu", str(converted), str(data)]
    result = CliRunner().invoke(cli, [*extract, str(tmp_path / "x")])
    assert result.exit_code == 0, result.output
    ours = dict(read_table(f"scp:{tmp_path}/x/xvector.scp", "vector"))
    extractor = Extractor.load(converted)
    assert list(ours) == list(wave)
    for name, samples in wave.items():
        np.testing.assert_allclose(ours[name], extractor.embed(samples), rtol=1e-4, atol=1e-6)

    (data / "segments").write_text(f"a {first} 0.5 2.25\nb {first} 2 -1\nc {second} 1 2.0 0\n")
    result = CliRunner().invoke(cli, [*extract, f"ark:{tmp_path}/seg.ark"])
    assert result.exit_code == 0, result.output
    ours = dict(read_table(f"ark:{tmp_path}/seg.ark", "vector"))
    pieces = {"a": wave[first][8000:36000], "b": wave[first][32000:], "c": wave[second][16000:32000]}
    assert list(ours) == list(pieces)
    for name, samples in pieces.items():
        np.testing.assert_allclose(ours[name], extractor.embed(samples), rtol=1e-4, atol=1e-6)

    for segments, message in ((f"a {first} 2.5 2.25\n", "segments:1: 'a' .*2.5 .*2.25"), ("", "data: no utterances")):
        (data / "segments").write_text(segments)
        result = CliRunner().invoke(cli, [*extract, f"ark:{tmp_path}/no.ark"])
        assert isinstance(result.exception, InputError) and re.search(message, str(result.exception))
        assert not (tmp_path / "no.ark").exists()


# Bad input.


class Code:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"blocks.0.conv.conv.weight": torch.zeros(2, 3, 5)}, "holds: blocks.0.conv.conv.weight"),
        ({"state_dict": {"encoder.encoder.0.mconv.0.conv.weight": torch.zeros(2)}}, "holds: state_dict"),
        ({"teacher": {"module.patch_embed.weight": torch.zeros(2)}}, "holds: teacher"),
        ({}, "holds: nothing"),
        ([torch.zeros(2)], "holds: list"),
    ],
)
def test_checkpoints_of_other_toolkits(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    for read in (convert_3dspeaker, load_checkpoint):
        with pytest.raises(InputError, match=f"other.pt: .*{message}"):
            read(tmp_path / "other.pt")
    result = CliRunner().invoke(cli, ["convert", "3dspeaker", str(tmp_path / "other.pt"), str(tmp_path / "out.pt")])
    assert isinstance(result.exception, InputError) and not (tmp_path / "out.pt").exists()


def test_a_3dspeaker_checkpoint_where_ours_is_expected(published):
    with pytest.raises(InputError, match="tiny.pth: .*sdpn-k2 convert 3dspeaker"):
        load_checkpoint(published)


def test_our_checkpoint_where_3dspeakers_is_expected(converted):
    with pytest.raises(InputError, match="ours.pt: already a checkpoint of sdpn_k2"):
        convert_3dspeaker(converted)


def test_files_that_are_not_checkpoints(published, tmp_path):
    whole = published.read_bytes()
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    for name, content, message in (
        ("half", whole[: len(whole) // 2], "cut short"),
        ("few", whole[:3], "cut short"),
        ("empty", b"", "cut short"),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("page", b"<!DOCTYPE html><html>404</html>", "web page"),
        ("kaldi", b"\0B<Nnet3> ", "not written by torch.save"),
        ("x.safetensors", len(header).to_bytes(8, "little") + header + bytes(4), "not written by torch.save"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: .*{message}"):
            convert_3dspeaker(tmp_path / name)
    with pytest.raises(InputError, match="none: cannot read: No such file"):
        convert_3dspeaker(tmp_path / "none")
    with pytest.raises(InputError, match="cannot read: Is a directory"):
        convert_3dspeaker(tmp_path)


def test_other_archives(tmp_path):
    class Module(torch.nn.Module):
        def forward(self, x):
            return x

    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    for name, member in (("notes.zip", "readme.txt"), ("damaged.pt", "archive/data.pkl")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, b"none")
    torch.jit.script(Module()).save(str(tmp_path / "m.ts"))
    for name, message in (
        ("a.npz", "not written by torch.save"),
        ("notes.zip", "not written by torch.save"),
        ("damaged.pt", "damaged|torch 2.5"),
        ("m.ts", "TorchScript"),
    ):
        with pytest.raises(InputError, match=f"{name}: .*({message})"):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_refused_and_not_run(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    content = {"teacher": {"module.backbone.blocks.0.conv.conv.weight": Code()}}
    if legacy:
        (tmp_path / "evil.pt").write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, tmp_path / "evil.pt")
    for read in (convert_3dspeaker, load_checkpoint):
        with pytest.raises(InputError, match=r"evil.pt: .*(not written by torch.save|refused.*(posix|os)\.mkdir)"):
            read(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


def test_numpy_scalars_need_torch_2_5(tmp_path):
    torch.save({"lr": np.float64(0.1)}, tmp_path / "numbers.pt")
    with pytest.raises(InputError, match="numbers.pt: .*" + ("holds: lr" if READS_NUMPY else "torch 2.5")):
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
    last = "module.backbone.fc.conv.weight"
    more = {f"module.backbone.blocks.4.tdnn1.conv.{i}": torch.zeros(1) for i in range(7)}
    for change, message in (
        (lambda c: c["teacher"].pop(teacher), "teacher: missing backbone.blocks.2.tdnn1.conv.conv.weight"),
        (lambda c: c["teacher"].pop(last), "teacher: missing backbone.fc.conv.weight"),
        (lambda c: c["student"].update(more), "student: unknown backbone.blocks.4.tdnn1.conv.0, .* 3 more"),
        (
            lambda c: c["teacher"].update({teacher: torch.zeros(24, 23, 1)}),
            r"blocks.2.tdnn1.conv.conv.weight .*\(24, 23, 1\).*\(24, 24, 1\)",
        ),
        (lambda c: c["student"].update({teacher: torch.zeros(24, 24, 3)}), r"student: .*\(24, 24, 3\)"),
        (lambda c: c["teacher"].update({"module.x": 3}), "teacher"),
        (lambda c: c.update(prototypes=torch.zeros(11, 8)), r"prototypes .*\(11, 8\).* 9"),
        (lambda c: c.update(prototypes=torch.tensor(1.0)), r"prototypes .*\(\)"),
        (lambda c: c.update(prototypes=[1, 2]), "prototypes .*list"),
        (lambda c: c.update(prototypes=torch.zeros(1, 9)), "theirs.pth: .*objective.num_prototypes.* 2"),
        (lambda c: c.update(scheduler={}), "unknown entries: scheduler"),
    ):
        assert re.search(message, attempt(change))
