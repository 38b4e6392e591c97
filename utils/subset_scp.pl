#!/usr/bin/env python3
"""Print N lines of a list in its order: spread evenly over it, or its first or last.

Usage: utils/subset_scp.pl [--quiet] [--first|--last] N list > output

    utils/subset_scp.pl 1000 data/train/utt2spk > small

  --first, --last  print the first or last N lines
  --quiet          print all lines of a list shorter than N (default: fail)

The list may be "-" for standard input.
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
            raise InputError(f"{source} has only {len(lines)} lines, not {wanted}")
        wanted = len(lines)
    if options.first:
        chosen = lines[:wanted]
    elif options.last:
        chosen = lines[len(lines) - wanted :]
    else:
        chosen = lists.spread(lines, wanted)
    sys.stdout.buffer.writelines(chosen)


script.run(main, __doc__, arguments=(2, 2), flags=["--quiet", "--first", "--last"])
