# shellcheck shell=bash disable=SC2154  # make_fbank.sh and make_mfcc.sh set the variables
# Sourced by make_fbank.sh and make_mfcc.sh, which describe the options and arguments. Besides the options it reads
# root, kind (fbank or mfcc), config (the configuration file of compute-fbank-feats) and vad_config.
set -euo pipefail
# shellcheck source=utils/quoting.sh
. "$root/utils/quoting.sh"
script=make_$kind.sh

if [ $# -lt 1 ] || [ $# -gt 3 ]; then
  echo "Usage: $script [options] <data-dir> [<log-dir> [<$kind-dir>]]; --help says more" >&2
  exit 1
fi
data=$1
logdir=${2:-$data/log}
ark_dir=${3:-$data/data}
name=$(basename "$data")

for file in "$data/wav.scp" "$config" ${vad_config:+"$vad_config"}; do
  [ -f "$file" ] || { echo "$script: $file: no such file" >&2; exit 1; }
done
setting() { sed -n "s/#.*//; s/^ *--$1=\([^ ]*\).*/\1/p" "$config" | tail -n 1; }
if [ "$vad_config" ] && [ "$(setting use-energy)$(setting htk-compat)" ]; then
  echo "$script: --vad-config needs a $config without --use-energy and --htk-compat" >&2
  exit 1
fi
if [ -f "$data/feats.scp" ]; then
  mkdir -p "$data/.backup"
  echo "$script: moving $data/feats.scp to $data/.backup"
  mv "$data/feats.scp" "$data/.backup"
fi
# The numbers of frames of the old features do not hold for the new ones.
rm -f "$data/utt2num_frames"
"$root/utils/validate_data_dir.sh" --no-text --no-feats "$data"

mkdir -p "$logdir" "$ark_dir"
ark_dir=$(cd "$ark_dir" && pwd)
utterances=$(wc -l < "$data/utt2spk")
if [ "$nj" -gt "$utterances" ]; then
  echo "$script: running $utterances jobs instead of $nj, one for each utterance"
  nj=$utterances
fi

list=wav.scp
if [ -f "$data/segments" ]; then list=segments; fi
parts=()
for ((job = 1; job <= nj; job++)); do
  parts+=("$logdir/${list%.scp}_$name.$job")
  "$root/utils/create_data_link.pl" "$ark_dir/raw_${kind}_$name.$job.ark"
done
"$root/utils/split_scp.pl" "$data/$list" "${parts[@]}"

# Jobs that an earlier call completed are not run again, unless their input or an option is another. An archive alone
# does not show that: it also ends when the audio cannot be read any more.
done=$logdir/complete_${kind}_$name
inputs=("$data/$list" "$data/wav.scp" "$config" ${vad_config:+"$vad_config"})
for file in "$data"/{utt2warp,spk2warp}; do [ ! -f "$file" ] || inputs+=("$file"); done
settings="$(cat "${inputs[@]}" | cksum) $nj $ark_dir $compress $write_utt2num_frames $write_utt2dur $vad_config"
if [ "$(cat "$done.settings" 2> /dev/null)" != "$settings" ]; then
  rm -f "$done".*
  echo "$settings" > "$done.settings"
fi

# The job: read the audio | compute features | store them.
compute=("compute-$kind-feats")
if [ -f "$data/utt2warp" ]; then
  compute+=("--vtln-map=ark:$data/utt2warp")
elif [ -f "$data/spk2warp" ]; then
  compute+=("--vtln-map=ark:$data/spk2warp" "--utt2spk=ark:$data/utt2spk")
fi
if $write_utt2dur; then compute+=("--write-utt2dur=ark,t:$logdir/utt2dur_$name.JOB"); fi
compute+=(--verbose=2 "--config=$config")

store=(copy-feats "--compress=$compress")
if $write_utt2num_frames; then store+=("--write-num-frames=ark,t:$logdir/utt2num_frames_$name.JOB"); fi
ark=$ark_dir/raw_${kind}_$name.JOB
store+=(ark:- "ark,scp:$ark.ark,$ark.scp")
quote_words "${store[@]}"
store=("${quoted_words[@]}")

if [ "$vad_config" ]; then
  # Kaldi's select-feats cannot handle the empty features of an utterance that is shorter than a frame.
  frame_length=$(awk -v ms="$(setting frame-length)" 'BEGIN { print (ms ? ms : 25) / 1000 }')
  compute+=(--use-energy=true --htk-compat=false "--min-duration=$frame_length")
fi
if [ "$list" = segments ]; then
  quote_words extract-segments "scp,p:$data/wav.scp" "$logdir/segments_$name.JOB" ark:-
  cut=("${quoted_words[@]}" \|)
  compute+=(ark:- ark:-)
else
  cut=()
  compute+=("scp,p:$logdir/wav_$name.JOB" ark:-)
fi
quote_words "${compute[@]}"
compute=(${cut[@]+"${cut[@]}"} "${quoted_words[@]}")

if [ "$vad_config" ]; then
  # A named pipe carries a copy of the features to compute-vad, which uses column 0 (the log energy). The other columns
  # are stored. The energy is compressed first, since compute_vad_decision.sh reads compressed features as well.
  vad=$ark_dir/vad_$name.JOB
  energy=$(quoted "$logdir/energy_$name.JOB")
  bins=$(setting num-mel-bins)
  job=(rm -f "$energy" \&\& mkfifo "$energy" \&\& \(
    \( select-feats 0 ark:- ark:- \| copy-feats "--compress=$compress" ark:- ark:- \|
    compute-vad "$(quoted "--config=$vad_config")" ark:- "$(quoted "ark,scp:$vad.ark,$vad.scp")" \) \< "$energy" \&
    "${compute[@]}" \| tee "$energy" \| select-feats "1-${bins:-23}" ark:- ark:- \| "${store[@]}" \;
    features=\$? \; wait \$! \&\& exit \$features \))
else
  job=("${compute[@]}" \| "${store[@]}")
fi
$cmd JOB=1:"$nj" "$logdir/make_${kind}_$name.JOB.log" \
  test -f "$(quoted "$done.JOB")" \&\& echo "complete since an earlier call" \|\| \
  \( "${job[@]}" \&\& touch "$(quoted "$done.JOB")" \)

gather() { # pattern output
  local job
  for ((job = 1; job <= nj; job++)); do cat "${1//JOB/$job}"; done > "$2.tmp"
  mv "$2.tmp" "$2"
}
gather "$ark.scp" "$data/feats.scp"
if [ "$vad_config" ]; then gather "$vad.scp" "$data/vad.scp"; fi
if $write_utt2num_frames; then gather "$logdir/utt2num_frames_$name.JOB" "$data/utt2num_frames"; fi
if $write_utt2dur; then gather "$logdir/utt2dur_$name.JOB" "$data/utt2dur"; fi
awk -v ms="$(setting frame-shift)" 'BEGIN { printf "%.6g\n", (ms ? ms : 10) / 1000 }' > "$data/frame_shift"
mkdir -p "$data/conf"
cp "$config" "$data/conf/$kind.conf"
rm -f "${parts[@]}" "$logdir"/{utt2num_frames,utt2dur,energy}_"$name".[0-9]* "$done".*

made=$(wc -l < "$data/feats.scp")
if [ "$made" -lt "$utterances" ]; then
  echo "$script: $((utterances - made)) of $utterances utterances have no features; see" \
    "$logdir/make_${kind}_$name.*.log, and drop them with utils/fix_data_dir.sh $data" >&2
  if [ $((made * 100)) -lt $((utterances * 95)) ]; then
    echo "$script: more than 5 % failed" >&2
    exit 1
  fi
fi
echo "$script: made $kind features for $made utterances of $data"
