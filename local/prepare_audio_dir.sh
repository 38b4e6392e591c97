#!/usr/bin/env bash
# Prepares a folder of audio: lhotse manifests and Kaldi data directories.
#
# Usage: local/prepare_audio_dir.sh [options] <root> <data>
#   <root>/train/<speaker>/<utterance>.wav   training set (its speaker labels are not trained on)
#   <root>/<set>/<speaker>/<utterance>.wav   evaluation sets: those with a file <root>/<set>/trials
#   <root>/{noise,music,speech,rir}          for augmentation, each optional
# A part that lies elsewhere is named by its option.
set -euo pipefail

nj=$(nproc)     # threads
channel=0       # channel to use of recordings with several, from 0
max_bad=5       # per cent of unusable audio, per set, above which to give up
train_dir=
test_dir=
noise_dir=
rir_dir=

. utils/parse_options.sh
[ $# -eq 2 ] || { echo "Usage: $0 [options] <root> <data> (see --help)" >&2; exit 1; }
root=$1
data=$2

sdpn-k2 prepare audio-dir --nj "$nj" --channel "$channel" --max-bad "$max_bad" \
  ${train_dir:+--train-dir "$train_dir"} ${test_dir:+--test-dir "$test_dir"} \
  ${noise_dir:+--noise-dir "$noise_dir"} ${rir_dir:+--rir-dir "$rir_dir"} "$root" "$data"
local/validate_manifests.sh "$data"
