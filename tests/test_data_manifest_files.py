"""Broken manifests: every command reports file and line in a single line."""

import gzip
import json

import pytest
from click.testing import CliRunner
from lhotse import CutSet, Features, MonoCut, MultiCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.array import Array
from lhotse.audio import AudioSource
from lhotse.supervision import AlignmentItem

from sdpn_k2.cli import cli
from sdpn_k2.data.manifest_files import load_manifest, to_line, write_manifest
from sdpn_k2.errors import InputError

RECORDINGS = [
    Recording(f"r{index}", [AudioSource("file", [0], f"/nowhere/{index}.wav")], 16000, 16000, 1.0)
    for index in range(400)
]
SUPERVISIONS = [SupervisionSegment(recording.id, recording.id, 0.0, 1.0, speaker="s") for recording in RECORDINGS]
CUTS = [MonoCut(recording.id, 0.0, 1.0, 0, recording=recording) for recording in RECORDINGS]

CUT_COMMANDS = [
    ["select-cuts", "{}", "out.jsonl.gz"],
    ["shar", "{}", "out"],
    ["lhotse", "export-feats", "{}", "out"],
    ["lhotse", "attach-xvectors", "{}", "ark:/dev/null", "out.jsonl.gz"],
    ["lhotse", "export-xvectors", "{}", "ark:out.ark"],
]


def broken(folder, name):
    """Write a broken manifest; return it and the expected message."""
    path = folder / f"{name}.jsonl.gz"
    if name == "half":
        write_manifest(CUTS, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path, r"half.jsonl.gz: .* line \d+: Compressed file ended before"
    if name == "flipped":
        path.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 100)  # not a valid block
        return path, "flipped.jsonl.gz: .* line 0: Error -3"
    if name == "text":
        path.write_text("one two\n")
        return path, "text.jsonl.gz:1: .* cut: Expecting value"
    if name == "partial":
        path.write_text(json.dumps(CUTS[0].to_dict()) + '\n{"id": "x"}\n')
        return path, "partial.jsonl.gz:2: .* cut: .*missing"
    if name == "word":
        path.write_text('"word"\n')
        return path, "word.jsonl.gz:1: .* cut"
    write_manifest({"recordings": RECORDINGS, "supervisions": SUPERVISIONS}[name], path)
    kind = {"recordings": "Recording", "supervisions": "SupervisionSegment"}[name]
    return path, f"{name}.jsonl.gz:1: .* cut, .*{kind}"


@pytest.mark.parametrize(
    "name, command",
    [
        (name, command)
        for name in ("half", "flipped", "text", "partial", "word", "recordings", "supervisions")
        for command in CUT_COMMANDS
        if "export-feats" not in command or name not in ("half", "partial")  # line 1 has none
    ],
)
def test_commands_on_cuts(name, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, message = broken(tmp_path, name)
    result = CliRunner().invoke(cli, [word.format(path) for word in command])
    assert isinstance(result.exception, InputError), result.output
    with pytest.raises(InputError, match=message):
        raise result.exception
    assert not any(path.is_file() for path in tmp_path.glob("out*"))


def test_manifests_written_for_to_kaldi(tmp_path):
    recordings, supervisions, data = (tmp_path / name for name in ("r.jsonl.gz", "s.jsonl.gz", "data"))
    write_manifest(RECORDINGS, recordings)
    write_manifest(SUPERVISIONS, supervisions)
    result = CliRunner().invoke(cli, ["lhotse", "to-kaldi", *map(str, (supervisions, recordings, data))])
    with pytest.raises(InputError, match="s.jsonl.gz:1: .* recording, .*SupervisionSegment"):
        raise result.exception
    supervisions.write_bytes(gzip.compress(b'{"id": "a"}\n'))
    result = CliRunner().invoke(cli, ["lhotse", "to-kaldi", *map(str, (recordings, supervisions, data))])
    with pytest.raises(InputError, match="s.jsonl.gz:1: .* supervision: .*missing"):
        raise result.exception
    assert not data.exists()


@pytest.mark.parametrize("items, kind", [(CUTS, CutSet), (RECORDINGS, RecordingSet), (SUPERVISIONS, SupervisionSet)])
@pytest.mark.parametrize("packed", [True, False])
def test_every_iteration_reads_the_whole_manifest(items, kind, packed, tmp_path):
    path = tmp_path / "items.jsonl.gz"
    write_manifest(items, path)
    if not packed:
        path.write_bytes(gzip.decompress(path.read_bytes()))
    manifest = load_manifest(path, kind)
    assert isinstance(manifest, kind) and list(manifest) == list(manifest) == list(manifest.to_eager()) == items


def test_lines_are_those_of_lhotse():
    recording = Recording("r", [AudioSource("file", [0, 1], "/ä.wav")], 8000, 8000, 1.0, [0, 1]).resample(16000)
    supervision = SupervisionSegment(
        "s", "r", 0, 1, speaker="a", custom={"x": None, "array": Array("numpy_files", "/x", "k", [3])}
    )
    aligned = supervision.with_alignment("word", [AlignmentItem("a", 0.0, 1.0), AlignmentItem("b", 0.5, 0.5, 0.1)])
    features = Features("fbank", 98, 80, 0.01, 16000, 0, 1.0, "numpy_files", "/x", "k", "r", 0)
    custom = {"other": RECORDINGS[0], "nested": {"a": None}}
    cut = MonoCut("c", 0, 1.0, 0, [supervision, aligned], features, recording, custom)
    multi = MultiCut("m", 0, 1.0, [0, 1], [aligned], recording=recording)
    for item in (recording, recording.perturb_speed(1.1), supervision, aligned, features, cut, multi, cut.pad(3.0)):
        assert to_line(item) == json.dumps(item.to_dict(), ensure_ascii=False).encode() + b"\n"


def test_lines_of_any_length_are_not_read(tmp_path):
    path = tmp_path / "cuts.jsonl.gz"
    with gzip.open(path, "wb") as stream:
        stream.write(b'{"id": "' + bytes(80 << 20))
    with pytest.raises(InputError, match=f"{path}:1: over 64 MB"):
        list(load_manifest(path))
