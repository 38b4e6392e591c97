#!/usr/bin/env bash
# Repairs a data directory; --help shows the usage. fix_data_dir.py does the work.
exec python3 "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/fix_data_dir.py" "$@"
