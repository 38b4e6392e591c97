#!/usr/bin/env python3
"""Turn utterance -> speaker into speaker -> utterances, in order of appearance.

Usage: utils/utt2spk_to_spk2utt.pl [utt2spk] > spk2utt

    utils/utt2spk_to_spk2utt.pl data/train/utt2spk > data/train/spk2utt

Without a file, or for "-", the script reads standard input.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.tools import script


def main(_options, source="-"):
    utterances = {}
    for number, line in enumerate(script.read_lines(source), start=1):
        fields = line.split()
        if len(fields) != 2:
            found = line.decode(errors="replace").strip()
            raise InputError(f"{source}:{number}: expected one utterance and one speaker, got '{found}'")
        utterances.setdefault(fields[1], []).append(fields[0])
    for speaker, names in utterances.items():
        sys.stdout.buffer.write(speaker + b" " + b" ".join(names) + b"\n")


script.run(main, __doc__, arguments=(0, 1))
