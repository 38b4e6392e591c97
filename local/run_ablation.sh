#!/usr/bin/env bash
# The paper's questions as one grid of trainings, each followed by extraction, cosine scoring and measuring: DINO; SDPN;
# without L_DR, without L_ME, with fixed prototypes; 64 to 1024 prototypes; 2 or 4 local crops; without augmentation; other
# dimension regularisations. Trainings that are done are skipped, what was stopped is taken up again.
#
# Usage (in egs/voxceleb, after run.sh --stop-stage 2): local/run_ablation.sh [options] <data> <out>
#  e.g.: local/run_ablation.sh --seeds 3 --nj 4 --cmd "slurm.pl --gpu 1" data/voxceleb exp/ablation
#
# Every training is one job of --cmd, an experiment folder <out>/<run>/seed<N>, and may be looked at with sdpn-k2 report.
# The end is <out>/ABLATION.md and <out>/ablation.html.
set -euo pipefail

config=conf/sdpn_small.yaml   # base configuration
config_set=                   # overrides of it, such as "train.steps=100 dino.num_outputs=4096"
seeds=2                       # trainings of each run
only=                         # runs, such as "sdpn dino"; default: all (see: sdpn-k2 ablate jobs)
nj=1                          # trainings at once
cmd=run.pl                    # job launcher
device=auto                   # cpu, cuda, auto

. ./path.sh
. utils/parse_options.sh
[ $# -eq 2 ] || { echo "Usage: $0 [options] <data> <out> (see --help)" >&2; exit 1; }
data=$1
out=$2

grid=(--config "$config" --seeds "$seeds")
for setting in $config_set; do grid+=(--set "$setting"); done
for run in $only; do grid+=(--only "$run"); done

count=$(sdpn-k2 ablate jobs "${grid[@]}" | wc -l)
mkdir -p "$out/log"
echo "$0: $count trainings, $nj at once; logs: $out/log/run.*.log"
failed=0
$cmd --max-jobs-run "$nj" JOB=1:"$count" "$out/log/run.JOB.log" \
  sdpn-k2 ablate run --job JOB --device "$device" "${grid[@]}" "$data" "$out" || failed=1
sdpn-k2 ablate table "${grid[@]}" "$data" "$out"
exit $failed
