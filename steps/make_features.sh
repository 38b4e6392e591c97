# shellcheck shell=bash disable=SC2154
# Sourced by make_fbank.sh and make_mfcc.sh, which say what the variables and arguments are.
# Besides their options it wants root, kind (fbank or mfcc) and config (the configuration file of compute-fbank-feats).
set -euo pipefail
script=make_$kind.sh

if [ $# -lt 1 ] || [ $# -gt 3 ]; then
  echo "Usage: $script [options] <data-dir> [<log-dir> [<$kind-dir>]]; --help says more" >&2
  exit 1
fi
data=$1
logdir=${2:-$data/log}
ark_dir=${3:-$data/data}
name=$(basename "$data")

for file in "$data/wav.scp" "$config"; do
  [ -f "$file" ] || { echo "$script: $file: no such file" >&2; exit 1; }
done
if [ -f "$data/feats.scp" ]; then
  mkdir -p "$data/.backup"
  echo "$script: moving $data/feats.scp to $data/.backup"
  mv "$data/feats.scp" "$data/.backup"
fi
# What was made from the features before says nothing about these.
rm -f "$data/utt2num_frames"
"$root/utils/validate_data_dir.sh" --no-text --no-feats "$data"

mkdir -p "$logdir" "$ark_dir"
ark_dir=$(cd "$ark_dir" && pwd)
utterances=$(wc -l < "$data/utt2spk")
if [ "$nj" -gt "$utterances" ]; then
  echo "$script: $utterances jobs instead of $nj, since there are no more utterances"
  nj=$utterances
fi

write_frames=
if $write_utt2num_frames; then write_frames=--write-num-frames=ark,t:$logdir/utt2num_frames.JOB; fi
write_durations=
if $write_utt2dur; then write_durations=--write-utt2dur=ark,t:$logdir/utt2dur.JOB; fi
vtln=()
if [ -f "$data/utt2warp" ]; then
  vtln=("--vtln-map=ark:$data/utt2warp")
elif [ -f "$data/spk2warp" ]; then
  vtln=("--vtln-map=ark:$data/spk2warp" "--utt2spk=ark:$data/utt2spk")
fi

parts=()
list=wav.scp
if [ -f "$data/segments" ]; then list=segments; fi
for ((job = 1; job <= nj; job++)); do
  parts+=("$logdir/${list%.scp}_$name.$job")
  "$root/utils/create_data_link.pl" "$ark_dir/raw_${kind}_$name.$job.ark"
done
"$root/utils/split_scp.pl" "$data/$list" "${parts[@]}"

ark=$ark_dir/raw_${kind}_$name.JOB
if [ "$list" = segments ]; then
  # shellcheck disable=SC2086
  $cmd JOB=1:"$nj" "$logdir/make_${kind}_$name.JOB.log" \
    extract-segments "scp,p:$data/wav.scp" "$logdir/segments_$name.JOB" ark:- \| \
    "compute-$kind-feats" ${vtln[@]+"${vtln[@]}"} $write_durations --verbose=2 --config="$config" ark:- ark:- \| \
    copy-feats --compress="$compress" $write_frames ark:- "ark,scp:$ark.ark,$ark.scp"
else
  # shellcheck disable=SC2086
  $cmd JOB=1:"$nj" "$logdir/make_${kind}_$name.JOB.log" \
    "compute-$kind-feats" ${vtln[@]+"${vtln[@]}"} $write_durations --verbose=2 --config="$config" \
    "scp,p:$logdir/wav_$name.JOB" ark:- \| \
    copy-feats --compress="$compress" $write_frames ark:- "ark,scp:$ark.ark,$ark.scp"
fi

gather() { # pattern output
  local job
  for ((job = 1; job <= nj; job++)); do cat "${1//JOB/$job}"; done > "$2.tmp"
  mv "$2.tmp" "$2"
}
gather "$ark.scp" "$data/feats.scp"
if $write_utt2num_frames; then gather "$logdir/utt2num_frames.JOB" "$data/utt2num_frames"; fi
if $write_utt2dur; then gather "$logdir/utt2dur.JOB" "$data/utt2dur"; fi
shift_ms=$(sed -n 's/#.*//; s/^ *--frame-shift=\([0-9.]*\).*/\1/p' "$config" | tail -n 1)
awk -v ms="${shift_ms:-10}" 'BEGIN { printf "%.6g\n", ms / 1000 }' > "$data/frame_shift"
mkdir -p "$data/conf"
cp "$config" "$data/conf/$kind.conf"
rm -f "${parts[@]}" "$logdir"/utt2num_frames.[0-9]* "$logdir"/utt2dur.[0-9]*

made=$(wc -l < "$data/feats.scp")
if [ "$made" -lt "$utterances" ]; then
  echo "$script: $((utterances - made)) of $utterances utterances have no features," \
    "see $logdir/make_${kind}_$name.*.log; utils/fix_data_dir.sh $data leaves them out" >&2
  if [ $((made * 100)) -lt $((utterances * 95)) ]; then
    echo "$script: more than 5 % failed" >&2
    exit 1
  fi
fi
echo "$script: made $kind features of $made utterances of $data"
