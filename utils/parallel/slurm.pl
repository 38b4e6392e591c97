#!/usr/bin/env python3
"""Run jobs through Slurm as one array, and wait for them: Kaldi's slurm.pl.

    utils/slurm.pl --mem 4G --num-threads 4 JOB=1:8 exp/log/extract.JOB.log extract.sh --job JOB
    utils/slurm.pl --gpu 1 --max-jobs-run 2 --config conf/slurm.conf JOB=1:8 exp/log/x.JOB.log x.sh JOB

conf/slurm.conf, if there is one, says what the options mean on this site, in the language of DEFAULT below, where
$0 stands for the option's value. Options with one dash, such as -p gpu, go to sbatch. Each task sources path.sh, if
there is one, before the command. The script that was submitted and what Slurm said are kept in q/ beside the log.
launcher.py says what the log looks like.
"""

import sys

import launcher

DEFAULT = """\
command sbatch
option time=* --time=$0
option mem=* --mem=$0
option mem=0                 # whatever the partition gives
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
