#!/usr/bin/env bash
# Writes utt2num_frames, the number of frames of each utterance of a data directory, unless it exists and is complete.
#
# Usage: utils/data/get_utt2num_frames.sh [options] <data-dir>
# Example: utils/data/get_utt2num_frames.sh --nj 8 --cmd "$train_cmd" data/train
#
# The numbers come from feats.scp. Without it, they are computed from utt2dur, --frame-shift and --frame-overlap (both
# in seconds; the overlap is the frame length minus the frame shift).

nj=4
cmd=run.pl
frame_shift=0.01
frame_overlap=0.015
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../../utils/parse_options.sh"

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
# shellcheck source=utils/quoting.sh
. "$root/utils/quoting.sh"
export PATH=$PATH:$root/utils:$root/utils/kaldi-bin
if [ $# -ne 1 ]; then
  echo "Usage: get_utt2num_frames.sh [options] <data-dir>; --help says more" >&2
  exit 1
fi
data=$1

[ -s "$data/utt2spk" ] || { echo "get_utt2num_frames.sh: $data/utt2spk: no such file, or empty" >&2; exit 1; }
utterances=$(wc -l < "$data/utt2spk")
if [ -s "$data/utt2num_frames" ] && [ "$(wc -l < "$data/utt2num_frames")" -eq "$utterances" ]; then
  echo "get_utt2num_frames.sh: $data/utt2num_frames already exists"
  exit 0
fi

if [ -s "$data/feats.scp" ]; then
  lines=$(wc -l < "$data/feats.scp")
  [ "$nj" -le "$lines" ] || nj=$lines
  work=$data/log/utt2num_frames
  mkdir -p "$work"
  parts=()
  for ((job = 1; job <= nj; job++)); do parts+=("$work/feats.$job.scp"); done
  "$root/utils/split_scp.pl" "$data/feats.scp" "${parts[@]}"
  quote_words feat-to-len "scp:$work/feats.JOB.scp" "ark,t:$work/utt2num_frames.JOB"
  $cmd JOB=1:"$nj" "$data/log/get_utt2num_frames.JOB.log" "${quoted_words[@]}"
  for ((job = 1; job <= nj; job++)); do cat "$work/utt2num_frames.$job"; done > "$data/.utt2num_frames"
  rm -r "$work"
else
  "$root/utils/data/get_utt2dur.sh" --nj "$nj" --cmd "$cmd" "$data"
  awk -v shift="$frame_shift" -v overlap="$frame_overlap" \
    '{ printf "%s %d\n", $1, ($2 - overlap) / shift + 1e-6 }' "$data/utt2dur" > "$data/.utt2num_frames"
fi
mv "$data/.utt2num_frames" "$data/utt2num_frames"
known=$(wc -l < "$data/utt2num_frames")
[ "$known" -eq "$utterances" ] \
  || echo "get_utt2num_frames.sh: warning: $((utterances - known)) of $utterances utterances have no known length" >&2
echo "get_utt2num_frames.sh: wrote $data/utt2num_frames ($known utterances)"
