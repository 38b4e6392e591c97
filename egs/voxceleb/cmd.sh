# How jobs are run: run.pl on this machine; slurm.pl and queue.pl (Grid Engine) on clusters, for example
#   export train_cmd="slurm.pl --mem 4G"; export cuda_cmd="slurm.pl --gpu 1"
export train_cmd="run.pl"
export cuda_cmd="run.pl --gpu 1"
