#!/usr/bin/env bash
# Prints the EER and minDCF of a score file, as Kaldi's tools compute them.
#
# Usage: local/kaldi_metrics.sh [options] <trials> <scores>
# Example: local/kaldi_metrics.sh data/test/trials exp/scores/test/trials.cosine
set -euo pipefail

p_target=0.01   # prior probability of the target speaker, for minDCF

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"
[ $# -eq 2 ] || { echo "Usage: $0 [options] <trials> <scores> (see --help)" >&2; exit 1; }
trials=$1
scores=$2
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
PATH=$PATH:$root/utils/kaldi-bin

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if eer=$(compute-eer <("$root/local/prepare_for_eer.py" "$trials" "$scores") 2> "$log") \
    && min_dcf=$("$root/sid/compute_min_dcf.py" --p-target "$p_target" "$scores" "$trials" 2>> "$log"); then
  echo "$scores: EER $eer %, minDCF($p_target) $min_dcf"
else
  cat "$log" >&2
  echo "$0: cannot measure $scores with $trials" >&2
  exit 1
fi
