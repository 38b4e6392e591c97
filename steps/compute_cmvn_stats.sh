#!/usr/bin/env bash
# Computes the CMVN statistics of each speaker of a data directory, and writes cmvn.scp.
#
# Usage: steps/compute_cmvn_stats.sh [--fake] <data-dir> [<log-dir> [<cmvn-dir>]]
# Example: steps/compute_cmvn_stats.sh data/train exp/make_mfcc/train mfcc
#
# Reads feats.scp and spk2utt. Writes an archive into <cmvn-dir> (default: <data-dir>/data) and a log into <log-dir>
# (default: <data-dir>/log). With --fake, the statistics are those of mean 0 and variance 1, which normalise nothing.

# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
fake=false
if [ "${1:-}" = --fake ]; then
  fake=true
  shift
fi
case ${1:-} in
  --fake-dims | --two-channel)
    echo "compute_cmvn_stats.sh: $1 is not available: it needs Kaldi's own scripts and binaries" >&2
    exit 1 ;;
esac
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
export PATH=$PATH:$root/utils/kaldi-bin
if [ $# -lt 1 ] || [ $# -gt 3 ]; then
  echo "Usage: compute_cmvn_stats.sh [--fake] <data-dir> [<log-dir> [<cmvn-dir>]]; --help says more" >&2
  exit 1
fi
data=$1
logdir=${2:-$data/log}
cmvn_dir=${3:-$data/data}
name=$(basename "$data")

for file in "$data/feats.scp" "$data/spk2utt"; do
  [ -s "$file" ] || { echo "compute_cmvn_stats.sh: $file: no such file, or empty" >&2; exit 1; }
done
mkdir -p "$logdir" "$cmvn_dir"
cmvn=$(cd "$cmvn_dir" && pwd)/cmvn_$name
log=$logdir/cmvn_$name.log
if $fake; then
  dim=$(feat-to-dim --print-args=false "scp:$data/feats.scp" -)
  awk -v dim="$dim" '{
    zeros = ones = ""
    for (n = 0; n < dim; n++) { zeros = zeros "0 "; ones = ones "1 " }
    printf "%s [ %s1\n %s0 ]\n", $1, zeros, ones
  }' "$data/spk2utt" | copy-matrix ark:- "ark,scp:$cmvn.ark,$cmvn.scp" 2> "$log" && ok=true || ok=false
else
  compute-cmvn-stats "--spk2utt=ark:$data/spk2utt" "scp:$data/feats.scp" "ark,scp:$cmvn.ark,$cmvn.scp" \
    2> "$log" && ok=true || ok=false
fi
$ok || { tail -n 1 "$log" >&2; echo "compute_cmvn_stats.sh: cannot compute the statistics; see $log" >&2; exit 1; }
cp "$cmvn.scp" "$data/cmvn.scp"
made=$(wc -l < "$data/cmvn.scp")
speakers=$(wc -l < "$data/spk2utt")
if [ "$made" -ne "$speakers" ]; then
  echo "compute_cmvn_stats.sh: warning: $((speakers - made)) of $speakers speakers have no statistics; see $log" >&2
fi
echo "Succeeded creating CMVN stats for $name"
