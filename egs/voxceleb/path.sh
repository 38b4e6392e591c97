# shellcheck shell=bash
# Sourced by recipes, from any folder: finds the environment, and puts utils, steps, sid and the tools on PATH.
# In a checkout, if the python3 on PATH does not have the package, setup_env.sh has pip download it into .venv on first
# use; with sdpn_k2_extra=demo, that has this extra of pyproject.toml, too.
# Set KALDI_ROOT to use a real Kaldi: its binaries take precedence over our drop-ins.
sdpn_k2_bin=  # folder of the python3 and sdpn-k2 to use (empty: setup_env.sh chooses)
# utils is a link to the checkout's or the installed package's, or a copy.
sdpn_k2_root=$(dirname "$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/utils")")
if [ -z "$sdpn_k2_bin" ]; then
  # shellcheck source=utils/setup_env.sh
  . "$sdpn_k2_root/utils/setup_env.sh" || return 1
fi
# shellcheck source=utils/tool_path.sh
. "$sdpn_k2_root/utils/tool_path.sh" || return 1

export LC_ALL=C
# Threads that wait must not take time from other processes.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
