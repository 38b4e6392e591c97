#!/usr/bin/env bash
# Prepares the MUSAN corpus for augmentation: data directories of its noise, speech and music.
#
# Usage: steps/data/make_musan.sh [options] <musan-dir> <data-dir>
# Example: steps/data/make_musan.sh --sampling-rate 16000 /corpora/musan data
#
# Writes <data-dir>/musan and, with reco2dur, <data-dir>/musan_speech, musan_noise and musan_music, for
# steps/data/augment_data_dir.py.
#   --use-vocals false  leave out music that is sung
#   --sampling-rate R   sample rate of the recordings to augment, in Hz

use_vocals=true
sampling_rate=16000
# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../../utils/parse_options.sh"

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
export PATH=$PATH:$root/utils:$root/utils/kaldi-bin
if [ $# -ne 2 ]; then
  echo "Usage: make_musan.sh [options] <musan-dir> <data-dir>; --help says more" >&2
  exit 1
fi
corpus=$1
data=$2

"$root/steps/data/make_musan.py" --use-vocals "$use_vocals" --sampling-rate "$sampling_rate" "$corpus" "$data/musan"
"$root/utils/fix_data_dir.sh" "$data/musan"
list=$(mktemp)
trap 'rm -f "$list"' EXIT
for kind in speech noise music; do
  # The names of MUSAN's files say what they are, as in noise-free-sound-0000.
  if ! grep "$kind" "$data/musan/utt2spk" > "$list"; then
    echo "make_musan.sh: no name in $data/musan/utt2spk contains '$kind'" >&2
    exit 1
  fi
  "$root/utils/subset_data_dir.sh" --utt-list "$list" "$data/musan" "$data/musan_$kind"
  "$root/utils/fix_data_dir.sh" "$data/musan_$kind"
  "$root/utils/data/get_reco2dur.sh" "$data/musan_$kind"
done
