#!/usr/bin/env bash
# Extracts embeddings (x-vectors) of overlapping windows of speech, and their mean and whitening, for diarization.
#
# Usage: diarization/nnet3/xvector/extract_xvectors.sh [options] <model-dir> <data-dir> <xvector-dir>
# Example: diarization/nnet3/xvector/extract_xvectors.sh --nj 8 --window 1.5 --period 0.75 exp/sdpn data/test exp/xvectors
#
# <model-dir> holds final.pt, a checkpoint of sdpn-k2 train, or is a directory of Kaldi's with final.raw, min_chunk_size,
# max_chunk_size and perhaps extract.config. <data-dir> needs segments, where there is speech, and the features that the
# model was trained on; for scoring with score_plda.sh, its speakers should be the recordings.
# Writes xvector.scp with its archives, segments, utt2spk and spk2utt of the windows, mean.vec, transform.mat, log/ and
# subsegments_data/ into <xvector-dir>. Windows that cannot be embedded are skipped; the script fails if more than 5 %
# are.
#   --window S           length of a window in seconds
#   --period S           seconds from one window to the next
#   --min-segment S      a rest at least this long becomes a window of its own
#   --hard-min true      leave out segments shorter than --min-segment
#   --pca-dim N          the whitening also reduces the dimension to N
#   --apply-cmn false    with final.raw: use the features as they are, without normalisation over 3 s
#   --chunk-size N       with final.raw: average over chunks of N frames (-1: those of max_chunk_size)
#   --use-gpu true       give each job a graphics card
#   --num-threads N      with final.pt: threads of each job without a graphics card
#   --stage 0|1|2|3|4    start with windows, extraction, gathering, the mean, or whitening

nj=30
cmd=run.pl
chunk_size=-1
stage=0
window=1.5
period=0.75
pca_dim=
min_segment=0.5
hard_min=false
apply_cmn=true
use_gpu=false
num_threads=1
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
  echo "Usage: extract_xvectors.sh [options] <model-dir> <data-dir> <xvector-dir>; --help says more" >&2
  exit 1
fi
model=$1/final.pt
raw=$1/final.raw
data=$2
dir=$3

# Without feats.scp, and for models with another front end than Kaldi's, extraction computes features from wav.scp.
source=$data/wav.scp
[ ! -s "$data/feats.scp" ] || source=$data/feats.scp
needed=("$model" "$source")
if [ ! -s "$model" ] && [ -s "$raw" ]; then
  needed=("$raw" "$1/min_chunk_size" "$1/max_chunk_size" "$data/feats.scp")
fi
for file in "${needed[@]}" "$data/utt2spk"; do
  [ -s "$file" ] || { echo "extract_xvectors.sh: $file: no such file, or empty" >&2; exit 1; }
done
if [ ! -s "$data/segments" ]; then
  echo "extract_xvectors.sh: $data/segments: no such file, or empty; diarization/vad_to_segments.sh finds speech, and" \
    "utils/data/get_segments_for_data.sh makes each recording a segment" >&2
  exit 1
fi
mkdir -p "$dir/log"
dir=$(cd "$dir" && pwd)
windows=$dir/subsegments_data

if [ "$stage" -le 0 ]; then
  segments=$data/segments
  if $hard_min; then
    segments=$dir/pruned_segments
    awk -v least="$min_segment" '$4 - $3 >= least' "$data/segments" > "$segments"
  fi
  overlap=$(awk -v window="$window" -v period="$period" 'BEGIN { printf "%.15g", window - period }')
  "$root/utils/data/get_uniform_subsegments.py" --max-segment-duration="$window" --overlap-duration="$overlap" \
    --max-remaining-duration="$min_segment" --constant-duration=True "$segments" > "$dir/subsegments"
  "$root/utils/data/subsegment_data_dir.sh" "$data" "$dir/subsegments" "$windows"
fi
speakers=$(wc -l < "$windows/spk2utt")
number=$(wc -l < "$windows/utt2spk")
if [ "$nj" -gt "$speakers" ]; then
  echo "extract_xvectors.sh: running $speakers jobs instead of $nj, one for each speaker or recording"
  nj=$speakers
fi

if [ "$stage" -le 1 ]; then
  echo "extract_xvectors.sh: extracting embeddings of $number windows in $nj jobs"
  "$root/utils/split_data.sh" "$windows" "$nj"
  part=$windows/split$nj/JOB
  device=cpu gpu=no resources=(--num-threads "$num_threads")
  if $use_gpu; then device=cuda gpu=yes resources=(--gpu 1); fi
  if [ "${needed[0]}" = "$model" ]; then
    extract=(sdpn-k2 extract --device "$device" "$model" "$part")
  else
    min_chunk_size=$(cat "$1/min_chunk_size") max_chunk_size=$(cat "$1/max_chunk_size")
    [ "$chunk_size" -gt 0 ] || chunk_size=$max_chunk_size
    if [ "$chunk_size" -gt "$max_chunk_size" ]; then
      echo "extract_xvectors.sh: --chunk-size $chunk_size is larger than $1/max_chunk_size, $max_chunk_size" >&2
      exit 1
    fi
    # A shell reads the names inside of pipes: quote them.
    network=$raw
    if [ -f "$1/extract.config" ]; then
      network="nnet3-copy --nnet-config=$(printf %q "$1/extract.config") $(printf %q "$raw") - |"
    fi
    features="scp:$part/feats.scp"
    if $apply_cmn; then
      features="ark,s,cs:apply-cmvn-sliding --norm-vars=false --center=true --cmn-window=300"
      features+=" scp:$(printf %q "$part/feats.scp") ark:- |"
    fi
    extract=(nnet3-xvector-compute "--use-gpu=$gpu" "--min-chunk-size=$min_chunk_size" "--chunk-size=$chunk_size")
    extract+=("$network" "$features")
  fi
  quote_words env OMP_NUM_THREADS="$num_threads" "${extract[@]}" "ark,scp:$dir/xvector.JOB.ark,$dir/xvector.JOB.scp"
  $cmd "${resources[@]}" JOB=1:"$nj" "$dir/log/extract.JOB.log" "${quoted_words[@]}"
fi

if [ "$stage" -le 2 ]; then
  for ((job = 1; job <= nj; job++)); do cat "$dir/xvector.$job.scp"; done > "$dir/xvector.scp.tmp"
  mv "$dir/xvector.scp.tmp" "$dir/xvector.scp"
  cp "$windows"/{segments,spk2utt,utt2spk} "$dir"
fi
made=$(wc -l < "$dir/xvector.scp")
if [ "$made" -lt "$number" ]; then
  echo "extract_xvectors.sh: $((number - made)) of $number windows have no embedding; see $dir/log/extract.*.log" >&2
  if [ $((made * 100)) -lt $((number * 95)) ]; then
    echo "extract_xvectors.sh: more than 5 % failed" >&2
    exit 1
  fi
fi

if [ "$stage" -le 3 ]; then
  quote_words ivector-mean "scp:$dir/xvector.scp" "$dir/mean.vec"
  $cmd "$dir/log/mean.log" "${quoted_words[@]}"
fi

if [ "$stage" -le 4 ]; then
  quote_words est-pca --read-vectors=true --normalize-mean=false --normalize-variance=true "--dim=${pca_dim:--1}" \
    "scp:$dir/xvector.scp" "$dir/transform.mat"
  $cmd "$dir/log/transform.log" "${quoted_words[@]}"
fi
echo "extract_xvectors.sh: $made embeddings of windows in $dir/xvector.scp"
