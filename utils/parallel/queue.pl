#!/usr/bin/env python3
"""Run jobs through a grid engine (SGE, UGE) as one array, and wait for them: Kaldi's queue.pl.

    utils/queue.pl --mem 4G --num-threads 4 JOB=1:8 exp/log/extract.JOB.log extract.sh --job JOB
    utils/queue.pl -l arch=lx-amd64 --gpu 1 --max-jobs-run 2 JOB=1:8 exp/log/x.JOB.log x.sh JOB

conf/queue.conf, if there is one, says what the options mean on this site, in the language of DEFAULT below, where
$0 stands for the option's value. Options with one dash, such as -l ram_free=4G, go to qsub. Each task sources
path.sh, if there is one, before the command. The script that was submitted and what the grid said are kept in q/
beside the log. launcher.py says what the log looks like.
"""

import sys

import launcher

DEFAULT = """\
command qsub -v PATH -cwd -S /bin/bash -j y
option mem=* -l mem_free=$0,ram_free=$0
option mem=0                 # whatever the queue gives
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
