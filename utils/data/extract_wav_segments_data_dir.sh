#!/usr/bin/env bash
# Writes a data directory without segments: each segment becomes a recording of its own.
#
# Usage: utils/data/extract_wav_segments_data_dir.sh [options] <source> <destination>
# Example: utils/data/extract_wav_segments_data_dir.sh --nj 8 --cmd "$train_cmd" data/train_segmented data/train
#
# The audio goes into archives in <destination>/data; wav.scp has lines "utterance wav-copy archive:offset - |". Segments
# that their recording does not contain, or that are shorter than 0.1 s, are dropped.

nj=4
cmd=run.pl
# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../../utils/parse_options.sh"

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
export PATH=$PATH:$root/utils:$root/utils/kaldi-bin
# shellcheck source=utils/quoting.sh
. "$root/utils/quoting.sh"
if [ $# -ne 2 ]; then
  echo "Usage: extract_wav_segments_data_dir.sh [options] <source> <destination>; --help says more" >&2
  exit 1
fi
from=$1
dest=$2
logdir=$dest/log

[ -s "$from/segments" ] || { echo "extract_wav_segments_data_dir.sh: $from/segments: no such file" >&2; exit 1; }
"$root/utils/copy_data_dir.sh" "$from" "$dest"
mkdir -p "$dest/data" "$logdir"
segments=$(wc -l < "$from/segments")
[ "$nj" -le "$segments" ] || nj=$segments
parts=()
for ((job = 1; job <= nj; job++)); do parts+=("$logdir/segments.$job"); done
"$root/utils/split_scp.pl" "$from/segments" "${parts[@]}"
wav=$dest/data/wav_segments
quote_words extract-segments "scp,p:$from/wav.scp" "$logdir/segments.JOB" "ark,scp:$wav.JOB.ark,$wav.JOB.scp"
$cmd JOB=1:"$nj" "$logdir/extract_wav_segments.JOB.log" "${quoted_words[@]}"
for ((job = 1; job <= nj; job++)); do cat "$wav.$job.scp"; done > "$wav.scp"
awk '{ file = substr($0, length($1) + 2)
       if (file ~ /[^A-Za-z0-9_.\/:=+,@%-]/) { gsub(/\047/, "\047\\\047\047", file); file = "\047" file "\047" }
       print $1 " wav-copy " file " - |" }' "$wav.scp" > "$dest/wav.scp"
rm -f "${parts[@]}" "$dest"/{segments,reco2dur,reco2file_and_channel,reco2num_spk}
if [ "$(wc -l < "$dest/wav.scp")" -lt "$segments" ]; then "$root/utils/fix_data_dir.sh" "$dest"; fi
