#!/usr/bin/env bash
# Splits a data directory into parts for parallel jobs; --help shows the usage. split_data.py does the work.
exec python3 "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/split_data.py" "$@"
