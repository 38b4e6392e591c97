#!/usr/bin/env bash
# Writes one data directory with the utterances of several; --help shows the usage. combine_data.py does the work.
exec python3 "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/combine_data.py" "$@"
