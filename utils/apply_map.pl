#!/usr/bin/env python3
"""Replace fields by their values in a map, line by line.

Usage: utils/apply_map.pl [-f fields] [--permissive] map [input] > output

    utils/apply_map.pl -f 2 data/train/utt2spk < utt2utt > utt2spk

  -f FIELDS     fields to replace, counted from 1: 2, 2-3 (or 2:3), 2- or -3 (default: all)
  --permissive  keep a field that is not in the map (default: fail)

Each line of the map is a field and its replacement, which may be several words or nothing. The last line for a field
counts. Without an input, or for "-", the script reads standard input.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.tools import script


def main(options, map_file, source="-"):
    match = re.fullmatch(r"(\d*)([-:]?)(\d*)", options.f)
    if not match or options.f in ("-", ":"):
        raise InputError(f"-f needs fields such as 2, 2-3, 2- or -3, got '{options.f}'")
    first = int(match[1] or 1)
    last = int(match[3] or sys.maxsize) if match[2] else int(match[1] or sys.maxsize)
    if not 1 <= first <= last:
        raise InputError(f"-f {options.f}: not a valid range of fields")

    replacement = {}
    for number, line in enumerate(script.read_lines(map_file), start=1):
        if not line.strip():
            raise InputError(f"{map_file}:{number}: empty line")
        key, *words = line.split()
        replacement[key] = b" ".join(words)
    for number, line in enumerate(script.read_lines(source), start=1):
        fields = line.split()
        for index in range(first - 1, min(last, len(fields))):
            if fields[index] in replacement:
                fields[index] = replacement[fields[index]]
            elif not options.permissive:
                key = fields[index].decode(errors="replace")
                raise InputError(f"{source}:{number}: '{key}' is not in {map_file} (use --permissive to keep it)")
        sys.stdout.buffer.write(b" ".join(fields) + b"\n")


script.run(main, __doc__, arguments=(1, 2), flags=["--permissive"], values={"-f": ""})
