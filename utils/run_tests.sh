#!/usr/bin/env bash
# Sets up the environment (see setup_env.sh) and runs the tests, on several processes unless you choose -n yourself.
#
# Usage: bash utils/run_tests.sh [--k2] [pytest arguments]
# Examples: bash utils/run_tests.sh -k plda -x
#           bash utils/run_tests.sh -m slow
#
# Tests that take long are left out, unless you choose by -m yourself.
# --k2: test with k2, under Python 3.9 and the torch that k2 was built for; exit with 77 if Python 3.9 is not installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Tests run the demo recipe, so its extra is complete before they start.
sdpn_k2_extra="demo,test"
if [ "${1:-}" = --k2 ]; then
  sdpn_k2_extra="demo,k2,test"
  shift
fi
# shellcheck source=utils/setup_env.sh
. utils/setup_env.sh
[ "$sdpn_k2_extra" = "demo,test" ] || python3 -c "import k2"

processes=(-n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder)
for argument; do
  case $argument in -n* | --numprocesses* | --pdb) processes=() ;; esac
done
# Processes that each use all cores would slow each other down.
if [ ${#processes[@]} -gt 0 ]; then export OMP_NUM_THREADS=1; fi
exec python3 -m pytest ${processes[@]+"${processes[@]}"} -m "not slow" "$@"
