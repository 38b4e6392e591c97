#!/usr/bin/env python3
"""Write a copy of a data directory whose recordings have added noise.

Usage: steps/data/augment_data_dir.py [options] source destination

    steps/data/augment_data_dir.py --utt-suffix babble --bg-snrs 20:17:15:13 --num-bg-noises 3:4:5:6:7 \
        --bg-noise-dir data/musan_speech data/train data/train_babble

  --bg-noise-dir DIR     noises that are repeated to cover the whole recording
  --fg-noise-dir DIR     noises that follow one another
  --bg-snrs A:B:…        SNRs in dB to draw from for these (default: 20:10:0)
  --fg-snrs A:B:…        the same for the others (default: 20:10:0)
  --num-bg-noises A:B:…  how many of the first kind overlap, to draw from (default: 1)
  --fg-interval N        seconds between two of the second kind (default: 0)
  --utt-suffix X         make ids of copies as "id-X"
  --utt-prefix X         make them as "X-id"
  --modify-spk-id true   change the ids of speakers, too (default: false)
  --random-seed N        seed of the random choices (default: 123)

The source and the directories of noises need wav.scp and reco2dur. No audio is written: the new wav.scp adds the noise
with wav-reverberate when it is read. The source's segments and vad.scp are carried over, and utt2uniq is written;
features are not. The same seed makes the same choices as Kaldi's script.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from sdpn_k2.kaldi.datadir import additive_noise, repair
from sdpn_k2.kaldi.tools import script


def main(options, source, destination):
    settings = additive_noise.NoiseSettings(
        script.whole_numbers(options.fg_snrs, "--fg-snrs"),
        script.whole_numbers(options.bg_snrs, "--bg-snrs"),
        script.whole_numbers(options.num_bg_noises, "--num-bg-noises"),
        script.whole_number(options.fg_interval, "--fg-interval"),
    )
    number = additive_noise.augment(
        source,
        destination,
        background=options.bg_noise_dir or None,
        foreground=options.fg_noise_dir or None,
        settings=settings,
        rename=additive_noise.affix(options.utt_prefix, options.utt_suffix),
        rename_speakers=script.boolean(options.modify_spk_id, "--modify-spk-id"),
        seed=script.whole_number(options.random_seed, "--random-seed"),
    )
    for note in repair.fix(destination):
        script.info(note)
    script.info(f"{destination} has {number} recordings of {source} with noise")


script.run(
    main,
    __doc__,
    arguments=(2, 2),
    values={
        "--fg-snrs": "20:10:0",
        "--bg-snrs": "20:10:0",
        "--num-bg-noises": "1",
        "--fg-interval": "0",
        "--utt-suffix": "",
        "--utt-prefix": "",
        "--random-seed": "123",
        "--modify-spk-id": "false",
        "--bg-noise-dir": "",
        "--fg-noise-dir": "",
    },
)
