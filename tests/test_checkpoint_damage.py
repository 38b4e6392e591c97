"""Files from other people: checkpoints, configurations and records that are damaged, forged or hostile."""

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import copy_run, make_trainer

from sdpn_k2.config import load_config
from sdpn_k2.errors import InputError
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.models.checkpoint import load_checkpoint
from sdpn_k2.models.torch_file import load_torch_file
from sdpn_k2.reporting import results
from sdpn_k2.reporting.training_log import read_metrics


@pytest.fixture
def content(tiny_run) -> dict:
    """What a checkpoint holds."""
    return torch.load(tiny_run, weights_only=True)


def write(path: Path, content: dict) -> Path:
    torch.save(content, path)
    return path


# Containers


def torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(path))


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())


def repacked(path: Path, tiny_run: Path, change) -> None:
    """Write the records of a checkpoint again, after ``change`` has altered the dict of them."""
    with zipfile.ZipFile(tiny_run) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    kind = change(records) or zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


def bomb(records: dict) -> int:
    name = next(name for name in records if "/data/" in name)
    records[name] = bytes(1 << 26)
    return zipfile.ZIP_DEFLATED


def code(records: dict) -> None:
    records[next(iter(records)).partition("/")[0] + "/code/__torch__.py"] = b"import os"


def short_storage(records: dict) -> None:
    name = next(name for name in records if name.endswith("/data/0"))
    records[name] = records[name][:2]


@pytest.mark.parametrize(
    ("change", "part"),
    [(bomb, "10 times"), (code, "code/__torch__.py"), (short_storage, "data/0")],
    ids=["bomb", "code", "short"],
)
def test_forged_archives(tiny_run, tmp_path, change, part):
    repacked(tmp_path / "x.pt", tiny_run, change)
    with pytest.raises(InputError, match=f"^{tmp_path}/x.pt: .*{part}"):
        load_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("make", [torchscript, tar])
def test_torch_does_not_see_containers_that_may_run_code(make, tmp_path, monkeypatch):
    make(tmp_path / "x.pt")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    with pytest.raises(InputError, match=f"^{tmp_path}/x.pt: "):
        load_torch_file(tmp_path / "x.pt")


def test_torchscript_whose_directory_is_hidden(tiny_run, tmp_path, monkeypatch):
    """torch and zipfile could read different directories of one file; names are searched in all of it."""
    torchscript(tmp_path / "script.pt")
    (tmp_path / "x.pt").write_bytes((tmp_path / "script.pt").read_bytes() + tiny_run.read_bytes())
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    with pytest.raises(InputError, match="TorchScript"):
        load_torch_file(tmp_path / "x.pt")


