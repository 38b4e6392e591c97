#!/usr/bin/env bash
# Changes the volume of each recording of a data directory; --help shows the usage. perturb_data_dir_volume.py does the
# work.
exec python3 "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/perturb_data_dir_volume.py" "$@"
