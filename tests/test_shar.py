"""Shards: the same cuts in random order, and damaged shards."""

import shutil
import subprocess

import numpy as np
import pytest
from lhotse import CutSet, Recording
from lhotse.audio import AudioSource
from tiny_config import TINY

from sdpn_k2.config import load_config
from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.data.multi_crop import MultiCropDataset
from sdpn_k2.data.shar import SharTable, write_shar
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


def test_audio_of_commands_is_stored(tiny_cuts, tmp_path, ffmpeg):
    cuts = list(CutSet.from_file(tiny_cuts))[:3]
    wav, _, m4a = (cut.recording.sources[0] for cut in cuts)
    subprocess.run(["ffmpeg", "-v", "8", "-i", m4a.source, tmp_path / "a.m4a"], check=True)
    expected = [cut.load_audio() for cut in cuts]
    cuts[0].recording.sources[0] = AudioSource("command", [0], f"cat {wav.source}")
    cuts[2].recording.sources[0] = AudioSource("command", [0], f"ffmpeg -v 8 -i {tmp_path}/a.m4a -f wav -ar 16000 -")
    write_manifest(cuts, tmp_path / "cuts.jsonl.gz")
    assert write_shar(tmp_path / "cuts.jsonl.gz", tmp_path / "shards", 2, 0) == 3
    stored = {cut.id: cut.load_audio() for cut in CutSet.from_shar(in_dir=tmp_path / "shards")}
    np.testing.assert_array_equal(stored[cuts[0].id], expected[0])
    np.testing.assert_array_equal(stored[cuts[1].id], expected[1])
    np.testing.assert_array_equal(stored[cuts[2].id], np.round(cuts[2].load_audio() * 32768) / 32768)
    assert np.corrcoef(stored[cuts[2].id][0], expected[2][0])[0, 1] > 0.5  # AAC changes noise, but little


def test_unreadable_utterances_are_left_out_of_shards(tiny_cuts, tmp_path):
    recording = next(iter(CutSet.from_file(tiny_cuts))).recording
    sources = [recording.sources] * 39 + [[AudioSource("command", [0], "exit 1")]]
    cuts = [Recording(f"u{n:02d}", source, 16000, 8000, 0.5).to_cut() for n, source in enumerate(sources)]
    write_manifest(cuts, tmp_path / "cuts.jsonl.gz")
    assert write_shar(tmp_path / "cuts.jsonl.gz", tmp_path / "shards", 10, 0) == 39
    table = SharTable(tmp_path / "shards")
    assert {table[index].id for index in range(39)} == {f"u{n:02d}" for n in range(39)}
    assert all(table[index].load_audio().shape == (1, 8000) for index in (0, 20, 38))
    write_manifest(cuts[25:], tmp_path / "cuts.jsonl.gz")  # 1 of 15 is more than 5 %
    with pytest.raises(InputError, match="cuts.jsonl.gz: 1 of 15 utterances .* 'u39': "):
        write_shar(tmp_path / "cuts.jsonl.gz", tmp_path / "more", 10, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cuts.jsonl.gz", "cuts.jsonl.gz.table", "shards"]


def test_parts_of_recordings_and_features_alone(tiny_fbank_cuts, tmp_path):
    whole = [cut for cut in CutSet.from_file(tiny_fbank_cuts) if cut.duration > 0.8]
    parts = [cut.truncate(offset=0.25, duration=0.5, preserve_id=True) for cut in whole]
    write_manifest(parts, tmp_path / "parts.jsonl.gz")
    write_shar(tmp_path / "parts.jsonl.gz", tmp_path / "parts", 4, 0)
    table, by_id = SharTable(tmp_path / "parts"), {cut.id: cut for cut in parts}
    for index in range(len(table)):
        cut = table[index]
        np.testing.assert_array_equal(cut.load_audio(), by_id[cut.id].load_audio())
        np.testing.assert_array_equal(cut.load_features(), by_id[cut.id].load_features())
    write_manifest([cut.drop_recording() for cut in whole], tmp_path / "features.jsonl.gz")
    write_shar(tmp_path / "features.jsonl.gz", tmp_path / "features", 4, 0)
    assert not list((tmp_path / "features").glob("recording.*"))
    assert SharTable(tmp_path / "features")[0].load_features().shape[1] == 80
