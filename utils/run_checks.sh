#!/usr/bin/env bash
# Sets up the environment (see setup_env.sh) and checks style, types and shell scripts.
#
# Usage: bash utils/run_checks.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck disable=SC2034  # setup_env.sh reads it
sdpn_k2_extra="lint"
# shellcheck source=utils/setup_env.sh
. utils/setup_env.sh

failed=0
ruff check . || failed=1
ruff format --check . || failed=1
mypy || failed=1
find .ci diarization egs local sid steps utils -type f \( -name '*.sh' -o -path .ci/run \) -exec shellcheck -x {} + || failed=1
exit $failed
