#!/usr/bin/env bash
# Prepares a folder of audio: writes lhotse manifests and Kaldi data directories.
#
# Usage: local/prepare_audio_dir.sh [options] <root> <data>
# Example: local/prepare_audio_dir.sh --noise-dir /corpora/noise /corpora/mine data/mine
#
#   <root>/train/<speaker>/<utterance>.wav   training set (training ignores its speaker labels)
#   <root>/<set>/<speaker>/<utterance>.wav   evaluation sets: folders with a file <root>/<set>/trials
#   <root>/{noise,music,speech,rir}          for augmentation, each optional
# Use the options for parts that lie elsewhere.
set -euo pipefail

nj=$(nproc)     # threads
channel=0       # channel to use in multi-channel files (0-based)
sample_rate=16000  # Hz; audio at other rates is resampled on reading
unlabelled=false  # take any tree of files for training, without folders of speakers
max_bad=5       # give up if more than this percentage of a set cannot be used
train_dir=
test_dir=
noise_dir=
rir_dir=

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"
[ $# -eq 2 ] || { echo "Usage: $0 [options] <root> <data> (see --help)" >&2; exit 1; }
root=$1
data=$2
flag=
if $unlabelled; then flag=--unlabelled; fi

sdpn-k2 prepare audio-dir --nj "$nj" --sample-rate "$sample_rate" --channel "$channel" --max-bad "$max_bad" \
  ${flag:+"$flag"} \
  ${train_dir:+--train-dir "$train_dir"} ${test_dir:+--test-dir "$test_dir"} \
  ${noise_dir:+--noise-dir "$noise_dir"} ${rir_dir:+--rir-dir "$rir_dir"} "$root" "$data"
"$(dirname "$(readlink -f "$0")")/validate_manifests.py" "$data"
