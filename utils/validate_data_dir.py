#!/usr/bin/env python3
"""Check a data directory; report the file and line of the first error.

Usage: utils/validate_data_dir.sh [--no-feats] [--no-text] [--no-wav] [--no-spk-sort] data-dir

    utils/validate_data_dir.sh --no-text data/train

  --no-feats, --no-text, --no-wav  accept a directory without feats.scp, text or wav.scp (existing tables are checked)
  --no-spk-sort  accept utterances that are not sorted by speaker as well
  --non-print    accepted for compatibility with Kaldi: any UTF-8 text is valid here
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.kaldi.datadir import validation
from sdpn_k2.kaldi.tools import script


def main(options, directory):
    number = validation.validate(
        directory,
        feats=not options.no_feats,
        text=not options.no_text,
        wav=not options.no_wav,
        speaker_order=not options.no_spk_sort,
    )
    script.info(f"Successfully validated data-directory {directory} ({number} utterances)")


script.run(
    main, __doc__, arguments=(1, 1), flags=["--no-feats", "--no-text", "--no-wav", "--no-spk-sort", "--non-print"]
)
