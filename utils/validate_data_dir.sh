#!/usr/bin/env python3
"""Check a data directory, and name the file and line of the first thing that is wrong.

Usage: utils/validate_data_dir.sh [--no-feats] [--no-text] [--no-wav] [--no-spk-sort] data-dir

    utils/validate_data_dir.sh --no-text data/train

  --no-feats, --no-text, --no-wav  feats.scp, text or wav.scp need not be there; what is there is checked
  --no-spk-sort  sorted utterances need not be sorted by speaker as well
  --non-print    accepted for Kaldi's sake: letters of the text are not looked at, but that it is UTF-8
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.kaldi.datadir import data_dir  # noqa: E402
from sdpn_k2.kaldi.tools import script  # noqa: E402


def main(options, directory):
    number = data_dir.validate(
        directory,
        feats=not options.no_feats,
        text=not options.no_text,
        wav=not options.no_wav,
        speaker_order=not options.no_spk_sort,
    )
    script.tell(f"Successfully validated data-directory {directory} ({number} utterances)")


script.run(
    main, __doc__, arguments=(1, 1), flags=["--no-feats", "--no-text", "--no-wav", "--no-spk-sort", "--non-print"]
)
