#!/usr/bin/env python3
"""Write an RTTM file of who speaks when, from segments and the speaker of each.

Usage: diarization/make_rttm.py [--rttm-channel N] segments labels rttm

    diarization/make_rttm.py exp/plda_scores/segments exp/plda_scores/labels exp/plda_scores/rttm

  --rttm-channel N  channel to write; a reference must have the same (default: 0)

A line of segments is "segment recording start end", a line of labels "segment speaker". Where two segments overlap, as
windows do, the border is the middle of the overlap. Adjoining segments of a speaker become one. "-" means standard
input or output.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.datadir import rttm
from sdpn_k2.kaldi.tools import script


def main(options, segments, labels, output):
    script.whole_number(options.rttm_channel, "--rttm-channel")
    segments, labels = ("/dev/stdin" if path == "-" else path for path in (segments, labels))
    lines = rttm.format_turns(rttm.turns_of_segments(segments, labels), options.rttm_channel)
    if output == "-":
        sys.stdout.buffer.write(lines)
        return
    with atomic_output(output) as stream:
        stream.write(lines)


script.run(main, __doc__, arguments=(3, 3), values={"--rttm-channel": "0"})
