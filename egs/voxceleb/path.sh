# shellcheck shell=bash
# Sourced by recipes, from any folder: activates the environment and puts utils, steps, sid and the tools on PATH.
# On first use, if the python3 on PATH does not have the package, pip downloads it into .venv (see utils/setup_env.sh).
# With sdpn_k2_extra=demo, the environment has that extra of pyproject.toml, too.
# Set KALDI_ROOT to use a real Kaldi: its binaries take precedence over our drop-ins.
sdpn_k2_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=utils/setup_env.sh
. "$sdpn_k2_root/utils/setup_env.sh" || return 1

case ":$PATH:" in
  *":$sdpn_k2_root/utils/kaldi-bin:"*) ;;
  *)
    if [ -n "${KALDI_ROOT:-}" ] && [ -f "$KALDI_ROOT/tools/config/common_path.sh" ]; then
      # shellcheck disable=SC1091  # Kaldi's
      . "$KALDI_ROOT/tools/config/common_path.sh"
    fi
    PATH="$sdpn_k2_root/utils:$sdpn_k2_root/utils/parallel:$PATH:$sdpn_k2_root/utils/kaldi-bin"
    # The steps of other recipes come first.
    export PATH="$PATH:$sdpn_k2_root/steps:$sdpn_k2_root/sid:$sdpn_k2_root/sid/nnet3/xvector"
    ;;
esac
export LC_ALL=C
# Threads that wait must not take time from other processes.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
