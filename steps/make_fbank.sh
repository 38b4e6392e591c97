#!/usr/bin/env bash
# Computes log mel filter bank (fbank) features of a data directory in parallel jobs and stores them compressed.
#
# Usage: steps/make_fbank.sh [options] <data-dir> [<log-dir> [<fbank-dir>]]
# Example: steps/make_fbank.sh --nj 8 --cmd "$train_cmd" --fbank-config conf/fbank.conf data/train exp/make_fbank fbank
#
# Reads wav.scp and, if it exists, segments. Writes archives into <fbank-dir> (default: <data-dir>/data) and logs into
# <log-dir> (default: <data-dir>/log). Writes feats.scp, frame_shift, conf/fbank.conf, utt2num_frames and utt2dur into
# the data directory.
# With --vad-config, the same pass over the audio also writes vad.scp: the VAD decisions of
# sid/compute_vad_decision.sh, from the log energy of each frame.
# Utterances that cannot be read are skipped; the script fails if more than 5 % are skipped.
# If it was stopped, or if jobs failed, the same command runs the other jobs only.

nj=4
cmd=run.pl
fbank_config=conf/fbank.conf
vad_config=                # options of compute-vad, such as conf/vad.conf (default: no VAD)
compress=true
write_utt2num_frames=true
write_utt2dur=true
# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"

root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
export PATH=$PATH:$root/utils:$root/utils/kaldi-bin
kind=fbank
config=$fbank_config
# shellcheck source=steps/make_features.sh
. "$root/steps/make_features.sh"
