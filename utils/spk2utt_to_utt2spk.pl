#!/usr/bin/env python3
"""Turn speaker -> utterances into utterance -> speaker, in order of appearance.

Usage: utils/spk2utt_to_utt2spk.pl [spk2utt] > utt2spk

    utils/spk2utt_to_utt2spk.pl data/train/spk2utt > data/train/utt2spk

Without a file, or for "-", the script reads standard input.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.tools import script


def main(_options, source="-"):
    for number, line in enumerate(script.read_lines(source), start=1):
        speaker, *utterances = line.split() or [None]
        if not utterances:
            raise InputError(f"{source}:{number}: expected a speaker and its utterances")
        for utterance in utterances:
            sys.stdout.buffer.write(utterance + b" " + speaker + b"\n")


script.run(main, __doc__, arguments=(0, 1))
