#!/usr/bin/env python3
"""Run jobs through a grid engine (SGE, UGE) as one array and wait for them, like Kaldi's queue.pl.

Usage: utils/queue.pl [options] [JOB=first:last] log command ...

    utils/queue.pl --mem 4G --num-threads 4 JOB=1:8 exp/log/extract.JOB.log extract.sh --job JOB
    utils/queue.pl -l arch=lx-amd64 --gpu 1 --max-jobs-run 2 JOB=1:8 exp/log/x.JOB.log x.sh JOB

  --mem X, --num-threads N, --gpu N, --max-jobs-run N, ...  resources, which conf/queue.conf translates for this site
  --config FILE  the site's configuration (default: conf/queue.conf if it exists, else DEFAULT below)

In the configuration, $0 stands for the value of an option. Options with one dash, such as -l ram_free=4G, go to qsub.
Each task sources path.sh, if it exists, before the command. The folder q/ beside the log keeps the submitted script and
the output of the grid. launcher.py describes the log.
"""

import sys

import launcher

DEFAULT = """\
command qsub -v PATH -cwd -S /bin/bash -j y
option mem=* -l mem_free=$0,ram_free=$0
option mem=0                 # the queue's default
option num_threads=* -pe smp $0
option num_threads=1
option max_jobs_run=* -tc $0
option gpu=* -l gpu=$0 -q g.q
option gpu=0
"""

SGE = launcher.Grid(
    config="conf/queue.conf",
    default_config=DEFAULT,
    array="-t {first}-{last}",
    output=["-o", "{output}"],
    task="SGE_TASK_ID",
    submitted=r"Your job(?:-array)? (\d+)",
    alive=["qstat", "-j", "{id}"],
    gone="do not exist",
    cancel=["qdel", "{id}"],
)

if __name__ == "__main__":
    sys.exit(launcher.main(lambda launch: launcher.run_on_grid(launch, SGE)))
