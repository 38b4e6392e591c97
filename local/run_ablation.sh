#!/usr/bin/env bash
# Answers the paper's questions with a grid of trainings, each followed by extraction, cosine scoring and evaluation.
#
# Usage: local/run_ablation.sh [options] <data> <out>
# Example: local/run_ablation.sh --seeds 3 --nj 4 --cmd "slurm.pl --gpu 1" data/voxceleb exp/ablation
#
# Run it in egs/voxceleb after run.sh --stop-stage 2. The grid compares DINO; SDPN; SDPN without L_DR, without L_ME and
# with fixed prototypes; 64 to 1024 prototypes; 2 or 4 local crops; no augmentation; and other dimension
# regularisations. Finished trainings are skipped, and stopped ones resume. Each training is one job of --cmd and leaves
# an experiment folder <out>/<run>/seed<N>, which sdpn-k2 report can show. At the end, <out>/ABLATION.md and
# <out>/ablation.html compare them all.
set -euo pipefail

config=conf/sdpn_small.yaml   # base configuration
config_set=                   # overrides of the configuration, such as "train.steps=100 dino.num_outputs=4096"
seeds=2                       # trainings of each run
only=                         # runs to train, such as "sdpn dino" (default: all that sdpn-k2 ablate jobs lists)
nj=1                          # parallel trainings
cmd=run.pl                    # job launcher
device=auto                   # cpu, cuda or auto

# shellcheck disable=SC1091  # the caller's
[ ! -f ./path.sh ] || . ./path.sh
# shellcheck source=utils/parse_options.sh
. "$(dirname "$(readlink -f "$0")")/../utils/parse_options.sh"
[ $# -eq 2 ] || { echo "Usage: $0 [options] <data> <out> (see --help)" >&2; exit 1; }
data=$1
out=$2
PATH=$PATH:$(dirname "$(readlink -f "$0")")/../utils
# shellcheck source=utils/quoting.sh
. "$(dirname "$(readlink -f "$0")")/../utils/quoting.sh"

grid=(--config "$config" --seeds "$seeds")
for setting in $config_set; do grid+=(--set "$setting"); done
for run in $only; do grid+=(--only "$run"); done

count=$(sdpn-k2 ablate jobs "${grid[@]}" | wc -l)
mkdir -p "$out/log"
echo "$0: $count trainings, $nj at once; logs: $out/log/run.*.log"
failed=0
quote_words sdpn-k2 ablate run --job JOB --device "$device" "${grid[@]}" "$data" "$out"
$cmd --max-jobs-run "$nj" JOB=1:"$count" "$out/log/run.JOB.log" "${quoted_words[@]}" || failed=1
sdpn-k2 ablate table "${grid[@]}" "$data" "$out"
exit $failed
