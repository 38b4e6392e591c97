#!/usr/bin/env python3
"""Split a list into parts of equal length, optionally without splitting a speaker.

Usage: utils/split_scp.pl [--utt2spk=utt2spk] list part1 part2 ...
       utils/split_scp.pl -j number-of-parts part [--one-based] [--utt2spk=utt2spk] list [output]

    utils/split_scp.pl data/train/wav.scp wav.1.scp wav.2.scp wav.3.scp
    utils/split_scp.pl -j 3 0 --utt2spk=data/train/utt2spk data/train/feats.scp feats.1.scp

  --utt2spk=FILE  keep each speaker's lines in one part; the parts are then only roughly equal
  -j N PART       write one part of N to the output, or to standard output; parts count from 0
  --one-based     count parts from 1

The list may be "-" for standard input. It needs at least as many lines (or speakers) as there are parts.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.datadir import data_dir, lists
from sdpn_k2.kaldi.tools import script


def main(options, *arguments):
    only = None
    if options.j:
        number = script.whole_number(options.j, "the number of parts", least=1)
        only = script.whole_number(arguments[0], "the part") - options.one_based
        if not 0 <= only < number:
            raise InputError(f"part {arguments[0]} is not one of {number}")
        if not 2 <= len(arguments) <= 3:
            raise InputError("with -j, expected a part, a list and at most one output; --help shows the usage")
        source, outputs = arguments[1], arguments[2:] or ["-"]
    else:
        source, outputs = arguments[0], arguments[1:]
        number = len(outputs)
        if not outputs:
            raise InputError("no outputs; --help shows the usage")

    lines = script.read_lines(source)
    if not 1 <= number <= len(lines):
        raise InputError(f"{source} has {len(lines)} lines, too few for {number} parts (use fewer jobs)")
    if options.utt2spk:
        keys = [line.split(None, 1)[0].decode("utf-8", "surrogateescape") if line.strip() else "" for line in lines]
        speakers = lists.speakers_of(keys, data_dir.read_map(options.utt2spk), source)
        parts = lists.split_by_speaker(lines, speakers, number, source)
    else:
        parts = lists.split(lines, number)

    for part, output in zip(parts if only is None else [parts[only]], outputs):
        if output == "-":
            sys.stdout.buffer.writelines(part)
        else:
            with atomic_output(output) as stream:
                stream.writelines(part)


script.run(main, __doc__, arguments=(1, None), flags=["--one-based"], values={"--utt2spk": "", "-j": ""})
