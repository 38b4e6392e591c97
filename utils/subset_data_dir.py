#!/usr/bin/env python3
"""Write a data directory with some of the utterances of another.

Usage: utils/subset_data_dir.sh [--first|--last|--shortest|--speakers|--per-spk] source N destination
       utils/subset_data_dir.sh --utt-list file source destination
       utils/subset_data_dir.sh --spk-list file source destination

    utils/subset_data_dir.sh data/train 1000 data/train_1k
    utils/subset_data_dir.sh --per-spk data/train 5 data/train_5each

  without option   N utterances, spread evenly over the directory
  --first, --last  the first or last N
  --shortest       the N with the fewest frames (utt2num_frames), or else seconds (utt2dur)
  --speakers       random speakers, each with all utterances, until there are at least N utterances
  --per-spk        N of each speaker, spread evenly, or all if the speaker has fewer
  --utt-list, --spk-list FILE  utterances whose id, or whose speaker's id, is the first field of a line
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir import data_dir, data_dir_ops, lists
from sdpn_k2.kaldi.tools import script


def main(options, source, *arguments):
    if options.utt_list or options.spk_list:
        if len(arguments) != 1:
            raise InputError("with a list, expected a source and a destination; --help shows the usage")
        chosen = listed(options, Path(source))
    else:
        if len(arguments) != 2:
            raise InputError("expected a source, N and a destination; --help shows the usage")
        chosen = counted(options, Path(source), script.whole_number(arguments[0], "N", least=1))
    number = data_dir_ops.subset(source, arguments[-1], chosen)
    script.info(f"{arguments[-1]} has {number} utterances of {source}")


def listed(options, source):
    path = options.utt_list or options.spk_list
    ids = {line.split()[0].decode("utf-8", "surrogateescape") for line in script.read_lines(path) if line.strip()}
    utt2spk = data_dir.read_map(source / "utt2spk")
    known = utt2spk if options.utt_list else set(utt2spk.values())
    if not ids.issubset(known):
        unknown = sorted(ids.difference(known))
        script.warn(f"warning: {len(unknown)} ids of {path} are not in {source}, the first is '{unknown[0]}'")
    if options.utt_list:
        return [utterance for utterance in utt2spk if utterance in ids]
    return [utterance for utterance, speaker in utt2spk.items() if speaker in ids]


def counted(options, source, number):
    utt2spk = data_dir.read_map(source / "utt2spk")
    utterances = list(utt2spk)
    if options.per_spk:
        return [name for names in data_dir.spk2utt(utt2spk).values() for name in spread_evenly(names, number)]
    if options.speakers:
        chosen = []
        for names in lists.shuffle(list(data_dir.spk2utt(utt2spk).values())):
            if len(chosen) < number:
                chosen += names
        return chosen
    if number > len(utterances):
        raise InputError(f"{source} has only {len(utterances)} utterances, not {number}")
    if options.first:
        return utterances[:number]
    if options.last:
        return utterances[-number:]
    if options.shortest:
        lengths = next((source / name for name in ("utt2num_frames", "utt2dur") if (source / name).is_file()), None)
        if lengths is None:
            raise InputError(f"--shortest needs {source}/utt2num_frames or utt2dur (see utils/data/get_utt2dur.sh)")
        length = data_dir.read_numbers(lengths)
        return sorted((name for name in utterances if name in length), key=length.__getitem__)[:number]
    return lists.spread(utterances, number)


def spread_evenly(names, number):
    """Return every k-th name for the largest k that gives enough; all names if there are too few."""
    return names[:: max(1, len(names) // number)][:number]


script.run(
    main,
    __doc__,
    arguments=(2, 3),
    flags=["--first", "--last", "--shortest", "--speakers", "--per-spk"],
    values={"--utt-list": "", "--spk-list": ""},
)
