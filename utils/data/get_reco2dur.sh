#!/usr/bin/env bash
# Writes reco2dur, the duration of each recording of a data directory in seconds, unless it exists and is complete.
#
# Usage: utils/data/get_reco2dur.sh [options] <data-dir>
# Example: utils/data/get_reco2dur.sh --nj 8 --cmd "$train_cmd" data/train
#
# The durations come from the headers of the files in wav.scp; --read-entire-file true counts samples instead.

nj=4
cmd=run.pl
# shellcheck disable=SC2034  # accepted for compatibility with Kaldi
frame_shift=0.01
read_entire_file=false
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../../utils/parse_options.sh"

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
# shellcheck source=utils/quoting.sh
. "$root/utils/quoting.sh"
export PATH=$PATH:$root/utils:$root/utils/kaldi-bin
if [ $# -ne 1 ]; then
  echo "Usage: get_reco2dur.sh [options] <data-dir>; --help says more" >&2
  exit 1
fi
data=$1
wav=$data/wav.scp

[ -s "$wav" ] || { echo "get_reco2dur.sh: $wav: no such file, or empty" >&2; exit 1; }
recordings=$(wc -l < "$wav")
if [ "$data/reco2dur" -nt "$wav" ] && [ "$(wc -l < "$data/reco2dur")" -eq "$recordings" ]; then
  echo "get_reco2dur.sh: $data/reco2dur already exists"
  exit 0
fi

[ "$nj" -le "$recordings" ] || nj=$recordings
work=$data/log/reco2dur
mkdir -p "$work"
parts=()
for ((job = 1; job <= nj; job++)); do parts+=("$work/wav.$job.scp"); done
"$root/utils/split_scp.pl" "$wav" "${parts[@]}"
quote_words wav-to-duration --read-entire-file="$read_entire_file" \
  "scp,p:$work/wav.JOB.scp" "ark,t:$work/reco2dur.JOB"
$cmd JOB=1:"$nj" "$data/log/get_reco2dur.JOB.log" "${quoted_words[@]}"
for ((job = 1; job <= nj; job++)); do cat "$work/reco2dur.$job"; done > "$work/all"
measured=$(wc -l < "$work/all")
mv "$work/all" "$data/reco2dur"
rm -r "$work"
if [ "$measured" -lt "$recordings" ]; then
  echo "get_reco2dur.sh: warning: $((recordings - measured)) of $recordings recordings cannot be read;" \
    "see $data/log/get_reco2dur.*.log" >&2
fi
echo "get_reco2dur.sh: wrote $data/reco2dur ($measured recordings)"
