#!/usr/bin/env python3
"""Write a data directory whose utterances are pieces of another's.

Usage: utils/data/subsegment_data_dir.sh [options] source subsegments [text] destination

    utils/data/subsegment_data_dir.sh data/train subsegments data/train_chunks

  --segment-end-padding X  add X seconds to the ends in segments, but not to those of the features
  --cmd X, --nj X          accepted for compatibility with Kaldi: this script needs no jobs

Each line of subsegments is "new-utterance old-utterance start end", in seconds from the start of the old utterance.
The destination has segments and, if the source has them, feats.scp and vad.scp with ranges of frames ([21:142]).
It has the given text, or none.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from sdpn_k2.kaldi.datadir import derived_dirs
from sdpn_k2.kaldi.tools import script


def main(options, source, subsegments, *rest):
    text = rest[0] if len(rest) == 2 else None
    padding = script.number(options.segment_end_padding, "--segment-end-padding")
    number = derived_dirs.subsegment(source, subsegments, rest[-1], text, padding)
    script.info(f"{rest[-1]} has {number} pieces of {source}")


script.run(main, __doc__, arguments=(3, 4), values={"--segment-end-padding": "0", "--cmd": "", "--nj": ""})
