#!/usr/bin/env python3
"""Write a data directory whose utterances are stretches of another's.

Usage: utils/data/subsegment_data_dir.sh source subsegments [text] destination

    utils/data/subsegment_data_dir.sh data/train subsegments data/train_chunks

Each line of subsegments is "new-utterance old-utterance start end", in seconds from the old utterance's start. The
result has segments, and feats.scp with ranges of rows ([21:142]) if the source has features; without a text it has
none.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from sdpn_k2.kaldi import data_ops, script  # noqa: E402


def main(_options, source, subsegments, *rest):
    number = data_ops.subsegment(source, subsegments, rest[-1], rest[0] if len(rest) == 2 else None)
    script.tell(f"{rest[-1]} has {number} stretches of {source}")


script.run(main, __doc__, arguments=(3, 4))
