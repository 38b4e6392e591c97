#!/usr/bin/env bash
# Prepares existing Kaldi data directories (wav.scp, utt2spk, optional segments): writes checked copies and lhotse
# manifests.
#
# Usage: local/prepare_kaldi_dir.sh [options] <train-data-dir> [<eval-data-dir> ...] <data>
# Example: local/prepare_kaldi_dir.sh /kaldi/data/train /kaldi/data/test data/mine
#
# An evaluation directory also holds trials, or several lists trials_<name>. Its set has the name of its folder.
set -euo pipefail

nj=$(nproc)     # threads
sample_rate=16000  # Hz; audio at other rates is resampled on reading
max_bad=5       # give up if more than this percentage of the recordings of a set cannot be used
noise_dir=      # folder of noises for augmentation
rir_dir=        # folder of impulse responses for augmentation

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"
[ $# -ge 2 ] || { echo "Usage: $0 [options] <train-data-dir> [<eval-data-dir> ...] <data> (see --help)" >&2; exit 1; }
train=$1
data=${*: -1}
eval_dirs=()
for dir in "${@:2:$#-2}"; do
  [ -z "$dir" ] || eval_dirs+=(--eval-dir "$dir")
done

sdpn-k2 prepare kaldi-dir --nj "$nj" --sample-rate "$sample_rate" --max-bad "$max_bad" ${eval_dirs[@]+"${eval_dirs[@]}"} \
  ${noise_dir:+--noise-dir "$noise_dir"} ${rir_dir:+--rir-dir "$rir_dir"} "$train" "$data"
"$(dirname "$(readlink -f "$0")")/validate_manifests.py" "$data"
