#!/usr/bin/env bash
# Extracts an embedding (x-vector) for each utterance of a data directory, and their mean for each speaker.
#
# Usage: sid/nnet3/xvector/extract_xvectors.sh [options] <model-dir> <data-dir> <xvector-dir>
# Example: sid/nnet3/xvector/extract_xvectors.sh --nj 8 --cmd "$train_cmd" exp/sdpn data/test exp/sdpn/xvectors_test
#
# <model-dir> holds final.pt, a checkpoint of sdpn-k2 train, or is a directory of Kaldi's with final.raw, min_chunk_size,
# max_chunk_size and, if not the output itself is wanted, extract.config. <data-dir> needs the features that the model was
# trained on; for final.raw, vad.scp as well: as in Kaldi, features are normalised over 3 s, and only speech is used.
# Writes xvector.scp and spk_xvector.scp with their archives, num_utts.ark (text) and log/ into <xvector-dir>.
# Utterances that cannot be embedded are skipped; the script fails if more than 5 % are skipped.
# A script that was stopped, or in which jobs failed, is taken up by the same command: jobs that are complete are not run
# again, unless the model, the data or an option that changes the result is another. Remove <xvector-dir> to repeat all.
#   --use-gpu true        give each job a graphics card
#   --use-vad true        use only the frames that vad.scp marks as speech (with final.raw, always)
#   --max-duration S      split longer utterances into chunks of S seconds and average their embeddings
#   --chunk-size N        the same in frames, as in Kaldi (-1: use --max-duration)
#   --num-threads N       threads of each job without a graphics card
#   --stage 0|1|2         start with extraction, gathering, or averaging over speakers
#   --cache-capacity N    with final.raw: number of lengths of chunks whose computation is kept

nj=4
cmd=run.pl
use_gpu=false
use_vad=false
max_duration=60
chunk_size=-1
num_threads=1
stage=0
cache_capacity=64
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
  needed=("$raw" "$1/min_chunk_size" "$1/max_chunk_size" "$data/feats.scp" "$data/vad.scp")
fi
for file in "${needed[@]}" "$data/utt2spk" "$data/spk2utt"; do
  [ -s "$file" ] || { echo "extract_xvectors.sh: $file: no such file, or empty" >&2; exit 1; }
done
if [ "${needed[0]}" = "$raw" ]; then
  min_chunk_size=$(cat "$1/min_chunk_size") max_chunk_size=$(cat "$1/max_chunk_size")
  [ "$chunk_size" -gt 0 ] || chunk_size=$max_chunk_size
  if [ "$chunk_size" -gt "$max_chunk_size" ]; then
    echo "extract_xvectors.sh: --chunk-size $chunk_size is larger than $1/max_chunk_size, $max_chunk_size" >&2
    exit 1
  fi
elif [ "$chunk_size" -gt 0 ]; then
  frame_shift=$(cat "$data/frame_shift" 2> /dev/null || echo 0.01)
  max_duration=$(awk -v frames="$chunk_size" -v shift="$frame_shift" 'BEGIN { printf "%.6g", frames * shift }')
fi
mkdir -p "$dir/log"
dir=$(cd "$dir" && pwd)
utterances=$(wc -l < "$data/utt2spk")
[ "$nj" -le "$utterances" ] || nj=$utterances

if [ "$stage" -le 0 ]; then
  echo "extract_xvectors.sh: extracting embeddings of $data in $nj jobs"
  "$root/utils/split_data.sh" --per-utt "$data" "$nj"
  device=cpu gpu=no resources=(--num-threads "$num_threads")
  if $use_gpu; then device=cuda gpu=yes resources=(--gpu 1); fi
  complete=()
  if [ "${needed[0]}" = "$model" ]; then
    part=$data/split${nj}utt/JOB
    extract=(sdpn-k2 extract --device "$device" --max-duration "$max_duration")
    if $use_vad; then extract+=(--use-vad); fi
    extract+=("$model" "$part")
    # The jobs that an earlier call completed count if it had the same settings.
    settings=$(printf '%s\n' "model $(cksum < "$model")" "data $(cd "$data" && pwd)" \
      "use-vad $use_vad" "max-duration $max_duration" "nj $nj")
    if [ "$(cat "$dir/extract.settings" 2> /dev/null)" != "$settings" ]; then
      rm -f "$dir"/xvector.*.scp
      printf '%s\n' "$settings" > "$dir/extract.settings"
    fi
    # A script file appears when its archive is complete, and spk2utt is the last file of a part to be written.
    quote_words test "$dir/xvector.JOB.scp" -nt "$part/spk2utt"
    complete=("${quoted_words[@]}" "&&" echo "complete since an earlier call" "||")
  else
    rm -f "$dir/extract.settings"
    # A shell reads the names inside of pipes: quote them.
    network=$raw
    if [ -f "$1/extract.config" ]; then
      network="nnet3-copy --nnet-config=$(printf %q "$1/extract.config") $(printf %q "$raw") - |"
    fi
    split=$(printf %q "$data/split${nj}utt")/JOB
    features="ark:apply-cmvn-sliding --norm-vars=false --center=true --cmn-window=300 scp:$split/feats.scp ark:- |"
    features+=" select-voiced-frames ark:- scp,s,cs:$split/vad.scp ark:- |"
    extract=(nnet3-xvector-compute "--use-gpu=$gpu" "--min-chunk-size=$min_chunk_size" "--chunk-size=$chunk_size")
    extract+=("--cache-capacity=$cache_capacity" "$network" "$features")
  fi
  quote_words env OMP_NUM_THREADS="$num_threads" "${extract[@]}" "ark,scp:$dir/xvector.JOB.ark,$dir/xvector.JOB.scp"
  $cmd "${resources[@]}" JOB=1:"$nj" "$dir/log/extract.JOB.log" \
    ${complete[@]+"${complete[@]}"} "${quoted_words[@]}"
fi

if [ "$stage" -le 1 ]; then
  for ((job = 1; job <= nj; job++)); do cat "$dir/xvector.$job.scp"; done > "$dir/xvector.scp.tmp"
  mv "$dir/xvector.scp.tmp" "$dir/xvector.scp"
fi
made=$(wc -l < "$dir/xvector.scp")
if [ "$made" -lt "$utterances" ]; then
  echo "extract_xvectors.sh: $((utterances - made)) of $utterances utterances have no embedding;" \
    "see $dir/log/extract.*.log" >&2
  if [ $((made * 100)) -lt $((utterances * 95)) ]; then
    echo "extract_xvectors.sh: more than 5 % failed" >&2
    exit 1
  fi
fi

if [ "$stage" -le 2 ]; then
  quote_words ivector-mean "ark:$data/spk2utt" "scp:$dir/xvector.scp" \
    "ark,scp:$dir/spk_xvector.ark,$dir/spk_xvector.scp" "ark,t:$dir/num_utts.ark"
  $cmd "$dir/log/speaker_mean.log" "${quoted_words[@]}"
fi
echo "extract_xvectors.sh: $made embeddings in $dir/xvector.scp"
