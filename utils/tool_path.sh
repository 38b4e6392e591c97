# shellcheck shell=sh disable=SC2154  # the caller sets the variables
# Sourced by path.sh, and through sdpn-k2 kaldi --path: puts the tools and scripts on PATH.
#
#   sdpn_k2_root   folder of utils/
#   sdpn_k2_bin    folder of the python3 and sdpn-k2 to use (empty: those on PATH)
#
# Kaldi's own binaries on PATH take precedence over our drop-ins, and so do those of a real Kaldi in KALDI_ROOT.
if [ -n "$sdpn_k2_bin" ]; then
  if [ ! -x "$sdpn_k2_bin/python3" ] || [ ! -x "$sdpn_k2_bin/sdpn-k2" ]; then
    echo "tool_path.sh: $sdpn_k2_bin has no python3 with sdpn-k2 beside it any more: install sdpn_k2 there, or set" \
      "sdpn_k2_bin in path.sh" >&2
    return 1
  fi
  if [ "$(command -v python3)" != "$sdpn_k2_bin/python3" ] || [ "$(command -v sdpn-k2)" != "$sdpn_k2_bin/sdpn-k2" ]; then
    PATH=$sdpn_k2_bin:$PATH
  fi
fi
case ":$PATH:" in
  *":$sdpn_k2_root/utils/kaldi-bin:"*) ;;
  *)
    if [ -n "${KALDI_ROOT:-}" ] && [ -f "$KALDI_ROOT/tools/config/common_path.sh" ]; then
      # shellcheck disable=SC1091  # Kaldi's
      . "$KALDI_ROOT/tools/config/common_path.sh"
    fi
    PATH=$sdpn_k2_root/utils:$sdpn_k2_root/utils/parallel:$PATH
    # Not egs/: ". path.sh" looks on PATH before it looks in the current folder.
    for sdpn_k2_folder in utils/kaldi-bin utils/data steps steps/data sid sid/nnet3/xvector \
      diarization diarization/nnet3/xvector local; do
      if [ -d "$sdpn_k2_root/$sdpn_k2_folder" ]; then PATH=$PATH:$sdpn_k2_root/$sdpn_k2_folder; fi
    done
    unset sdpn_k2_folder
    ;;
esac
SDPN_K2_ROOT=$sdpn_k2_root
export PATH SDPN_K2_ROOT
