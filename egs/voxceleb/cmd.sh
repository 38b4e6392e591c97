# shellcheck shell=bash
# How to run jobs: run.pl on this machine, slurm.pl or queue.pl (Grid Engine) on a cluster, for example
#   export train_cmd="slurm.pl --mem 4G"
# Extraction on GPUs adds --gpu 1. Training (stage 3) runs where run.sh runs.
export train_cmd="run.pl"
