#!/usr/bin/env bash
# Writes utt2dur, the duration of each utterance of a data directory in seconds, unless it exists and is complete.
#
# Usage: utils/data/get_utt2dur.sh [options] <data-dir>
# Example: utils/data/get_utt2dur.sh --nj 8 --cmd "$train_cmd" data/train
#
# The durations come from the first of these that the directory has: segments; frame_shift and utt2num_frames; the
# audio in wav.scp; feats.scp and --frame-shift. n frames count as n + 1.5 shifts, since the last frame is longer than
# its shift.

nj=4
cmd=run.pl
read_entire_file=false
frame_shift=0.01    # seconds; the file frame_shift counts for more
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../../utils/parse_options.sh"

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
export PATH=$PATH:$root/utils:$root/utils/kaldi-bin
if [ $# -ne 1 ]; then
  echo "Usage: get_utt2dur.sh [options] <data-dir>; --help says more" >&2
  exit 1
fi
data=$1

[ -s "$data/utt2spk" ] || { echo "get_utt2dur.sh: $data/utt2spk: no such file, or empty" >&2; exit 1; }
utterances=$(wc -l < "$data/utt2spk")
if [ -s "$data/utt2dur" ] && [ "$(wc -l < "$data/utt2dur")" -eq "$utterances" ]; then
  echo "get_utt2dur.sh: $data/utt2dur already exists"
  exit 0
fi

reco2dur() {
  "$root/utils/data/get_reco2dur.sh" --nj "$nj" --cmd "$cmd" --read-entire-file "$read_entire_file" "$data"
}
from_frames() { # shift
  awk -v shift="$1" '{ $2 = ($2 + 1.5) * shift; print }' "$data/utt2num_frames" > "$data/.utt2dur"
}
if [ -s "$data/segments" ]; then
  lengths=/dev/null
  if awk '$4 == -1 { found = 1 } END { exit !found }' "$data/segments"; then
    reco2dur
    lengths=$data/reco2dur
  fi
  # A segment with the end -1 extends to the end of its recording.
  awk 'FILENAME == ARGV[1] { length_of[$1] = $2; next }
       { end = $4 } $4 == -1 { if (!($2 in length_of)) next; end = length_of[$2] }
       { printf "%s %.3f\n", $1, end - $3 }' "$lengths" "$data/segments" > "$data/.utt2dur"
elif [ -s "$data/frame_shift" ] && [ -s "$data/utt2num_frames" ]; then
  from_frames "$(cat "$data/frame_shift")"
elif [ -s "$data/wav.scp" ]; then
  if grep -q 'sox.*speed' "$data/wav.scp"; then read_entire_file=true; fi  # sox cannot know the length in advance
  reco2dur
  cp "$data/reco2dur" "$data/.utt2dur"
elif [ -s "$data/feats.scp" ]; then
  "$root/utils/data/get_utt2num_frames.sh" --nj "$nj" --cmd "$cmd" "$data"
  from_frames "$(cat "$data/frame_shift" 2> /dev/null || echo "$frame_shift")"
else
  echo "get_utt2dur.sh: $data has neither segments nor wav.scp nor feats.scp" >&2
  exit 1
fi
mv "$data/.utt2dur" "$data/utt2dur"
known=$(wc -l < "$data/utt2dur")
[ "$known" -eq "$utterances" ] \
  || echo "get_utt2dur.sh: warning: $((utterances - known)) of $utterances utterances have no known duration" >&2
if [ $((2 * known)) -lt "$utterances" ]; then
  echo "get_utt2dur.sh: less than half of the utterances have a duration" >&2
  exit 1
fi
echo "get_utt2dur.sh: wrote $data/utt2dur ($known utterances)"
