#!/usr/bin/env bash
# Prints a segments file for a data directory without one: each recording is one segment of full length.
#
# Usage: utils/data/get_segments_for_data.sh <data-dir> > segments
# Example: utils/data/get_segments_for_data.sh data/train > data/train/segments
#
# The durations come from utt2dur, which utils/data/get_utt2dur.sh makes if it is missing.

# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../../utils/parse_options.sh"

set -euo pipefail
if [ $# -ne 1 ]; then
  echo "Usage: get_segments_for_data.sh <data-dir>; --help says more" >&2
  exit 1
fi
data=$1

[ -s "$data/utt2dur" ] || "$(dirname "$(readlink -f "$0")")/get_utt2dur.sh" "$data" >&2
awk '{ print $1, $1, 0, $2 }' "$data/utt2dur"
