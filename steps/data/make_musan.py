#!/usr/bin/env python3
"""Write wav.scp and utt2spk of the MUSAN corpus: its noise, speech and music.

Usage: steps/data/make_musan.py [options] musan-dir destination

    steps/data/make_musan.py --sampling-rate 8000 /corpora/musan data/musan

  --use-vocals false  leave out music that the ANNOTATIONS files mark as sung (default: true)
  --sampling-rate R   sample rate of the entries in Hz (default: 16000, the rate of the corpus)

Only music that an ANNOTATIONS file lists is used. make_musan.sh calls this script, and splits the result.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from sdpn_k2.errors import InputError
from sdpn_k2.files import make_folder
from sdpn_k2.kaldi.datadir.data_dir import write_map
from sdpn_k2.kaldi.formats import words
from sdpn_k2.kaldi.tools import script

CORPUS_RATE = 16000
KINDS = ("speech", "music", "noise")


def main(options, corpus, destination):
    rate = script.whole_number(options.sampling_rate, "--sampling-rate", least=1)
    vocals = script.boolean(options.use_vocals, "--use-vocals")
    paths = {}
    for kind in KINDS:
        if not os.path.isdir(f"{corpus}/{kind}"):
            raise InputError(f"{corpus}/{kind}: no such folder (is {corpus} the MUSAN corpus?)")
    for kind in KINDS:
        found = wave_files(f"{corpus}/{kind}")
        missing = 0
        if kind == "music":
            listed = annotated_music(f"{corpus}/{kind}")
            missing = len(listed.keys() - found.keys())
            found = {name: found[name] for name, sung in listed.items() if name in found and (vocals or not sung)}
        paths.update(found)
        script.info(f"{kind}: {len(found)} files" + (f"; {missing} listed files do not exist" if missing else ""))
    make_folder(destination)
    entry = "{}" if rate == CORPUS_RATE else f"sox -t wav {{}} -r {rate} -t wav - |"
    write_map(Path(destination, "wav.scp"), {name: entry.format(path) for name, path in paths.items()})
    write_map(Path(destination, "utt2spk"), {name: name for name in paths})


def wave_files(folder):
    """Return name → path of the wave files in a folder and those below it."""
    return {
        file[: -len(".wav")]: os.path.join(place, file)
        for place, _, files in os.walk(folder)
        for file in files
        if file.endswith(".wav")
    }


def annotated_music(folder):
    """Return name → whether it is sung, of the pieces in the ANNOTATIONS files ('name genres Y|N musician')."""
    sung = {}
    for place, _, files in os.walk(folder):
        if "ANNOTATIONS" not in files:
            continue
        path = os.path.join(place, "ANNOTATIONS")
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            for number, line in enumerate(stream, start=1):
                fields = words.split(line)
                if fields and len(fields) < 4:
                    raise InputError(f"{path}:{number}: expected 'name genres Y|N musician', got '{line.rstrip()}'")
                if fields:
                    sung[fields[0]] = fields[2] == "Y"
    return sung


script.run(main, __doc__, arguments=(2, 2), values={"--use-vocals": "true", "--sampling-rate": str(CORPUS_RATE)})
