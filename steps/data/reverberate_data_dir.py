#!/usr/bin/env python3
"""Write copies of a data directory whose recordings are reverberated, with noises of the same rooms if wanted.

Usage: steps/data/reverberate_data_dir.py [options] source destination

    steps/data/reverberate_data_dir.py --rir-set-parameters "0.5, RIRS_NOISES/simulated_rirs/smallroom/rir_list" \
        --rir-set-parameters "0.5, RIRS_NOISES/simulated_rirs/mediumroom/rir_list" \
        --speech-rvb-probability 1 --pointsource-noise-addition-probability 0 \
        --isotropic-noise-addition-probability 0 data/train data/train_reverb

  --rir-set-parameters "[P,] FILE"             list of impulse responses, and its weight; may be repeated
  --noise-set-parameters "[P,] FILE"           list of noises, and its weight; may be repeated
  --num-replications N                         number of copies (default: 1)
  --prefix X                                   make ids of copies as "X1-id" (default: rvb if there are several copies)
  --include-original-data true                 also include the source, as copy 0 (default: false)
  --speech-rvb-probability P                   share of the recordings to reverberate (default: 1)
  --pointsource-noise-addition-probability P   share with noises from one direction (default: 1)
  --isotropic-noise-addition-probability P     share with noise from all directions (default: 1)
  --max-noises-per-minute N                    most noises of the first kind (default: 2)
  --foreground-snrs A:B:…                      SNRs in dB of noises that occur once (default: 20:10:0)
  --background-snrs A:B:…                      SNRs in dB of noises that are repeated (default: 20:10:0)
  --rir-smoothing-weight W                     share of the uniform distribution among impulse responses (default: 0.3)
  --noise-smoothing-weight W                   the same among noises (default: 0.3)
  --shift-output false                         keep the delay of the impulse response (default: true)
  --source-sampling-rate R                     sample rate of the source, if impulse responses and noises have another
  --random-seed N                              seed of the random choices (default: 0)

The source needs wav.scp; reco2dur is made if it is missing. No audio is written: the new wav.scp reverberates with
wav-reverberate when it is read. The source's segments and vad.scp are carried over, and utt2uniq is written; features
are not. The same seed makes the same choices as Kaldi's script.
"""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir import reverberation, validation
from sdpn_k2.kaldi.datadir.sound_lists import read_rooms
from sdpn_k2.kaldi.tools import script

UTILS = Path(__file__).resolve().parents[2] / "utils"


def main(options, source, destination):
    if not options.rir_set_parameters:
        raise InputError("--rir-set-parameters is missing: name a list of impulse responses")
    original = script.boolean(options.include_original_data, "--include-original-data")
    copies = script.whole_number(options.num_replications, "--num-replications", least=1)
    prefix = options.prefix or None
    if prefix is None and (copies > 1 or original):
        prefix = "rvb"
        script.warn("--prefix is set to 'rvb', since there is more than one copy")
    settings = reverberation.ReverberationSettings(
        snrs(options.foreground_snrs, "--foreground-snrs"),
        snrs(options.background_snrs, "--background-snrs"),
        script.number(options.speech_rvb_probability, "--speech-rvb-probability"),
        script.number(options.pointsource_noise_addition_probability, "--pointsource-noise-addition-probability"),
        script.number(options.isotropic_noise_addition_probability, "--isotropic-noise-addition-probability"),
        script.whole_number(options.max_noises_per_minute, "--max-noises-per-minute"),
        script.boolean(options.shift_output, "--shift-output"),
    )
    rooms = read_rooms(
        options.rir_set_parameters,
        options.noise_set_parameters,
        weight(options.rir_smoothing_weight, "--rir-smoothing-weight"),
        weight(options.noise_smoothing_weight, "--noise-smoothing-weight"),
        script.whole_number(options.source_sampling_rate, "--source-sampling-rate", least=1)
        if options.source_sampling_rate
        else None,
    )
    script.info(f"{sum(len(room.rirs) for room in rooms.rooms.values())} impulse responses in {len(rooms.rooms)} rooms")
    if options.noise_set_parameters:
        isotropic = sum(map(len, rooms.isotropic.values()))
        script.info(f"{len(rooms.point_sources)} noises from one direction, {isotropic} from all directions")
    if (
        not (Path(source) / "reco2dur").is_file()
        and subprocess.run([UTILS / "data/get_reco2dur.sh", source]).returncode
    ):
        return 1
    number = reverberation.reverberate(
        source,
        destination,
        rooms,
        settings,
        copies=reverberation.copy_names(prefix, copies, original),
        seed=script.whole_number(options.random_seed, "--random-seed"),
    )
    validation.validate(destination, feats=False, text=False)
    script.info(f"{destination} has {number} recordings, made of those of {source}")
    return 0


def snrs(text, what):
    try:
        return [float(part) for part in text.split(":")]
    except ValueError:
        raise InputError(f"{what} must be numbers with colons between them, got '{text}'") from None


def weight(text, what):
    value = script.number(text, what)
    if value > 1:
        raise InputError(f"{what} must lie between 0 and 1, got '{text}'")
    return value


script.run(
    main,
    __doc__,
    arguments=(2, 2),
    values={
        "--num-replications": "1",
        "--foreground-snrs": "20:10:0",
        "--background-snrs": "20:10:0",
        "--prefix": "",
        "--speech-rvb-probability": "1",
        "--pointsource-noise-addition-probability": "1",
        "--isotropic-noise-addition-probability": "1",
        "--rir-smoothing-weight": "0.3",
        "--noise-smoothing-weight": "0.3",
        "--max-noises-per-minute": "2",
        "--random-seed": "0",
        "--shift-output": "true",
        "--source-sampling-rate": "",
        "--include-original-data": "false",
    },
    lists=["--rir-set-parameters", "--noise-set-parameters"],
)
