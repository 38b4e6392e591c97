"""The table of training cuts: made once for a manifest, shared, and never out of date."""

import gzip
import hashlib
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from lhotse import CutSet

from sdpn_k2.data import cut_table
from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.data.shar import SharTable
from sdpn_k2.errors import InputError


@pytest.fixture()
def manifest(tiny_cuts, tmp_path):
    """A manifest without a table."""
    return shutil.copy(tiny_cuts, tmp_path / "cuts.jsonl.gz")


@pytest.fixture()
def written(monkeypatch):
    """The calls that write a table."""
    calls, write = [], cut_table._write
    monkeypatch.setattr(cut_table, "_write", lambda *arguments: (calls.append(arguments), write(*arguments)))
    return calls


def test_cuts_and_summary(manifest, tmp_path):
    cuts = list(CutSet.from_file(manifest))
    digest = hashlib.blake2b(digest_size=8)
    for cut in cuts:
        digest.update(repr((cut.id, cut.start, cut.duration)).encode())
    (tmp_path / "plain.jsonl").write_bytes(gzip.decompress(manifest.read_bytes()).rstrip(b"\n"))
    for path in (manifest, tmp_path / "plain.jsonl"):
        for _ in range(2):  # without and with the table
            table = CutTable(path)
            assert list(table) == cuts and len(table) == len(cuts)
            assert table.digest == digest.hexdigest()
            assert table.longest_seconds == max(cut.duration for cut in cuts)
    for index in (-1, len(cuts)):
        with pytest.raises(IndexError):
            table[index]


def test_a_table_is_written_once_for_a_content(manifest, tmp_path, written):
    CutTable(manifest)
    (tmp_path / "other").mkdir()
    for name in ("cuts.jsonl.gz", "cuts.jsonl.gz.table"):
        shutil.copy(tmp_path / name, tmp_path / "other")
    CutTable(tmp_path / "other" / "cuts.jsonl.gz")
    assert len(written) == 1
    # Plain text, whose size and last bytes stay the same.
    lines = gzip.decompress(manifest.read_bytes()).splitlines(keepends=True)
    (tmp_path / "plain.jsonl").write_bytes(b"".join(lines))
    before = CutTable(tmp_path / "plain.jsonl")
    (tmp_path / "plain.jsonl").write_bytes(b"".join(lines).replace(b"spk0-00", b"spk0-99"))
    after = CutTable(tmp_path / "plain.jsonl")
    assert after[0].id != before[0].id and after.digest != before.digest
    assert len(written) == 3


@pytest.mark.parametrize("kept", [-1, 20, 0])
def test_damaged_tables_are_written_again(kept, manifest, tmp_path, written):
    digest, path = CutTable(manifest).digest, tmp_path / "cuts.jsonl.gz.table"
    path.write_bytes(path.read_bytes()[:kept])
    assert CutTable(manifest).digest == digest and len(written) == 2


def test_one_of_several_writes(manifest, tmp_path, written):
    with ThreadPoolExecutor(6) as executor:
        tables = list(executor.map(CutTable, [manifest] * 6))
    assert len({table.digest for table in tables}) == 1 and len(written) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cuts.jsonl.gz", "cuts.jsonl.gz.table"]


def test_folders_that_cannot_be_written(manifest, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert list(CutTable(manifest)) == list(CutSet.from_file(manifest))
    assert [path.name for path in tmp_path.iterdir()] == ["cuts.jsonl.gz"]
    assert "cuts.jsonl.gz.table: cannot write" in caplog.text


def test_copies_for_other_processes_hold_no_data(manifest, tiny_shards):
    for table in (CutTable(manifest), SharTable(tiny_shards, ["recording"])):
        packed = pickle.dumps(table)
        copy = pickle.loads(packed)
        assert len(packed) < 1000 and copy.digest == table.digest
        np.testing.assert_array_equal(copy[3].load_audio(), table[3].load_audio())
    assert isinstance(copy[3].recording.sources[0].source, bytes)
    assert copy[3].features.storage_type == "shar"  # not asked for


def test_items_that_are_not_cuts(tmp_path):
    for item, message in (
        ({"id": "a", "type": "MixedCut", "tracks": []}, "1: a MixedCut without valid id, start or duration"),
        ({"id": "a", "start": 0, "duration": "x", "channel": 0, "type": "MonoCut"}, "1: a MonoCut without valid"),
    ):
        (tmp_path / "cuts.jsonl").write_text(json.dumps(item) + "\n")
        with pytest.raises(InputError, match=f"cuts.jsonl:{message}"):
            CutTable(tmp_path / "cuts.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["cuts.jsonl"]
