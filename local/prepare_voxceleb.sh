#!/usr/bin/env bash
# Prepares VoxCeleb: VoxCeleb2-dev to train on (labels unused), VoxCeleb1 with its trial lists to evaluate on.
#
# Usage: local/prepare_voxceleb.sh [options] <voxceleb1-root> <voxceleb2-root> <data>
#   Files may lie at any depth, as .../id10270/5r0dWxy17C8/00001.wav (or .m4a, then read through ffmpeg).
#   Trial lists are files as published: veri_test.txt, veri_test2.txt, list_test_{all,all2,hard,hard2}.txt;
#   those that are there become <data>/vox1/trials_{o,o_cleaned,e,e_cleaned,h,h_cleaned}.
set -euo pipefail

nj=$(nproc)     # threads
max_bad=5       # per cent of unusable audio, per set, above which to give up
trials_dir=     # folder of the trial lists (default: anywhere under <voxceleb1-root>)
musan_root=     # optional: MUSAN
rirs_root=      # optional: RIRS_NOISES

. utils/parse_options.sh
[ $# -eq 3 ] || { echo "Usage: $0 [options] <voxceleb1-root> <voxceleb2-root> <data> (see --help)" >&2; exit 1; }

sdpn-k2 prepare voxceleb --nj "$nj" --max-bad "$max_bad" ${trials_dir:+--trials-dir "$trials_dir"} \
  ${musan_root:+--musan-root "$musan_root"} ${rirs_root:+--rirs-root "$rirs_root"} "$1" "$2" "$3"
local/validate_manifests.sh "$3"