def test_one_flipped_bit(tiny_run, tmp_path):
    data = bytearray(tiny_run.read_bytes())
    with zipfile.ZipFile(tiny_run) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    data[largest.header_offset + largest.file_size // 2] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(InputError, match=f"^{tmp_path}/x.pt: .*CRC"):
        load_checkpoint(tmp_path / "x.pt")


def test_pickles_name_nothing_that_runs(tiny_run, tmp_path):
    class Command:
        def __reduce__(self):
            return Path.touch, (tmp_path / "trap",)

    def change(records):
        name = next(name for name in records if name.endswith("data.pkl"))
        records[name] = pickle.dumps({"x": Command()}, protocol=2)

    repacked(tmp_path / "x.pt", tiny_run, change)
    with pytest.raises(InputError, match=f"^{tmp_path}/x.pt: "):
        load_checkpoint(tmp_path / "x.pt")
    assert not (tmp_path / "trap").exists()


def test_old_files_of_tensors_are_read(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert load_torch_file(tmp_path / "x.pt")["a"].tolist() == [0, 1, 2]


# Content

ENCODER = "teacher.encoder."


def meta_with(content: dict, **changes) -> None:
    meta = json.loads(content["meta"])
    for key, value in changes.items():
        section, name = key.split("__")
        meta["config"][section][name] = value
    content["meta"] = json.dumps(meta)


def some(content: dict) -> str:
    return next(name for name in content["model"] if name.startswith(ENCODER) and content["model"][name].ndim == 3)


CHANGES = {
    "no step": (lambda c: c.pop("step"), "'step'"),
    "step is text": (lambda c: c.update(step="1"), "'step'"),
    "step is negative": (lambda c: c.update(step=-1), "-1"),
    "no model": (lambda c: c.pop("model"), "'model'"),
    "model is a list": (lambda c: c.update(model=[]), "'model'"),
    "model of numbers": (lambda c: c.update(model={"a": 1}), "'a'"),
    "no momentum": (lambda c: c.pop("momentum"), "'momentum'"),
    "no meta": (lambda c: c.pop("meta"), "'meta'"),
    "meta is no JSON": (lambda c: c.update(meta="{"), "'meta'"),
    "deep meta": (lambda c: c.update(meta="[" * 100_000), "'meta'"),
    "meta is a list": (lambda c: c.update(meta="[]"), "'meta'"),
    "no configuration": (lambda c: c.update(meta="{}"), "'config'"),
    "unknown key": (lambda c: meta_with(c, model__chanels=3), "model.chanels"),
    "huge number": (lambda c: meta_with(c, train__steps=10**400), "train.steps"),
    "huge encoder": (lambda c: meta_with(c, model__channels=2**28), "larger encoder"),
    "huge embedding": (lambda c: meta_with(c, model__embedding_dim=2**29), "larger encoder"),
    "huge mel bank": (lambda c: meta_with(c, features__num_mel_bins=2**29), "larger encoder"),
    "other shape": (lambda c: c["model"].update({some(c): c["model"][some(c)][:1]}), "shape"),
    "missing tensor": (lambda c: c["model"].pop(some(c)), "missing"),
    "unknown tensor": (lambda c: c["model"].update({ENCODER + "more": torch.zeros(1)}), "encoder.more|'more'"),
    "NaN": (lambda c: c["model"][some(c)].view(-1)[0].fill_(np.nan), "not finite"),
    "infinite momentum": (lambda c: c["momentum"].update(a=torch.tensor([np.inf])), "'a' in 'momentum'"),
    "claimed size": (lambda c: c["model"].update(a=torch.zeros(1).expand(10**12)), "'a' in 'model' claims"),
    "version": (lambda c: c.update(version=2), "version 2"),
    "version is text": (lambda c: c.update(version="1"), "'version'"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_checkpoints_of_our_format_with_other_content(content, tmp_path, name):
    change, part = CHANGES[name]
    change(content)
    path = write(tmp_path / "x.pt", content)
    with pytest.raises(InputError, match=f"(?s)^{path}.*({part})") as caught:
        Extractor.load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_resuming_from_a_checkpoint_that_does_not_fit(tiny_cuts, tiny_run, tmp_path):
    exp = copy_run(tiny_run, tmp_path / "exp")
    newest = sorted((exp / "checkpoints").glob("*.pt"))[-1]
    content = torch.load(newest, weights_only=True)
    name = next(iter(content["momentum"]))
    content["momentum"][name] = torch.zeros(7)
    write(newest, content)
    with pytest.raises(InputError, match=f"{newest}: .*'{name}'"):
        make_trainer(tiny_cuts, exp)
    content["momentum"].pop(name)
    content["model"].pop("prototypes.weight")
    write(newest, content)
    with pytest.raises(InputError, match=f"{newest}: .*'prototypes.weight'"):
        make_trainer(tiny_cuts, exp)


# Text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("train: &a {steps: 3}\nmodel: *a\n", "alias"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n", "alias"),
        ("[" * 5000, "deep"),
        ("train: {steps: " + "9" * 400 + "}", "train.steps"),
        ("train: {steps: " + "9" * 5000 + "}", "train.steps|YAML"),
        ("train: {base_lr: " + "9" * 400 + "}", "train.base_lr"),
        ("train: {steps: 3, steps: 4}", "duplicate key 'steps'"),
        ("seed: 3\nseed: 4\n", "duplicate key 'seed'"),
        ("seed: 3\nseed: {a: 4}\n", "duplicate key 'seed'"),
        ("train:\n  steps: 3\n  batch_size: 4\n  steps: 3\n", "duplicate key 'steps'"),
    ],
)
def test_hostile_yaml(text, part, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"({path}|configuration): .*({part})") as caught:
        load_config(path)
    assert len(str(caught.value)) < 6000 and "\n" not in str(caught.value)


def test_sections_of_joined_configurations_are_merged(tmp_path):
    (tmp_path / "x.yaml").write_text(
        "features: {num_mel_bins: 40, low_freq: 30}\nmodel: {channels: 64}\n"
        "train: {steps: 7}\nfeatures:\n  low_freq: 50\ntrain: {batch_size: 8}\n"
    )
    config = load_config(tmp_path / "x.yaml")
    assert (config.features.num_mel_bins, config.features.low_freq) == (40, 50.0)
    assert (config.train.steps, config.train.batch_size, config.model.channels) == (7, 8, 64)


@pytest.mark.parametrize("word", ["off", "no", "false", "OFF", "'off'", "False"])
def test_words_for_a_choice(word, tmp_path):
    (tmp_path / "x.yaml").write_text(f"train: {{compile: {word}, deterministic: {word}}}")
    for config in (load_config(tmp_path / "x.yaml"), load_config(None, [f"train.compile={word}"])):
        assert config.train.compile == "off" and config.train.deterministic == "off"
    assert load_config(None, ["train.compile=ON", "method=DINO"]).method == "dino"
    with pytest.raises(InputError, match="train.compile"):
        load_config(None, ["train.compile=maybe"])


def test_a_damaged_line_of_the_metrics_does_not_end_a_resumed_run(tiny_cuts, tiny_run, tmp_path, caplog):
    exp = copy_run(tiny_run, tmp_path / "exp")
    for path in sorted((exp / "checkpoints").glob("*.pt"))[-1:]:
        path.unlink()
    metrics = exp / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines()
    damaged = [b'{"step": "x"}', b"{}", b"[1]", b"\xff\xfe", b"[" * 9000, b'{"step": 1'] + lines
    metrics.write_bytes(b"\n".join(damaged) + b"\n")
    make_trainer(tiny_cuts, exp).run()
    steps, _ = read_metrics(metrics)
    assert list(steps) == sorted(steps) and steps[-1] == 8
    assert sum("damaged line" in record.message for record in caplog.records) == 6


@pytest.mark.parametrize(
    "text", ["[" * 9000, '{"results": 3}', "\xff", '{"measured": {}, "results": [{"eer": 1e999}]}']
)
def test_damaged_results(text, tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=str(path)):
        results.read(path)
