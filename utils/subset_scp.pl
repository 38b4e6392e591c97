#!/usr/bin/env python3
"""Print N lines of a list, in its order: evenly spread over it, or its first or last.

Usage: utils/subset_scp.pl [--quiet] [--first|--last] N list > output

    utils/subset_scp.pl 1000 data/train/utt2spk > small

  --first, --last  the first or last N lines
  --quiet          where there are fewer lines than N, print all of them; without it that is an error
The list may be "-", standard input.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir import lists
from sdpn_k2.kaldi.tools import script


def main(options, number, source):
    lines = script.read_lines(source)
    wanted = script.whole_number(number, "N")
    if wanted > len(lines):
        if not options.quiet:
            raise InputError(f"{wanted} lines wanted, but {source} has only {len(lines)}")
        wanted = len(lines)
    if options.first:
        chosen = lines[:wanted]
    elif options.last:
        chosen = lines[len(lines) - wanted :]
    else:
        chosen = lists.spread(lines, wanted)
    sys.stdout.buffer.writelines(chosen)


script.run(main, __doc__, arguments=(2, 2), flags=["--quiet", "--first", "--last"])
