#!/usr/bin/env python3
"""Run jobs through Slurm as one array and wait for them, like Kaldi's slurm.pl.

Usage: utils/slurm.pl [options] [JOB=first:last] log command ...

    utils/slurm.pl --mem 4G --num-threads 4 JOB=1:8 exp/log/extract.JOB.log extract.sh --job JOB
    utils/slurm.pl --gpu 1 --max-jobs-run 2 --config conf/slurm.conf JOB=1:8 exp/log/x.JOB.log x.sh JOB

  --mem X, --num-threads N, --gpu N, --max-jobs-run N, ...  resources, which conf/slurm.conf translates for this site
  --config FILE  the site's configuration (default: conf/slurm.conf if it exists, else DEFAULT below)

In the configuration, $0 stands for the value of an option. Options with one dash, such as -p gpu, go to sbatch.
Each task sources path.sh, if it exists, before the command. The folder q/ beside the log keeps the submitted script and
the output of Slurm. launcher.py describes the log.
"""

import sys

import launcher

DEFAULT = """\
command sbatch
option time=* --time=$0
option mem=* --mem=$0
option mem=0                 # the partition's default
option num_threads=* --cpus-per-task=$0
option gpu=* --gres=gpu:$0
option gpu=0
"""

SLURM = launcher.Grid(
    config="conf/slurm.conf",
    default_config=DEFAULT,
    array="--array={first}-{last}{limit}",
    output=["--output={output}", "--open-mode=append"],
    task="SLURM_ARRAY_TASK_ID",
    submitted=r"Submitted batch job (\d+)",
    alive=["squeue", "--noheader", "--jobs={id}"],
    gone="Invalid job id",
    cancel=["scancel", "{id}"],
)

if __name__ == "__main__":
    sys.exit(launcher.main(lambda launch: launcher.run_on_grid(launch, SLURM)))
