#!/usr/bin/env bash
# Clusters the segments of each recording by their scores: who speaks when, as an RTTM file.
#
# Usage: diarization/cluster.sh [options] <scores-dir> <dir>
# Example: diarization/cluster.sh --nj 8 --cmd "$train_cmd" --threshold 0 exp/plda_scores exp/plda_scores_t0
#
# <scores-dir> comes from diarization/nnet3/xvector/score_plda.sh. Writes labels, rttm and log/ into <dir>, which may be
# <scores-dir> itself.
#   --threshold X                  merge clusters as long as their mean score is above X
#   --reco2num-spk FILE            number of speakers of each recording, instead of a threshold
#   --max-spk-fraction X           with --reco2num-spk: largest share of the segments in a cluster
#   --read-costs true              the scores are costs: the smaller, the more alike
#   --first-pass-max-utterances N  longer recordings are clustered in two passes
#   --rttm-channel N               channel in the RTTM file
#   --stage 0|1|2                  start with clustering, gathering, or the RTTM file
#   --cleanup false                keep <dir>/tmp

cmd=run.pl
stage=0
nj=10
cleanup=true
threshold=0.5
max_spk_fraction=1.0
first_pass_max_utterances=32767
rttm_channel=0
read_costs=false
reco2num_spk=
# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
export PATH=$PATH:$root/utils:$root/utils/kaldi-bin
# shellcheck source=utils/quoting.sh
. "$root/utils/quoting.sh"
if [ $# -ne 2 ]; then
  echo "Usage: cluster.sh [options] <scores-dir> <dir>; --help says more" >&2
  exit 1
fi
source=$1
dir=$2
for file in "$source"/{scores.scp,spk2utt,utt2spk,segments} ${reco2num_spk:+"$reco2num_spk"}; do
  [ -s "$file" ] || { echo "cluster.sh: $file: no such file, or empty" >&2; exit 1; }
done

mkdir -p "$dir/tmp" "$dir/log"
cp "$source"/{spk2utt,utt2spk,segments} "$dir/tmp"
recordings=$(wc -l < "$source/spk2utt")
[ "$nj" -le "$recordings" ] || nj=$recordings
if [ "$stage" -le 0 ]; then
  "$root/utils/split_data.sh" "$dir/tmp" "$nj"
  part=$dir/tmp/split$nj/JOB
  # A shell reads the names inside of pipes: quote them.
  scores="scp:$(printf %q "$root/utils/filter_scp.pl") $(printf %q "$part/spk2utt") $(printf %q "$source/scores.scp") |"
  options=("--threshold=$threshold" "--read-costs=$read_costs" "--max-spk-fraction=$max_spk_fraction")
  options+=("--first-pass-max-utterances=$first_pass_max_utterances")
  options+=("--reco2num-spk-rspecifier=${reco2num_spk:+ark,t:$reco2num_spk}")
  echo "cluster.sh: clustering $recordings recordings of $source in $nj jobs"
  quote_words agglomerative-cluster "${options[@]}" "$scores" "ark,t:$part/spk2utt" "ark,t:$dir/labels.JOB"
  $cmd JOB=1:"$nj" "$dir/log/agglomerative_cluster.JOB.log" "${quoted_words[@]}"
fi

if [ "$stage" -le 1 ]; then
  for ((job = 1; job <= nj; job++)); do cat "$dir/labels.$job"; done > "$dir/labels.tmp"
  mv "$dir/labels.tmp" "$dir/labels"
fi

if [ "$stage" -le 2 ]; then
  "$root/diarization/make_rttm.py" --rttm-channel "$rttm_channel" "$source/segments" "$dir/labels" "$dir/rttm"
fi
if $cleanup; then rm -r "$dir/tmp"; fi
echo "cluster.sh: $(awk '{ print $2, $8 }' "$dir/rttm" | sort -u | wc -l) speakers in $recordings recordings: $dir/rttm"
