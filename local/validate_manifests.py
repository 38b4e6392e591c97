#!/usr/bin/env python3
"""Check with lhotse that the recordings and supervisions of every prepared set are valid and agree.

Usage: local/validate_manifests.py data

    local/validate_manifests.py data/demo

As lhotse validate-pair does, but without holding all items in memory.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.tools import script


def main(_options, data):
    from lhotse import RecordingSet, SupervisionSet
    from lhotse.qa import validate

    from sdpn_k2.data.manifest_files import load_manifest

    for name in ["train", *Path(data, "eval_sets").read_text().split()]:
        recordings, supervisions = (
            Path(data, "manifests", f"{kind}_{name}.jsonl.gz") for kind in ("recordings", "supervisions")
        )
        known = {}
        try:
            for recording in load_manifest(recordings, RecordingSet):
                validate(recording)
                known[recording.id] = recording.duration, recording.num_channels
            for supervision in load_manifest(supervisions, SupervisionSet):
                validate(supervision)
                duration, channels = known.get(supervision.recording_id, (0.0, 0))
                if not (supervision.start >= -1e-3 and supervision.end <= duration + 1e-3):
                    raise InputError(f"{supervisions}: '{supervision.id}' does not lie within a recording")
                if not 0 <= supervision.channel < channels:
                    raise InputError(f"{supervisions}: '{supervision.id}' has a channel that its recording lacks")
        except AssertionError as error:
            raise InputError(f"{recordings.parent}: {error}") from None


script.run(main, __doc__, arguments=(1, 1))
