#!/usr/bin/env bash
# Computes MFCC features of a data directory in parallel jobs and stores them compressed.
#
# Usage: steps/make_mfcc.sh [options] <data-dir> [<log-dir> [<mfcc-dir>]]
# Example: steps/make_mfcc.sh --nj 8 --cmd "$train_cmd" --mfcc-config conf/mfcc.conf data/train exp/make_mfcc mfcc
#
# Reads wav.scp and, if it exists, segments. Writes archives into <mfcc-dir> (default: <data-dir>/data) and logs into
# <log-dir> (default: <data-dir>/log). Writes feats.scp, frame_shift, conf/mfcc.conf, utt2num_frames and utt2dur into
# the data directory.
# Utterances that cannot be read are skipped; the script fails if more than 5 % are skipped.
# If it was stopped, or if jobs failed, the same command runs the other jobs only.

nj=4
cmd=run.pl
mfcc_config=conf/mfcc.conf
compress=true
write_utt2num_frames=true
write_utt2dur=true
# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"

root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
export PATH=$PATH:$root/utils:$root/utils/kaldi-bin
kind=mfcc
config=$mfcc_config
vad_config=
# shellcheck source=steps/make_features.sh
. "$root/steps/make_features.sh"
