#!/usr/bin/env bash
# Scores all pairs of segments of each recording by PLDA, for diarization/cluster.sh.
#
# Usage: diarization/nnet3/xvector/score_plda.sh [options] <plda-dir> <xvector-dir> <scores-dir>
# Example: diarization/nnet3/xvector/score_plda.sh --nj 8 exp/xvectors_dev exp/xvectors_test exp/xvectors_test/plda_scores
#
# <plda-dir> holds plda, mean.vec and transform.mat; <xvector-dir> xvector.scp (or ivector.scp), segments, utt2spk and
# spk2utt, whose speakers are the recordings. Writes scores.scp with its archives, segments, utt2spk, spk2utt and log/
# into <scores-dir>. Segments without a vector are left out.
#   --target-energy X  a PCA of each recording keeps this share of the energy
#   --stage 0|1        start with scoring, or gathering
#   --cleanup false    keep <scores-dir>/tmp

cmd=run.pl
stage=0
target_energy=0.1
nj=10
cleanup=true
# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../../../utils/parse_options.sh"

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/../../.." && pwd)
export PATH=$PATH:$root/utils:$root/utils/kaldi-bin
# shellcheck source=utils/quoting.sh
. "$root/utils/quoting.sh"
if [ $# -ne 3 ]; then
  echo "Usage: score_plda.sh [options] <plda-dir> <xvector-dir> <scores-dir>; --help says more" >&2
  exit 1
fi
plda=$1
vectors=$2
dir=$3
kind=xvector
[ -s "$vectors/xvector.scp" ] || [ ! -s "$vectors/ivector.scp" ] || kind=ivector
for file in "$vectors"/{$kind.scp,spk2utt,utt2spk,segments} "$plda"/{plda,mean.vec,transform.mat}; do
  [ -s "$file" ] || { echo "score_plda.sh: $file: no such file, or empty" >&2; exit 1; }
done

# The vectors take the place of features, so that scripts for data directories split them, and drop what has none.
mkdir -p "$dir/tmp" "$dir/log"
cp "$vectors/$kind.scp" "$dir/tmp/feats.scp"
cp "$vectors"/{spk2utt,utt2spk,segments} "$dir/tmp"
"$root/utils/fix_data_dir.sh" "$dir/tmp" > "$dir/log/fix_data_dir.log"
cp "$dir/tmp"/{spk2utt,utt2spk,segments} "$dir"
segments=$(wc -l < "$vectors/segments") scored=$(wc -l < "$dir/segments")
if [ "$scored" -lt "$segments" ]; then
  echo "score_plda.sh: $((segments - scored)) of $segments segments have no vector and are left out" >&2
fi
recordings=$(wc -l < "$dir/spk2utt")
[ "$nj" -le "$recordings" ] || nj=$recordings

if [ "$stage" -le 0 ]; then
  "$root/utils/split_data.sh" "$dir/tmp" "$nj"
  part=$dir/tmp/split$nj/JOB
  # A shell reads the names inside of pipes: quote them.
  feats="ark:ivector-subtract-global-mean $(printf %q "$plda/mean.vec") scp:$(printf %q "$part/feats.scp") ark:- |"
  feats+=" transform-vec $(printf %q "$plda/transform.mat") ark:- ark:- | ivector-normalize-length ark:- ark:- |"
  echo "score_plda.sh: scoring $scored segments of $recordings recordings in $nj jobs"
  quote_words ivector-plda-scoring-dense "--target-energy=$target_energy" "$plda/plda" "ark:$part/spk2utt" "$feats" \
    "ark,scp:$dir/scores.JOB.ark,$dir/scores.JOB.scp"
  $cmd JOB=1:"$nj" "$dir/log/plda_scoring.JOB.log" "${quoted_words[@]}"
fi

if [ "$stage" -le 1 ]; then
  for ((job = 1; job <= nj; job++)); do cat "$dir/scores.$job.scp"; done > "$dir/scores.scp.tmp"
  mv "$dir/scores.scp.tmp" "$dir/scores.scp"
fi
if $cleanup; then rm -r "$dir/tmp"; fi
echo "score_plda.sh: scores of $(wc -l < "$dir/scores.scp") recordings in $dir/scores.scp"
