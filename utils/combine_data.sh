#!/usr/bin/env python3
"""Write one data directory with the utterances of several.

Usage: utils/combine_data.sh [--skip-fix true] [--extra-files "table ..."] destination source1 source2 ...

    utils/combine_data.sh data/train_all data/voxceleb1 data/voxceleb2

A table that not all of them have is left out. Where only some have segments, the others' recordings become segments.
  --extra-files "X ..."  also combine these tables, which are none of Kaldi's
  --skip-fix true  don't drop utterances that are not in all the tables
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError  # noqa: E402
from sdpn_k2.kaldi.datadir import data_dir_ops  # noqa: E402
from sdpn_k2.kaldi.tools import script  # noqa: E402


def main(options, destination, *sources):
    if options.skip_fix not in ("true", "false"):
        raise InputError(f"--skip-fix takes true or false, got '{options.skip_fix}'")
    notes = data_dir_ops.combine(destination, sources, options.extra_files.split())
    if options.skip_fix == "false":
        notes += data_dir_ops.fix(destination)
    for note in notes:
        script.tell(note)


script.run(main, __doc__, arguments=(2, None), values={"--skip-fix": "false", "--extra-files": ""})
