#!/usr/bin/env bash
# Sourced: activates a Python environment in which sdpn_k2 runs, and makes it first where there is none.
#
# Usage: . utils/setup_env.sh               or, with extras of pyproject.toml:  sdpn_k2_extra=test; . utils/setup_env.sh
#
# Where the python3 on PATH has the package already, that one is used. Else .venv in the project is, made with
#   python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e .
# and made complete again whenever pyproject.toml or constraints.txt change.
#
# With the extra k2 (sdpn_k2_extra=k2 or k2,test) it is .venv-k2, 3.4 GB large, whose Python is 3.9: PyPI has k2 for no
# other. Where there is no Python 3.9, as python3.9 on PATH or in pyenv, the status is 77.

sdpn_k2_setup_env() {
  local root venv python extra want have
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  extra=${sdpn_k2_extra:-}
  venv=$root/.venv
  python=python3

  case ",$extra," in
    *,k2,*)
      venv=$root/.venv-k2
      # pyenv's own python3.9 on PATH runs only where that version is switched on.
      for python in python3.9 "$(pyenv root 2>/dev/null)"/versions/3.9.*/bin/python3.9 "$venv/bin/python3" ""; do
        "${python:-false}" -c "" 2>/dev/null && break
      done
      if [ -z "$python" ]; then
        echo "setup_env.sh: no Python 3.9 here (python3.9 on PATH, or in pyenv), so no k2" >&2
        return 77
      fi ;;
    *)
      # From another folder, so that a mere checkout in the current one does not count.
      if [ "${VIRTUAL_ENV:-}" != "$venv" ] && (cd / && python3 -c '
import importlib.metadata as metadata, importlib.util, sys
metadata.version("sdpn_k2")
sys.exit(len(sys.argv) > 1 and importlib.util.find_spec("pytest") is None)' $extra) 2>/dev/null; then
        return 0
      fi ;;
  esac

  want="$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)${extra:+ }$extra"
  have=$(cat "$venv/.installed" 2>/dev/null)
  # What an upgrade of the system's Python leaves behind does not start any more.
  [ -z "$have" ] || "$venv/bin/python3" -c "" 2>/dev/null || have=
  # An environment with an extra serves those who need none.
  if [ "$have" != "$want" ] && { [ -n "$extra" ] || [ "${have% *}" != "$want" ]; }; then
    echo "Setting up $venv (pip install -c constraints.txt -e .${extra:+[$extra]}); this is done once" >&2
    # Without pip it is not there, or is what a failed venv or a moved folder left.
    "$venv/bin/pip" --version > /dev/null 2>&1 || "$python" -m venv --clear "$venv" || return 1
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
      -c "$root/constraints.txt" -e "$root${extra:+[$extra]}" >&2 || {
      echo "setup_env.sh: pip could not install the package; its message stands above" >&2
      return 1
    }
    echo "$want" > "$venv/.installed"
  fi
  # shellcheck disable=SC1091
  . "$venv/bin/activate"
}

sdpn_k2_setup_env || {
  sdpn_k2_status=$?
  unset -f sdpn_k2_setup_env
  return "$sdpn_k2_status"
}
unset -f sdpn_k2_setup_env
