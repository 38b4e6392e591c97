#!/usr/bin/env bash
# Prints the absolute name of a file or folder, with all links resolved.
#
# Usage: utils/make_absolute.sh <file-or-folder>
# Example: data=$(utils/make_absolute.sh data/train)

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/parse_options.sh"

set -euo pipefail
if [ $# -ne 1 ]; then
  echo "Usage: make_absolute.sh <file-or-folder>" >&2
  exit 1
fi
readlink -f -- "$1" || { echo "make_absolute.sh: $1: its folder does not exist" >&2; exit 1; }
