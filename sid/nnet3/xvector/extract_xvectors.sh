#!/usr/bin/env bash
# Extracts an embedding (x-vector) for each utterance of a data directory, and their mean for each speaker.
#
# Usage: sid/nnet3/xvector/extract_xvectors.sh [options] <model-dir> <data-dir> <xvector-dir>
# Example: sid/nnet3/xvector/extract_xvectors.sh --nj 8 --cmd "$train_cmd" exp/sdpn data/test exp/sdpn/xvectors_test
#
# <model-dir> holds final.pt, a checkpoint of sdpn-k2 train. <data-dir> needs the features that it was trained on.
# Writes xvector.scp and spk_xvector.scp with their archives, num_utts.ark (text) and log/ into <xvector-dir>.
# Utterances that cannot be embedded are skipped; the script fails if more than 5 % are skipped.
# A script that was stopped, or in which jobs failed, is taken up by the same command: jobs that are complete are not run
# again, unless the model, the data or an option that changes the result is another. Remove <xvector-dir> to repeat all.
#   --use-gpu true        give each job a graphics card
#   --use-vad true        use only the frames that vad.scp marks as speech
#   --max-duration S      split longer utterances into chunks of S seconds and average their embeddings
#   --chunk-size N        the same in frames, as in Kaldi (-1: use --max-duration)
#   --num-threads N       threads of each job without a graphics card
#   --stage 0|1|2         start with extraction, gathering, or averaging over speakers
#   --cache-capacity N    accepted for compatibility with Kaldi: there are no compiled networks to cache

nj=4
cmd=run.pl
use_gpu=false
use_vad=false
max_duration=60
chunk_size=-1
num_threads=1
stage=0
# shellcheck disable=SC2034  # accepted, not used
cache_capacity=64
# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../../../utils/parse_options.sh"

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/../../.." && pwd)
export PATH=$PATH:$root/utils:$root/utils/kaldi-bin
if [ $# -ne 3 ]; then
  echo "Usage: extract_xvectors.sh [options] <model-dir> <data-dir> <xvector-dir>; --help says more" >&2
  exit 1
fi
model=$1/final.pt
data=$2
dir=$3

# Without feats.scp, and for models with another front end than Kaldi's, extraction computes features from wav.scp.
source=$data/wav.scp
[ ! -s "$data/feats.scp" ] || source=$data/feats.scp
for file in "$model" "$source" "$data/utt2spk" "$data/spk2utt"; do
  [ -s "$file" ] || { echo "extract_xvectors.sh: $file: no such file, or empty" >&2; exit 1; }
done
if [ "$chunk_size" -gt 0 ]; then
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
  # The jobs that an earlier call completed count if it had the same settings.
  settings=$(printf '%s\n' "model $(cksum < "$model")" "data $(cd "$data" && pwd)" \
    "use-vad $use_vad" "max-duration $max_duration" "nj $nj")
  if [ "$(cat "$dir/extract.settings" 2> /dev/null)" != "$settings" ]; then
    rm -f "$dir"/xvector.*.scp
    printf '%s\n' "$settings" > "$dir/extract.settings"
  fi
  if $use_gpu; then device=cuda resources=(--gpu 1); else device=cpu resources=(--num-threads "$num_threads"); fi
  part=$data/split${nj}utt/JOB
  # A script file appears when its archive is complete, and spk2utt is the last file of a part to be written.
  $cmd "${resources[@]}" JOB=1:"$nj" "$dir/log/extract.JOB.log" \
    test "$dir/xvector.JOB.scp" -nt "$part/spk2utt" \&\& echo "complete since an earlier call" \|\| \
    env OMP_NUM_THREADS="$num_threads" sdpn-k2 extract --device "$device" --max-duration "$max_duration" \
    --use-vad "$use_vad" "$model" "$part" "ark,scp:$dir/xvector.JOB.ark,$dir/xvector.JOB.scp"
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
  $cmd "$dir/log/speaker_mean.log" \
    ivector-mean "ark:$data/spk2utt" "scp:$dir/xvector.scp" \
    "ark,scp:$dir/spk_xvector.ark,$dir/spk_xvector.scp" "ark,t:$dir/num_utts.ark"
fi
echo "extract_xvectors.sh: $made embeddings in $dir/xvector.scp"
