"""The cuts that training uses, and their table."""

import gzip

import pytest
from lhotse import CutSet
from tiny_config import TINY

from sdpn_k2.config import load_config
from sdpn_k2.data.cut_selection import select_cuts
from sdpn_k2.data.cut_table import CutTable
from sdpn_k2.errors import InputError


def test_selected_cuts_are_counted_and_have_no_labels(tiny_cuts, tmp_path):
    config = load_config(None, TINY + ["crops.min_seconds=0.6"])
    summary = select_cuts(CutSet.from_file(tiny_cuts), config, tmp_path / "selected.jsonl.gz")
    kept = list(CutSet.from_file(tmp_path / "selected.jsonl.gz"))
    assert summary.dropped_short == 14 - len(kept) == 3
    assert summary.utterances == len(kept) and summary.local_crops == 4 * len(kept)
    assert summary.seconds == pytest.approx(sum(cut.duration for cut in kept))
    assert all(not cut.supervisions for cut in kept)


@pytest.mark.parametrize("rate, what", [(8000, "downsampled"), (16000, ""), (32000, "upsampled")])
def test_cuts_at_other_rates_are_counted(tiny_cuts, tmp_path, rate, what):
    config = load_config(None, TINY + [f"features.sample_rate={rate}"])
    summary = select_cuts(CutSet.from_file(tiny_cuts), config, tmp_path / "selected.jsonl.gz")
    assert "sampled" not in summary.lines() if not what else summary.lines().endswith(f"; 14 {what} to {rate} Hz")


def test_crops_longer_than_every_utterance_are_refused(tiny_cuts, tmp_path):
    for name in ("global", "local"):
        config = load_config(None, TINY + [f"crops.{name}_seconds=9"])
        with pytest.raises(InputError, match=f"crops.{name}_seconds = 9 .*1.50 s"):
            select_cuts(CutSet.from_file(tiny_cuts), config, tmp_path / "selected.jsonl.gz")


def test_broken_manifests_are_refused(tmp_path):
    (tmp_path / "empty.jsonl.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "junk.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(InputError, match="junk.jsonl:1: "):
        CutTable(tmp_path / "junk.jsonl")[0]
    for name in ("empty.jsonl.gz", "cut.jsonl.gz", "absent.jsonl.gz"):
        with pytest.raises(InputError, match=f"{tmp_path}/{name}: "):
            CutTable(tmp_path / name)
