#!/usr/bin/env bash
# Prepares existing Kaldi data directories (wav.scp, utt2spk and, where there are any, segments): checked copies and
# lhotse manifests.
#
# Usage: local/prepare_kaldi_dir.sh [options] <train-data-dir> [<eval-data-dir> ...] <data>
# An evaluation directory holds trials (or several trials_<name>) too; its set is called as its folder.
set -euo pipefail

nj=$(nproc)     # threads
max_bad=5       # per cent of unusable recordings, per set, above which to give up
noise_dir=      # folders of audio for augmentation
rir_dir=

. utils/parse_options.sh
[ $# -ge 2 ] || { echo "Usage: $0 [options] <train-data-dir> [<eval-data-dir> ...] <data> (see --help)" >&2; exit 1; }
train=$1
data=${*: -1}
eval_dirs=()
for dir in "${@:2:$#-2}"; do
  [ -z "$dir" ] || eval_dirs+=(--eval-dir "$dir")
done

sdpn-k2 prepare kaldi-dir --nj "$nj" --max-bad "$max_bad" ${eval_dirs[@]+"${eval_dirs[@]}"} \
  ${noise_dir:+--noise-dir "$noise_dir"} ${rir_dir:+--rir-dir "$rir_dir"} "$train" "$data"
local/validate_manifests.sh "$data"
