# shellcheck shell=bash
# Sourced: activates a Python environment that has sdpn_k2, and makes it on first use.
#
# Usage: . utils/setup_env.sh
# With extras of pyproject.toml: sdpn_k2_extra=test,lint; . utils/setup_env.sh
#
# If the python3 on PATH has the package and the extras, the script leaves it as it is. Otherwise it activates .venv in
# the project, which it makes with
#   python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e .
# and updates when pyproject.toml or constraints.txt change, or an extra is missing.
#
# With the extra k2 (such as sdpn_k2_extra=k2,test) the environment is .venv-k2 (3.4 GB). It needs Python 3.9, the only
# version for which PyPI has k2, as python3.9 on PATH or in pyenv. Without it, the status is 77.

sdpn_k2_setup_env() {
  local root venv python extra all wanted sum="" installed="" extras=${sdpn_k2_extra:-}
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  venv=$root/.venv
  python=python3

  case ",$extras," in
    *,k2,*)
      venv=$root/.venv-k2
      # pyenv's python3.9 on PATH only runs while that version is active.
      for python in python3.9 "$(pyenv root 2>/dev/null)"/versions/3.9.*/bin/python3.9 "$venv/bin/python3" ""; do
        "${python:-false}" -c "" 2>/dev/null && break
      done
      if [ -z "$python" ]; then
        echo "setup_env.sh: k2 needs Python 3.9; put python3.9 on PATH, or install it with pyenv" >&2
        return 77
      fi ;;
    *)
      # From another folder, so that a mere checkout in the current one does not count.
      if [ "${VIRTUAL_ENV:-}" != "$venv" ] && (cd / && python3 -c '
import importlib.metadata as metadata, re, sys
for requirement in metadata.requires("sdpn_k2"):
    name, _, marker = requirement.partition(";")
    extra = re.search(r"extra == .(\w+)", marker)
    if extra and extra[1] in sys.argv[1].split(",") and "python_version" not in marker:
        metadata.version(re.match(r"[\w.-]+", name)[0])' "$extras") 2>/dev/null; then
        return 0
      fi ;;
  esac

  if [ ! -f "$root/pyproject.toml" ]; then
    echo "setup_env.sh: $root belongs to an installed package, but the python3 on PATH has no sdpn_k2: set sdpn_k2_bin" \
      "in path.sh, or make a new recipe with sdpn-k2 recipe" >&2
    return 1
  fi
  wanted=$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)
  # After an upgrade of the system's Python, the environment may not start any more.
  if [ -f "$venv/.installed" ] && "$venv/bin/python3" -c "" 2>/dev/null; then
    { read -r sum; read -r installed; } < "$venv/.installed"
  fi
  # Installed extras stay.
  all=$installed
  for extra in ${extras//,/ }; do
    case ",$all," in *",$extra,"*) ;; *) all=${all:+$all,}$extra ;; esac
  done
  if [ "$sum" != "$wanted" ] || [ "$installed" != "$all" ]; then
    echo "Setting up $venv (pip install -c constraints.txt -e .${all:+[$all]}), once" >&2
    # Without pip, the environment is new, or the remains of a failed venv or a moved folder.
    "$venv/bin/pip" --version > /dev/null 2>&1 || "$python" -m venv --clear "$venv" || return 1
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
      -c "$root/constraints.txt" -e "$root${all:+[$all]}" >&2 || {
      echo "setup_env.sh: pip cannot install the package; see its message above" >&2
      return 1
    }
    printf '%s\n%s\n' "$wanted" "$all" > "$venv/.installed"
  fi
  # shellcheck disable=SC1091  # pip's
  . "$venv/bin/activate"
}

sdpn_k2_setup_env || {
  sdpn_k2_status=$?
  unset -f sdpn_k2_setup_env
  return "$sdpn_k2_status"
}
unset -f sdpn_k2_setup_env
