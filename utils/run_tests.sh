#!/usr/bin/env bash
# Sets up the environment (see setup_env.sh) and runs the tests.
#
# Usage: bash utils/run_tests.sh [--k2] [pytest arguments]      for example: bash utils/run_tests.sh -k plda -x
#
# --k2: with k2, under Python 3.9 and the torch that k2 was built for; exit status 77 where there is no Python 3.9.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
sdpn_k2_extra=test
if [ "${1:-}" = --k2 ]; then
  sdpn_k2_extra=k2,test
  shift
fi
. utils/setup_env.sh
[ "$sdpn_k2_extra" = test ] || python3 -c "import k2"
exec python3 -m pytest "$@"
