"""Cuts of a Kaldi data directory: the recordings of utterances, whatever the order of the manifests."""

import numpy as np
import pytest
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.audio import AudioSource

from sdpn_k2.config import load_config
from sdpn_k2.data.feature_cuts import feature_cuts
from sdpn_k2.data.manifest_files import load_manifest, write_manifest
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.tables import TableWriter

RECORDINGS = [Recording(name, [AudioSource("file", [0], f"/{name}.wav")], 16000, 160000, 10.0) for name in "abcde"]


def cuts(folder, recordings, supervisions, without_features=()):
    (folder / "manifests").mkdir()
    (folder / "train").mkdir()
    write_manifest(recordings, folder / "manifests" / "recordings_train.jsonl.gz")
    write_manifest(supervisions, folder / "manifests" / "supervisions_train.jsonl.gz")
    rspecifier = f"ark,scp:{folder}/train/feats.ark,{folder}/train/feats.scp"
    with TableWriter(rspecifier, "matrix") as writer, open(folder / "train" / "utt2num_frames", "w") as frames:
        for supervision in supervisions:
            if supervision.id not in without_features:
                writer.write(supervision.id, np.ones((98, 80), np.float32))
                frames.write(f"{supervision.id} 98\n")
    write_manifest(feature_cuts(folder, "train", load_config().features), folder / "cuts.jsonl.gz")
    return list(load_manifest(folder / "cuts.jsonl.gz", CutSet))


@pytest.mark.parametrize("order", ["abcde", "aabbbde", "edcba", "acbacebd", "bcde", "e"])
def test_utterances_get_their_recordings(order, tmp_path):
    supervisions = [
        SupervisionSegment(f"u{index}", name, 0.5 * index, 1.0, speaker=f"s{name}") for index, name in enumerate(order)
    ]
    found = cuts(tmp_path, RECORDINGS, supervisions, without_features=("u2",))
    assert [cut.id for cut in found] == [item.id for item in supervisions if item.id != "u2"]
    by_id = {recording.id: recording for recording in RECORDINGS}
    for cut in found:
        (own,) = [item for item in supervisions if item.id == cut.id]
        assert cut.recording == by_id[own.recording_id] and cut.start == own.start and cut.duration == 0.98
        assert cut.supervisions[0].speaker == own.speaker and cut.features.storage_key == cut.id


@pytest.mark.parametrize("order", ["abx", "xab", "bax"])
def test_missing_recordings(order, tmp_path):
    supervisions = [SupervisionSegment(f"u{index}", name, 0.0, 1.0) for index, name in enumerate(order)]
    with pytest.raises(InputError, match="recordings_train.jsonl.gz: .* 'x'"):
        cuts(tmp_path, RECORDINGS, supervisions)
