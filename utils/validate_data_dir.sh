#!/usr/bin/env bash
# Checks a data directory; --help shows the usage. validate_data_dir.py does the work.
exec python3 "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/validate_data_dir.py" "$@"
