#!/usr/bin/env python3
"""Print the lines of a table whose key is in a list, or those whose key is not.

Usage: utils/filter_scp.pl [--exclude] [-f field] id-list [table] > output

    utils/filter_scp.pl good-utterances data/train/feats.scp > feats.scp
    utils/filter_scp.pl --exclude data/test/spk2utt -f 2 data/all/utt2spk

  --exclude  print the lines whose key is not in the list
  -f FIELD   field of the table that holds the key, counted from 1 (default: 1)

The first field of each line of the list is an id. Without a table, or for "-", the script reads standard input.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.tools import script


def main(options, id_list, table="-"):
    field = script.whole_number(options.f, "the field", least=1) - 1
    wanted = set()
    for number, line in enumerate(script.read_lines(id_list), start=1):
        if not line.strip():
            raise InputError(f"{id_list}:{number}: empty line")
        wanted.add(line.split(None, 1)[0])
    for number, line in enumerate(script.read_lines(table), start=1):
        fields = line.split(None, field + 1)
        if len(fields) <= field:
            raise InputError(f"{table}:{number}: no field {field + 1} in '{line.decode(errors='replace').strip()}'")
        if (fields[field].strip() in wanted) != options.exclude:
            sys.stdout.buffer.write(line)


script.run(main, __doc__, arguments=(1, 2), flags=["--exclude"], values={"-f": "1"})
