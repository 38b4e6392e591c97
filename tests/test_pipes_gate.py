"""SDPN_K2_ALLOW_PIPES=false reaches every command that a table or a manifest names, ours and lhotse's."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import Features, MonoCut, Recording, RecordingSet
from lhotse.audio import AudioSource
from tiny_models import write_model

from sdpn_k2.data.corpora.kaldi_dir import prepare_kaldi_dirs
from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.data.manifest_files import load_manifest, write_manifest
from sdpn_k2.data.shar import SharTable, write_shar
from sdpn_k2.data.stored_arrays import export_features
from sdpn_k2.errors import InputError
from sdpn_k2.inference.embedder import Embedder
from sdpn_k2.kaldi.datadir.data_dir_ops import write_data_dir
from sdpn_k2.kaldi.features.wave import to_wav_command
from sdpn_k2.kaldi.formats.tables import TableWriter, read_object


@pytest.fixture
def closed(monkeypatch):
    """Switch commands off."""
    monkeypatch.setenv("SDPN_K2_ALLOW_PIPES", "false")


@pytest.fixture
def trap(tmp_path) -> Path:
    """A file that a command of the test makes if it runs."""
    return tmp_path / "trap"


def write_wave(path: Path, seed: int = 0) -> Path:
    soundfile.write(path, np.random.default_rng(seed).normal(size=16000) * 0.1, 16000)
    return path


def recording(name: str, kind: str, source: str) -> Recording:
    return Recording(name, [AudioSource(kind, [0], source)], 16000, 16000, 1.0)


def features(path: str, key: str = "u") -> Features:
    return Features("kaldi-fbank", 98, 80, 0.01, 16000, 0.0, 0.98, "kaldiio", path, key, "u", 0)


def command_items(trap: Path, folder: Path) -> dict:
    """Return cuts by kind, each of which runs a command when it is read."""
    script = folder / "feats.scp"
    script.write_text(f"other {folder}/x.ark:5\nu touch {trap} |\n")
    cut = MonoCut("u", 0.0, 0.98, 0)
    stored = {
        "path": features(f"touch {trap} |"),
        "range": features(f"touch {trap} |[0:3]"),
        "script": features(str(script)),
        "url": Features("fbank", 98, 80, 0.01, 16000, 0.0, 0.98, "numpy_url", f"pipe:touch {trap}", "u", "u", 0),
    }
    audio = {"command": recording("u", "command", f"touch {trap}"), "url": recording("u", "url", f"pipe:touch {trap}")}
    made = {f"features {kind}": vars(cut) | {"features": each} for kind, each in stored.items()}
    made |= {f"audio {kind}": vars(cut) | {"recording": each} for kind, each in audio.items()}
    return {kind: MonoCut(**fields) for kind, fields in made.items()}


KINDS = ["features path", "features range", "features script", "features url", "audio command", "audio url"]


@pytest.mark.parametrize("kind", KINDS)
def test_items_of_manifests(kind, tmp_path, trap, closed):
    cut = command_items(trap, tmp_path)[kind]
    manifest = tmp_path / "cuts.jsonl.gz"
    write_manifest([cut], manifest)
    with pytest.raises(InputError, match=rf"{manifest}:1: 'u': .*SDPN_K2_ALLOW_PIPES"):
        list(load_manifest(manifest))
    with pytest.raises(InputError, match=rf"{manifest}:1: 'u': .*{trap if 'script' not in kind else 'feats.scp'}"):
        CutTable(manifest)[0]
    with pytest.raises(InputError, match="'u'"):
        write_shar(manifest, tmp_path / "shar", 10, 0)
    if kind.startswith("features"):
        with pytest.raises(InputError, match="'u'"):
            export_features(load_manifest(manifest), tmp_path / "out")
    assert not trap.exists()


def test_commands_run_where_they_are_allowed(tmp_path, trap):
    """The same items do run their command without the gate, so the test above means something."""
    for kind, cut in command_items(trap, tmp_path).items():
        with pytest.raises(Exception):  # noqa: B017 - the command prints no audio and no features
            cut.load_features() if kind.startswith("features") else cut.load_audio()
        if kind not in ("features range", "features url"):  # unknown to some releases of lhotse and kaldi_native_io
            assert trap.exists(), kind
            trap.unlink()


def test_shards(tmp_path, trap, closed, monkeypatch):
    wave = write_wave(tmp_path / "u.wav")
    write_manifest([Recording.from_file(wave).to_cut()], tmp_path / "cuts.jsonl.gz")
    write_shar(tmp_path / "cuts.jsonl.gz", tmp_path / "shar", 1, 0)
    tar = tmp_path / "shar" / "recording.000000.tar"
    with tarfile.open(tar) as opened:
        members = [(member, opened.extractfile(member).read()) for member in opened]
    with tarfile.open(tar, "w") as opened:
        for member, data in members:
            if member.name.endswith(".json"):
                fields = json.loads(data)
                fields["sources"][0].update(type="command", source=f"touch {trap}")
                data = json.dumps(fields).encode()
                member.size = len(data)
            opened.addfile(member, io.BytesIO(data))
    with pytest.raises(InputError, match=f"{tar}: 'u': .*{trap}"):
        SharTable(tmp_path / "shar")[0]
    assert not trap.exists()


def test_prepare_names_the_entry(tmp_path, trap, closed):
    wave = write_wave(tmp_path / "a.wav")
    write_data_dir(tmp_path / "in", {"s-a": str(wave), "s-b": f"touch {trap}; cat {wave} |"}, {"s-a": "s", "s-b": "s"})
    with pytest.raises(InputError, match=r"wav.scp: 's-b': .*SDPN_K2_ALLOW_PIPES"):
        prepare_kaldi_dirs(tmp_path / "in", {}, tmp_path / "data")
    assert not trap.exists()


def test_our_conversions_need_no_command(tmp_path, closed):
    """Entries that only say how to convert a file are read as that file, from preparation to training."""
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).normal(size=(16000, 2)) * 0.1, 8000)
    write_data_dir(tmp_path / "in", {"s-a": to_wav_command(str(tmp_path / "a.flac"), 16000, 1)}, {"s-a": "s"})
    prepare_kaldi_dirs(tmp_path / "in", {}, tmp_path / "data")
    (read,) = load_manifest(tmp_path / "data" / "manifests" / "recordings_train.jsonl.gz", RecordingSet)
    assert read.load_audio(channels=1).shape == (1, 32000)


def test_a_cut_in_memory(tmp_path, trap, closed):
    embedder = Embedder.load(write_model(tmp_path / "final.pt"))
    with pytest.raises(InputError, match="'u'"):
        embedder.embed(command_items(trap, tmp_path)["audio command"])
    assert not trap.exists()


def test_names_of_sphere_files_start_no_shell(tmp_path, monkeypatch):
    """lhotse would put the name into a command line of sph2pipe."""
    import sdpn_k2.data.manifest_files  # noqa: F401 - sets the reader

    monkeypatch.chdir(tmp_path)
    soundfile.write("a;touch trap.sph", np.ones(100) / 2, 16000, format="NIST", subtype="PCM_16")
    assert recording("u", "file", "a;touch trap.sph").sources[0].load_audio().shape == (1, 100)
    assert not (tmp_path / "trap.sph").exists()


def test_tables(tmp_path, trap, closed):
    with TableWriter(f"ark:{tmp_path}/x.ark", "vector") as writer:
        writer.write("u", np.ones(3, np.float32))
    with pytest.raises(InputError, match="SDPN_K2_ALLOW_PIPES"):
        read_object(f"touch {trap} |", "vector")
    assert not trap.exists()
