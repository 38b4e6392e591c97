#!/usr/bin/env bash
# Decides for each frame, by its energy, whether it is speech; writes vad.scp into a data directory.
#
# Usage: sid/compute_vad_decision.sh [options] <data-dir> [<log-dir> [<vad-dir>]]
# Example: sid/compute_vad_decision.sh --nj 8 --cmd "$train_cmd" data/train exp/make_vad/train vad
#
# The first dimension of the features in <data-dir> must be the log energy, as in MFCC features. Writes archives into
# <vad-dir> (default: <data-dir>/data) and logs into <log-dir> (default: <data-dir>/log). For fbank features, see
# steps/make_fbank.sh --vad-config.

nj=4
cmd=run.pl
vad_config=conf/vad.conf
# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
export PATH=$PATH:$root/utils:$root/utils/kaldi-bin
# shellcheck source=utils/quoting.sh
. "$root/utils/quoting.sh"
if [ $# -lt 1 ] || [ $# -gt 3 ]; then
  echo "Usage: compute_vad_decision.sh [options] <data-dir> [<log-dir> [<vad-dir>]]; --help says more" >&2
  exit 1
fi
data=$1
logdir=${2:-$data/log}
vad_dir=${3:-$data/data}
name=$(basename "$data")

for file in "$data/feats.scp" "$vad_config"; do
  [ -s "$file" ] || { echo "compute_vad_decision.sh: $file: no such file, or empty" >&2; exit 1; }
done
mkdir -p "$logdir" "$vad_dir"
vad_dir=$(cd "$vad_dir" && pwd)
utterances=$(wc -l < "$data/feats.scp")
if [ "$nj" -gt "$utterances" ]; then
  echo "compute_vad_decision.sh: running $utterances jobs instead of $nj, one for each utterance"
  nj=$utterances
fi

parts=()
for ((job = 1; job <= nj; job++)); do parts+=("$logdir/feats_$name.$job"); done
"$root/utils/split_scp.pl" "$data/feats.scp" "${parts[@]}"
quote_words compute-vad --config="$vad_config" "scp:$logdir/feats_$name.JOB" \
  "ark,scp:$vad_dir/vad_$name.JOB.ark,$vad_dir/vad_$name.JOB.scp"
$cmd JOB=1:"$nj" "$logdir/vad_$name.JOB.log" "${quoted_words[@]}"
for ((job = 1; job <= nj; job++)); do cat "$vad_dir/vad_$name.$job.scp"; done > "$data/vad.scp.tmp"
mv "$data/vad.scp.tmp" "$data/vad.scp"
rm "${parts[@]}"

made=$(wc -l < "$data/vad.scp")
if [ "$made" -lt "$utterances" ]; then
  echo "compute_vad_decision.sh: $((utterances - made)) of $utterances utterances have no decisions;" \
    "see $logdir/vad_$name.*.log" >&2
fi
echo "compute_vad_decision.sh: made VAD decisions for $made utterances of $data"
