#!/usr/bin/env bash
# Checks with lhotse that the recordings and supervisions of every prepared set agree.
#
# Usage: local/validate_manifests.sh <data>
# Example: local/validate_manifests.sh data/demo
set -euo pipefail

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"
[ $# -eq 1 ] || { echo "Usage: $0 <data>" >&2; exit 1; }
data=$1

for set in train $(cat "$data/eval_sets"); do
  lhotse validate-pair "$data/manifests/recordings_$set.jsonl.gz" "$data/manifests/supervisions_$set.jsonl.gz"
done
