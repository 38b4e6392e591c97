#!/usr/bin/env python3
"""Copy a data directory, optionally with new utterance and speaker ids.

Usage: utils/copy_data_dir.sh [options] source destination

    utils/copy_data_dir.sh --utt-suffix -noise --spk-suffix -noise data/train data/train_noise

  --utt-prefix X, --utt-suffix X  add X to each utterance id; utt2uniq keeps the old id
  --spk-prefix X, --spk-suffix X  add X to each speaker id; give the utterances a speaker prefix, too
  --validate-opts "X ..."         options of utils/validate_data_dir.sh for the final check, such as --no-spk-sort
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir import derived_dirs, validation
from sdpn_k2.kaldi.tools import script


def main(options, source, destination):
    known = {"--no-spk-sort", "--no-feats", "--no-text", "--no-wav", "--non-print"}
    unknown = set(options.validate_opts.split()) - known
    if unknown:
        raise InputError(f"--validate-opts: {' '.join(sorted(unknown))} not an option of validate_data_dir.sh")
    derived_dirs.copy(
        source, destination, (options.utt_prefix, options.utt_suffix), (options.spk_prefix, options.spk_suffix)
    )
    number = validation.validate(
        destination, feats=False, text=False, wav=False, speaker_order="--no-spk-sort" not in options.validate_opts
    )
    script.info(f"copied {number} utterances from {source} to {destination}")


script.run(
    main,
    __doc__,
    arguments=(2, 2),
    values=dict.fromkeys(["--utt-prefix", "--utt-suffix", "--spk-prefix", "--spk-suffix", "--validate-opts"], ""),
)
