#!/usr/bin/env bash
# Prepares VoxCeleb: VoxCeleb2-dev for training (without its labels), VoxCeleb1 and its trial lists for evaluation.
#
# Usage: local/prepare_voxceleb.sh [options] <voxceleb1-root> <voxceleb2-root> <data>
# Example: local/prepare_voxceleb.sh --musan-root /corpora/musan /corpora/vox1 /corpora/vox2 data/voxceleb
#
# Files may lie at any depth, such as .../id10270/5r0dWxy17C8/00001.wav (or .m4a, which ffmpeg decodes). The published
# trial lists are veri_test.txt, veri_test2.txt and list_test_{all,all2,hard,hard2}.txt. Those that exist become
# <data>/vox1/trials_{o,o_cleaned,e,e_cleaned,h,h_cleaned}.
set -euo pipefail

nj=$(nproc)     # threads
sample_rate=16000  # Hz; audio at other rates is resampled on reading
max_bad=5       # give up if more than this percentage of a set cannot be used
trials_dir=     # folder of the trial lists (default: anywhere under <voxceleb1-root>)
musan_root=     # optional: MUSAN
rirs_root=      # optional: RIRS_NOISES

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"
[ $# -eq 3 ] || { echo "Usage: $0 [options] <voxceleb1-root> <voxceleb2-root> <data> (see --help)" >&2; exit 1; }

sdpn-k2 prepare voxceleb --nj "$nj" --sample-rate "$sample_rate" --max-bad "$max_bad" ${trials_dir:+--trials-dir "$trials_dir"} \
  ${musan_root:+--musan-root "$musan_root"} ${rirs_root:+--rirs-root "$rirs_root"} "$1" "$2" "$3"
"$(dirname "$(readlink -f "$0")")/validate_manifests.py" "$3"
