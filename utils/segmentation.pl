#!/usr/bin/env python3
"""Turn a class per frame (0: silence, 1: noise, 2: speech) into segments of limited length.

Usage: utils/segmentation.pl [options] < per-frame-archive > segments

    copy-vector scp:data/dev/vad.scp ark,t:- | tr -d '[]' |
      utils/segmentation.pl --remove-noise-only-segments false > segments

  --silence-proportion X          share of silence around sound in the segments of a recording (default: 0.2)
  --frame-shift X                 seconds from one frame to the next (default: 0.01)
  --max-segment-length X          merge segments that touch up to this length in seconds (default: 15)
  --hard-max-segment-length X     cut longer segments into equal pieces (default: 30)
  --first-separator, --second-separator X  the signs in <recording>-<start>-<end> (default: -)
  --remove-noise-only-segments true|false  leave out segments without speech (default: true)

Each line of the input is a recording and the classes of its frames.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir import frame_segments
from sdpn_k2.kaldi.tools import script

CLASSES = {b"0": 0, b"1": 1, b"2": 2, b"[": 0, b"]": 0}  # Perl's value of a word that is not a number is 0


def main(options):
    if options.remove_noise_only_segments not in ("true", "false"):
        raise InputError("--remove-noise-only-segments must be true or false")
    lengths = ("silence-proportion", "frame-shift", "max-segment-length", "hard-max-segment-length")
    numbers = [script.number(getattr(options, name.replace("-", "_")), f"--{name}") for name in lengths]
    rules = frame_segments.SegmentationRules(*numbers, options.remove_noise_only_segments == "true")
    separators = (options.first_separator, options.second_separator)
    for number, line in enumerate(sys.stdin.buffer, start=1):
        words = line.split()
        if len(words) < 2:
            script.warn(f"warning: invalid input line {line.decode(errors='replace').strip()}")
            continue
        recording = words[0].decode("utf-8", "surrogateescape")
        warnings = []
        classes = [class_of(word, number) for word in words[1:]]
        segments = frame_segments.find_segments(classes, rules, recording, warnings)
        for warning in warnings:
            script.warn(f"warning: {warning}")
        lines = frame_segments.segment_lines(segments, recording, rules.frame_shift, separators)
        sys.stdout.buffer.writelines(f"{text}\n".encode("utf-8", "surrogateescape") for text in lines)


def class_of(word, number):
    if word in CLASSES:
        return CLASSES[word]
    try:
        return {0.0: 0, 1.0: 1, 2.0: 2}[float(word)]
    except (KeyError, ValueError):
        raise InputError(
            f"line {number} of the input: '{word.decode(errors='replace')}' is not a class (expected 0, 1 or 2)"
        ) from None


script.run(
    main,
    __doc__,
    arguments=(0, 0),
    values={
        "--silence-proportion": "0.2",
        "--frame-shift": "0.01",
        "--max-segment-length": "15",
        "--hard-max-segment-length": "30",
        "--first-separator": "-",
        "--second-separator": "-",
        "--remove-noise-only-segments": "true",
    },
)
