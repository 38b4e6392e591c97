#!/usr/bin/env bash
# Makes the demo corpus (synthetic speech, no download) and prepares it like any folder of audio.
#
# Usage: local/prepare_demo.sh [options] <root> <data>
# Example: local/prepare_demo.sh data/demo/audio data/demo
set -euo pipefail

nj=$(nproc)               # processes
seed=0                    # random seed; the same seed gives the same corpus, byte for byte
num_train_speakers=60
num_test_speakers=20
sample_rate=16000         # Hz of the prepared sets; the corpus itself has 16000
num_utterances=12         # per speaker, 3 to 8 s each

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"
[ $# -eq 2 ] || { echo "Usage: $0 [options] <root> <data> (see --help)" >&2; exit 1; }
root=$1
data=$2

sdpn-k2 prepare demo --nj "$nj" --seed "$seed" --num-train-speakers "$num_train_speakers" \
  --num-test-speakers "$num_test_speakers" --num-utterances "$num_utterances" "$root"
"$(dirname "$(readlink -f "$0")")/prepare_audio_dir.sh" --nj "$nj" --sample-rate "$sample_rate" "$root" "$data"
