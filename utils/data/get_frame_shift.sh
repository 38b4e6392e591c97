#!/usr/bin/env bash
# Prints the frame shift of the features of a data directory in seconds, such as 0.01.
#
# Usage: utils/data/get_frame_shift.sh <data-dir>
# Example: frame_shift=$(utils/data/get_frame_shift.sh data/train)
#
# It is the content of the file frame_shift, or else the duration of the first ten utterances (utt2dur, which is made if
# it is missing) divided by their number of frames. A result between 0.01 and 0.0102 counts as 0.01.

# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../../utils/parse_options.sh"

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
export PATH=$PATH:$root/utils/kaldi-bin
if [ $# -ne 1 ]; then
  echo "Usage: get_frame_shift.sh <data-dir>; --help says more" >&2
  exit 1
fi
data=$1

if [ -s "$data/frame_shift" ]; then
  cat "$data/frame_shift"
  exit 0
fi
[ -s "$data/feats.scp" ] || { echo "get_frame_shift.sh: $data/feats.scp does not exist" >&2; exit 1; }
if [ ! -s "$data/utt2dur" ]; then
  echo "get_frame_shift.sh: $data/utt2dur does not exist: creating it" >&2
  "$root/utils/data/get_utt2dur.sh" "$data" >&2
fi
frames=$(feat-to-len --print-args=false "scp:head -n 10 $(printf %q "$data/feats.scp") |" ark,t:-)
head -n 10 "$data/utt2dur" | paste -d ' ' - <(echo "$frames") | awk '
  { seconds += $2; frames += $4 }
  END {
    if (!frames) exit 1
    shift = seconds / frames
    if (shift > 0.01 && shift < 0.0102) shift = 0.01
    print shift
  }' || { echo "get_frame_shift.sh: the first utterances of $data have no frames" >&2; exit 1; }
