# Sourced by recipes: activates the environment (made on first use) and puts the tools on PATH.
# Set KALDI_ROOT to use a real Kaldi: its binaries win over our drop-ins.
sdpn_k2_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$sdpn_k2_root/utils/setup_env.sh" || return 1

case ":$PATH:" in
  *":$sdpn_k2_root/utils/kaldi-bin:"*) ;;
  *)
    if [ -n "${KALDI_ROOT:-}" ] && [ -f "$KALDI_ROOT/tools/config/common_path.sh" ]; then
      . "$KALDI_ROOT/tools/config/common_path.sh"
    fi
    export PATH="$sdpn_k2_root/utils:$sdpn_k2_root/utils/parallel:$PATH:$sdpn_k2_root/utils/kaldi-bin"
    ;;
esac
export LC_ALL=C
