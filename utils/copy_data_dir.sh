#!/usr/bin/env bash
# Copies a data directory, optionally with new utterance and speaker ids; --help shows the usage. copy_data_dir.py does the work.
exec python3 "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/copy_data_dir.py" "$@"
