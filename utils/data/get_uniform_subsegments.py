#!/usr/bin/env python3
r"""Cut segments into uniform pieces that overlap.

Usage: utils/data/get_uniform_subsegments.py [options] segments > subsegments

    utils/data/get_uniform_subsegments.py --max-segment-duration=1.5 --overlap-duration=0.75 \
      --max-remaining-duration=0.5 --constant-duration=True data/dev/segments > subsegments
    utils/data/subsegment_data_dir.sh data/dev subsegments data/dev_pieces

  --max-segment-duration X    seconds of a piece (default: 30)
  --overlap-duration X        seconds that neighbours share (default: 5)
  --max-remaining-duration X  a rest of up to X seconds joins the last piece (default: 10)
  --constant-duration True    the last piece ends with its segment and begins so much earlier that it has the full
                              length, if less than --max-remaining-duration is left (default: False)

Each line of the output is "piece segment start end", in seconds from the start of the segment.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir import data_dir
from sdpn_k2.kaldi.tools import script

OPTIONS = {"--max-segment-duration": "30", "--overlap-duration": "5", "--max-remaining-duration": "10"}


def main(options, segments):
    length, overlap, rest = (script.number(getattr(options, name[2:].replace("-", "_")), name) for name in OPTIONS)
    constant = options.constant_duration.lower() not in ("", "0", "false", "no")
    if overlap >= length:
        raise InputError("--overlap-duration must be less than --max-segment-duration")
    for number, (utterance, segment) in enumerate(data_dir.read_segments(segments).items(), start=1):
        if segment.end == -1:
            raise InputError(f"{segments}:{number}: '{utterance}' needs an end in seconds, not -1")
        for name, start, end in pieces(segment, length, overlap, rest, constant):
            sys.stdout.buffer.write(data_dir.byte_order(f"{utterance}-{name} {utterance} {start} {end}\n"))


def pieces(segment, length, overlap, rest, constant):
    """Yield the suffix of the name, the start and the end of each piece.

    Sums and rounding are those of Kaldi, since the names hold times in hundredths of a second: truncated, but rounded
    for the last piece.
    """
    start, left = segment.start, segment.end - segment.start
    while left > length + (0 if constant else rest):
        first, end = start - segment.start, (start + length) - segment.start
        yield f"{int(100 * first):08d}-{int(100 * end):08d}", first, first + length
        start += length - overlap
        left -= length - overlap
    end = segment.end
    if constant:
        if left < 0:
            return
        if left < rest:
            start = max(segment.end - length, segment.start)
        end = min(start + length, segment.end)
    first, last = start - segment.start, end - segment.start
    yield f"{round(100 * first):08d}-{round(100 * last):08d}", first, last


script.run(main, __doc__, arguments=(1, 1), values={**OPTIONS, "--constant-duration": "False"})
