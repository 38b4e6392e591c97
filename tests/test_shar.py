"""Shards: the same cuts in random order, and damaged shards."""

import shutil

import numpy as np
import pytest
from lhotse import CutSet
from tiny_config import TINY

from sdpn_k2.config import load_config
from sdpn_k2.data.multi_crop import MultiCropDataset
from sdpn_k2.data.shar import SharTable
from sdpn_k2.errors import InputError


def test_shards_hold_the_same_cuts_in_random_order(tiny_fbank_cuts, tiny_shards):
    table, cuts = SharTable(tiny_shards), {cut.id: cut for cut in CutSet.from_file(tiny_fbank_cuts)}
    ids = [table[index].id for index in range(len(table))]
    assert sorted(ids) == sorted(cuts) and ids != list(cuts)
    for index in (0, 5, 13):
        cut = table[index]
        np.testing.assert_array_equal(cut.load_audio(), cuts[cut.id].load_audio())
        np.testing.assert_array_equal(cut.load_features(), cuts[cut.id].load_features())
    # lhotse reads them too.
    assert [cut.id for cut in CutSet.from_shar(in_dir=tiny_shards)] == ids


def test_shards_are_visited_a_few_at_a_time(tiny_shards, monkeypatch):
    monkeypatch.setattr("sdpn_k2.data.shar.SHARDS_AT_ONCE", 2)
    table = SharTable(tiny_shards)
    order = table.permutation(np.random.default_rng(0))
    assert sorted(order) == list(range(14))
    shard = np.searchsorted([4, 8, 12], order, side="right")
    assert len(set(shard[:6])) <= 2 and len(set(shard)) == 4
    assert list(order) != list(table.permutation(np.random.default_rng(1)))


def test_a_corrupted_utterance_in_a_shard_is_replaced(tiny_shards, tmp_path):
    shutil.copytree(tiny_shards, tmp_path / "shards")
    tar = tmp_path / "shards" / "recording.000001.tar"
    data = bytearray(tar.read_bytes())
    data[512:560] = b"x" * 48  # the head of the first audio file
    tar.write_bytes(data)
    broken = SharTable(tiny_shards)[4].id
    dataset = MultiCropDataset(SharTable(tmp_path / "shards"), load_config(None, TINY))
    batch = dataset[(0, (3, 4, 5))]
    assert len(batch.skipped) == 1 and batch.skipped[0].key == broken and len(set(batch.ids)) == 3


def test_broken_shard_folders(tiny_shards, tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}: "):
        SharTable(tmp_path)
    shutil.copytree(tiny_shards, tmp_path / "cut")
    tar = tmp_path / "cut" / "recording.000000.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(InputError, match="recording.000000.tar: "):
        SharTable(tmp_path / "cut")[3]
    (tmp_path / "cut" / "recording.000001.tar").unlink()
    with pytest.raises(InputError, match="recording.000001.tar: "):
        SharTable(tmp_path / "cut")
