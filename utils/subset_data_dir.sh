#!/usr/bin/env bash
# Writes a data directory with some of the utterances of another; --help shows the usage. subset_data_dir.py does the work.
exec python3 "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/subset_data_dir.py" "$@"
