#!/usr/bin/env bash
# Writes a data directory whose utterances are pieces of another's; --help shows the usage. subsegment_data_dir.py does the work.
exec python3 "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/subsegment_data_dir.py" "$@"
