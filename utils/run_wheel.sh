#!/usr/bin/env bash
# Sets up the environment (see setup_env.sh), builds the source distribution and the wheel, installs the wheel into an
# empty environment, and runs the demo for 5 steps in a recipe folder outside the checkout.
#
# Usage: bash utils/run_wheel.sh [options] <work-dir>
# Example: bash utils/run_wheel.sh /tmp/wheel
#
# Writes into <work-dir>, which must be new or empty: dist/ (source distribution, and the wheel made of it), direct/ (the
# wheel made of the checkout), env/ (the environment), demo/ (the recipe). The environment sees the requirements of the
# one that setup_env.sh finds, to save minutes, but not its sdpn_k2.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

run_demo=true   # false: stop before the demo

# shellcheck source=utils/parse_options.sh
. "$root/utils/parse_options.sh"
[ $# -eq 1 ] || { echo "Usage: $0 [options] <work-dir> (see --help)" >&2; exit 1; }
mkdir -p "$1"
work=$(cd "$1" && pwd)
[ -z "$(ls -A "$work")" ] || { echo "$0: $work is not empty" >&2; exit 1; }

# shellcheck disable=SC2034  # setup_env.sh reads it
sdpn_k2_extra="demo,test"
# shellcheck source=utils/setup_env.sh
. "$root/utils/setup_env.sh"
unset PYTHONPATH

# Builds write into the folder that they run in, and would pack what recipes left in the checkout.
mkdir "$work"/{checkout,dist,direct}
(cd "$root" && git ls-files -z --cached --others --exclude-standard | xargs -0 tar -c --) | tar -x -C "$work/checkout"
cd "$work/checkout"
build=(python3 -m pip wheel --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation)
"${build[@]}" --wheel-dir "$work/direct" .
python3 -c 'import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])' "$work/dist" > "$work/sdist.log"
cd "$work"
"${build[@]}" --wheel-dir dist dist/*.tar.gz

# Requirements come in after the installation, since pip would see the other sdpn_k2 among them.
python3 -m venv --without-pip env
python3 -m pip --python env/bin/python3 install --quiet --disable-pip-version-check --no-index --no-deps dist/*.whl
folder='import sysconfig; print(sysconfig.get_path("purelib"))'
python3 -c "$folder" > "$(env/bin/python3 -c "$folder")/requirements.pth"
package=$(env/bin/python3 -c 'import sdpn_k2; print(sdpn_k2.__file__)')
case $package in
  "$work"/env/*) echo "Installed $package" ;;
  *) echo "$0: $package is not the wheel's" >&2; exit 1 ;;
esac

if $run_demo; then
  env/bin/sdpn-k2 recipe demo
  bash demo/run.sh --config-set "train.steps=5 train.batch_size=32"
  cat demo/exp/demo/RESULTS.md
fi
