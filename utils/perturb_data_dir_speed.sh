#!/usr/bin/env bash
# Writes a copy of a data directory whose speech is faster or slower; --help shows the usage. perturb_data_dir_speed.py
# does the work.
exec python3 "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/perturb_data_dir_speed.py" "$@"
