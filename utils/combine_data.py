#!/usr/bin/env python3
"""Write one data directory with the utterances of several.

Usage: utils/combine_data.sh [--skip-fix true] [--extra-files "table ..."] destination source1 source2 ...

    utils/combine_data.sh data/train_all data/voxceleb1 data/voxceleb2

  --extra-files "X ..."  also combine these tables, which are not standard in Kaldi
  --skip-fix true        keep utterances that are missing from some tables

Only tables and extra files that all sources have are combined. If only some sources have segments, each recording of
the others becomes one segment. Of a speaker's statistics in several sources (cmvn.scp), the first are kept.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir import derived_dirs, repair
from sdpn_k2.kaldi.tools import script


def main(options, destination, *sources):
    if options.skip_fix not in ("true", "false"):
        raise InputError(f"--skip-fix must be true or false, got '{options.skip_fix}'")
    notes = derived_dirs.combine(destination, sources, options.extra_files.split())
    if options.skip_fix == "false":
        notes += repair.fix(destination)
    for note in notes:
        script.info(note)


script.run(main, __doc__, arguments=(2, None), values={"--skip-fix": "false", "--extra-files": ""})
