#!/usr/bin/env bash
# Writes a data directory whose utterances are the speech segments of another, as its vad.scp marks them.
#
# Usage: diarization/vad_to_segments.sh [options] <data-dir> <segmented-data-dir>
# Example: diarization/vad_to_segments.sh --nj 8 --cmd "$train_cmd" data/train_cmn data/train_cmn_segmented
#
# <data-dir> needs feats.scp and vad.scp; its file subsegments gets the times. <segmented-data-dir> has segments, and
# feats.scp and vad.scp with ranges of frames.
#   --min-duration S         leave out segments shorter than S seconds
#   --segmentation-opts "…"  options of utils/segmentation.pl, such as "--silence-proportion 0.2 --max-segment-length 10"
#   --stage 0|1              start with finding segments, or with writing the directory

nj=2
cmd=run.pl
stage=0
segmentation_opts=
min_duration=0.25
# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
export PATH=$PATH:$root/utils:$root/utils/kaldi-bin LC_ALL=C
# shellcheck source=utils/quoting.sh
. "$root/utils/quoting.sh"
if [ $# -ne 2 ]; then
  echo "Usage: vad_to_segments.sh [options] <data-dir> <segmented-data-dir>; --help says more" >&2
  exit 1
fi
data=$1
out=$2
for file in "$data/feats.scp" "$data/vad.scp" "$data/spk2utt"; do
  [ -s "$file" ] || { echo "vad_to_segments.sh: $file: no such file, or empty" >&2; exit 1; }
done
mkdir -p "$out/log"

if [ "$stage" -le 0 ]; then
  speakers=$(wc -l < "$data/spk2utt")
  if [ "$nj" -gt "$speakers" ]; then
    echo "vad_to_segments.sh: running $speakers jobs instead of $nj, one for each speaker"
    nj=$speakers
  fi
  "$root/utils/split_data.sh" "$data" "$nj"
  part=$data/split$nj/JOB
  # shellcheck disable=SC2086  # several options
  $cmd JOB=1:"$nj" "$out/log/vad_to_segments.JOB.log" \
    copy-vector "$(quoted "scp:$part/vad.scp")" ark,t:- \| sed -e "s/\[ //g;s/ \]//g" \| \
    "$(quoted "$root/utils/segmentation.pl")" $segmentation_opts --remove-noise-only-segments false \
    ">" "$(quoted "$part/subsegments")"
  for ((job = 1; job <= nj; job++)); do cat "$data/split$nj/$job/subsegments"; done | sort \
    | awk -v least="$min_duration" '$4 - $3 >= least' > "$data/subsegments.tmp"
  mv "$data/subsegments.tmp" "$data/subsegments"
fi
if [ ! -s "$data/subsegments" ]; then
  echo "vad_to_segments.sh: no speech of $min_duration s or more is marked in $data/vad.scp" >&2
  exit 1
fi

if [ "$stage" -le 1 ]; then
  "$root/utils/data/subsegment_data_dir.sh" "$data" "$data/subsegments" "$out"
fi
